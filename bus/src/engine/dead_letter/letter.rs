//! A dead letter: the original, and headers that say where it died and of what.

use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Origin, REDRIVE_TO, subject};
use crate::error::Result;
use crate::message::{Message, StoredMessage};
use crate::name::{StreamName, Subject};

const PREFIX: &str = "Dead-Letter-";
const REASON: &str = "Dead-Letter-Reason";
const STREAM: &str = "Dead-Letter-Stream";
const SUBJECT: &str = "Dead-Letter-Subject";
const SEQUENCE: &str = "Dead-Letter-Sequence";
const CONSUMER: &str = "Dead-Letter-Consumer";
const ATTEMPTS: &str = "Dead-Letter-Attempts";
const TIME: &str = "Dead-Letter-Time";

/// Reasons are for people: a handler that fails with a whole document is cut short.
const MOST_REASON_BYTES: usize = 512;

/// A message that a consumer gives up.
#[derive(Clone, Copy)]
pub(crate) struct GivenUp<'a> {
    pub(crate) origin: &'a Origin,
    pub(crate) message: &'a StoredMessage,
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
}

/// A message that was given up, as the dead letters keep it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # bus.ensure_stream(&bus::StreamConfig::dead_letters(bus::StreamName::new("dead")?)).await?;
/// # let billing = bus.consumer("orders", "billing").dead_letters("dead").open().await?;
/// # orders.publish(bus::Message::new("orders.created", "forty-two")?).await?;
/// # for delivery in billing.fetch(1, std::time::Duration::from_secs(1)).await? {
/// #     delivery.dead_letter("the price is not a number").await?;
/// # }
/// let letter = bus.dead_letters("dead").await?.list(None, 1).await?.remove(0);
/// assert_eq!((letter.sequence, letter.reason.as_str()), (1, "the price is not a number"));
///
/// // What was published, to look at or to publish again.
/// let original = letter.original()?;
/// assert_eq!(original.subject.as_str(), "orders.created");
/// assert_eq!(original.payload.as_deref(), Some(&b"forty-two"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Who gave it up.
    pub origin: Origin,
    /// Its subject there.
    pub subject: Subject,
    /// Its sequence there.
    pub sequence: u64,
    /// When the stream had taken it there.
    pub published: SystemTime,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it was given up: at most 512 bytes on one line.
    pub reason: String,
    /// The copy as the dead-letter stream holds it: key, body, the original headers and those of
    /// the dead letter. Its time is when the message was given up.
    pub copy: StoredMessage,
}

/// The copy that goes to the dead letters.
pub(super) fn copy(dead: &StreamName, given_up: &GivenUp<'_>) -> Result<Message> {
    let GivenUp { origin, message, attempts, reason } = *given_up;
    let mut copy = Message::tombstone(subject(dead, origin)?)?;
    (copy.key, copy.payload) = (message.key.clone(), message.payload.clone());
    copy.headers = message.headers.clone();
    // It would send the copy past whoever reads the dead letters.
    copy.headers.remove(REDRIVE_TO);
    for (name, value) in [
        (REASON, carriable(reason)),
        (STREAM, origin.stream.to_string()),
        (SUBJECT, carriable_whole(message.subject.as_str())),
        (SEQUENCE, message.sequence.to_string()),
        (CONSUMER, origin.consumer.to_string()),
        (ATTEMPTS, attempts.to_string()),
        (TIME, written(message.timestamp)),
    ] {
        copy.headers.set(name, value)?;
    }
    Ok(copy)
}

impl DeadLetter {
    /// Reads a copy; `None` when its headers do not say where it comes from.
    pub fn parse(copy: StoredMessage) -> Option<Self> {
        let header = |name| copy.headers.get(name);
        Some(Self {
            origin: Origin::new(header(STREAM)?, header(CONSUMER)?).ok()?,
            subject: Subject::received(header(SUBJECT)?),
            sequence: header(SEQUENCE)?.parse().ok()?,
            published: read(header(TIME)?)?,
            attempts: header(ATTEMPTS)?.parse().ok()?,
            reason: header(REASON)?.to_owned(),
            copy,
        })
    }

    /// The message as it was published, with a header that addresses it to the consumer that gave
    /// it up.
    pub fn original(&self) -> Result<Message> {
        let mut headers = crate::Headers::new();
        for (name, value) in self.copy.headers.entries() {
            let ours = name.get(..PREFIX.len()).is_some_and(|p| p.eq_ignore_ascii_case(PREFIX));
            if !ours {
                headers.append_received(name, value.cloned());
            }
        }
        headers.set(REDRIVE_TO, self.origin.consumer.to_string())?;
        Ok(Message {
            subject: self.subject.clone(),
            key: self.copy.key.clone(),
            headers,
            payload: self.copy.payload.clone(),
            id: None,
            expect: None,
            not_before: None,
            rollup: false,
        })
    }
}

/// Text as every backend carries it in a header: one line, no white space at its ends, not empty,
/// not long.
fn carriable(text: &str) -> String {
    let text = carriable_whole(text);
    let mut end = text.len().min(MOST_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = text.get(..end).unwrap_or_default().trim();
    if cut.is_empty() { String::from("no reason given") } else { cut.to_owned() }
}

fn carriable_whole(text: &str) -> String {
    text.replace(char::is_control, " ").trim().to_owned()
}

fn written(time: SystemTime) -> String {
    // Years beyond 9999 cannot be written, and were not the time of anything.
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| String::from("unknown"))
}

fn read(time: &str) -> Option<SystemTime> {
    match time {
        "unknown" => Some(SystemTime::UNIX_EPOCH),
        time => OffsetDateTime::parse(time, &Rfc3339).ok().map(SystemTime::from),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn message(payload: Option<&'static str>) -> StoredMessage {
        let mut headers = crate::Headers::new();
        headers.append("trace", "a").unwrap();
        headers.append("trace", "b").unwrap();
        headers.append(REDRIVE_TO, "somebody").unwrap();
        StoredMessage {
            sequence: 7,
            timestamp: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            subject: Subject::new("orders.created").unwrap(),
            key: Some("k".into()),
            headers,
            payload: payload.map(Into::into),
        }
    }

    fn stored(copy: Message) -> StoredMessage {
        let Message { subject, key, headers, payload, .. } = copy;
        StoredMessage { sequence: 1, timestamp: SystemTime::now(), subject, key, headers, payload }
    }

    #[test]
    fn a_copy_says_where_it_comes_from_and_gives_the_original_back() {
        let (dead, origin) = (StreamName::new("dead").unwrap(), Origin::new("s", "c").unwrap());
        for payload in [Some("body"), Some(""), None] {
            let message = message(payload);
            let given_up =
                GivenUp { origin: &origin, message: &message, attempts: 3, reason: "no" };
            let copy = copy(&dead, &given_up).unwrap();
            assert_eq!(copy.subject.as_str(), "dead.s.c");
            assert_eq!(copy.headers.get(TIME), Some("2023-11-14T22:13:20.123Z"));
            assert_eq!(copy.headers.get(REDRIVE_TO), None);
            let letter = DeadLetter::parse(stored(copy)).unwrap();
            assert_eq!((&letter.origin, letter.sequence, letter.attempts), (&origin, 7, 3));
            assert_eq!((letter.reason.as_str(), letter.published), ("no", message.timestamp));
            let original = letter.original().unwrap();
            assert_eq!((&original.subject, &original.key), (&message.subject, &message.key));
            assert_eq!(original.payload, message.payload);
            assert_eq!(original.headers.values("trace").count(), 2);
            assert_eq!(original.headers.get(REDRIVE_TO), Some("c"));
            assert_eq!(original.headers.len(), 3);
        }
    }

    #[test]
    fn what_is_no_copy_is_none() {
        assert_eq!(DeadLetter::parse(message(None)), None);
    }

    proptest! {
        #[test]
        fn any_reason_can_be_carried(reason in any::<String>()) {
            let carried = carriable(&reason);
            prop_assert!((1..=MOST_REASON_BYTES).contains(&carried.len()));
            prop_assert!(!carried.contains(char::is_control) && carried.trim() == carried);
        }
    }
}
