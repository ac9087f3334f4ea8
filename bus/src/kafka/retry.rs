//! Retries: a durable copy at the end of the consumer's own topic, which the same group consumes.
//!
//! The copy is confirmed before its source is settled. A crash between the two leaves both, and
//! the message is delivered for each: at least once, as ever. The copy goes to the partition of
//! its source's number, so that a key stays with one member.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _};

use super::desk::Copy;
use super::entry::nanos;
use super::lease::Record;
use super::publisher::{Content, To};
use super::record::headers;
use super::sequence::Place;
use super::shared::Shared;
use super::token::Slot;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// What the message was before it was copied:
/// `<epoch> <attempts> <sequence> <nanoseconds since 1970>`. Keep stable: it is stored.
const RETRY: &str = "Lg-Retry";

/// The topic of a consumer's retries. Keep stable: it is stored.
pub(super) fn topic(stream: &str, consumer: &str) -> String {
    format!("{stream}.{consumer}.retry")
}

/// Copies a message to the retry topic; returns its place there when it is durable.
pub(super) async fn copy(shared: &Shared, copy: &Copy) -> Result<Slot> {
    let Copy { slot, message, attempts, delay, .. } = copy;
    let again = Message {
        subject: message.subject.clone(),
        key: message.key.clone(),
        headers: message.headers.clone(),
        payload: message.payload.clone(),
        id: None,
        expect: None,
        not_before: SystemTime::now().checked_add(*delay),
        rollup: false,
    };
    let epoch = shared.entry()?.epoch;
    let was = format!("{epoch} {attempts} {} {}", message.sequence, nanos(message.timestamp));
    let subject = again.subject.as_str();
    let headers = headers(&again, Some(subject))?.insert(Header { key: RETRY, value: Some(&was) });
    let partitions = shared.of.declared.config.partitions;
    let topic = shared.of.topic((true, slot.partition));
    let to = To { topic, partition: slot.partition, partitions, takes: u32::MAX };
    let (key, value) = (again.key.as_deref(), again.payload.as_deref());
    let content = Content { key, value, headers: Some(headers) };
    let receipt = shared.publisher.submit(to, content).await?;
    let receipt = receipt.await.map_err(|_| super::threads::closed())??;
    let place = Place::of(receipt.sequence, partitions)
        .ok_or_else(|| Error::new(ErrorKind::Backend, "the broker stored a retry at no offset"))?;
    Ok(Slot { retry: true, partition: place.partition, offset: place.offset })
}

/// The message that a retry is a copy of; nothing where it is a retry of an earlier life of the
/// consumer, or none at all.
pub(super) fn read(copy: &BorrowedMessage<'_>, mut found: Record, epoch: u64) -> Option<Record> {
    // The client library panics at a header whose name is not UTF-8, which anybody may write.
    let was = catch_unwind(AssertUnwindSafe(|| {
        let header = copy.headers()?.iter().find(|header| header.key == RETRY)?;
        std::str::from_utf8(header.value?).ok().map(str::to_owned)
    }));
    let (of, attempts, sequence, timestamp) = parse(&was.ok()??)?;
    if of != epoch {
        return None;
    }
    found.attempts = attempts;
    (found.message.sequence, found.message.timestamp) = (sequence, timestamp);
    Some(found)
}

fn parse(was: &str) -> Option<(u64, u32, u64, SystemTime)> {
    let mut words = was.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (epoch, attempts, sequence) = (number()?, u32::try_from(number()?).ok()?, number()?);
    let timestamp = UNIX_EPOCH.checked_add(Duration::from_nanos(number()?))?;
    Some((epoch, attempts, sequence, timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_retry_was_is_read_back_and_nothing_else() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_795_000_000_123_000_000);
        assert_eq!(parse("7 2 41 1795000000123000000"), Some((7, 2, 41, time)));
        for other in ["", "7", "7 2 41", "7 2 x 5", "7 -2 41 5", "7 4294967296 41 5"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }
}
