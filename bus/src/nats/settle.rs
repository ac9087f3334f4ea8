//! Settling a delivery by the subject it came with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::consumers;
use super::convert::parse_ack_subject;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use super::puller::nanos;
use crate::driver::{LeaseToken, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName};

/// How long a confirmation is tried for while the consumer exists and nobody answers for it.
const CONFIRM_FOR: Duration = Duration::from_secs(5);
const CONFIRM_PAUSE: Duration = Duration::from_millis(100);

/// Settles, and returns when the server says that it has recorded it.
pub(super) async fn confirmed(
    link: &Link,
    stream: &StreamName,
    consumer: &ConsumerName,
    subject: &str,
    how: &Settlement,
) -> Result<()> {
    let doing = || format!("settle a delivery of consumer {consumer} on stream {stream}");
    let payload = payload(how);
    let deadline = Instant::now() + CONFIRM_FOR;
    loop {
        // Settling twice is as good as once, so a lost answer is asked for again too.
        let sent = link.request(subject.to_owned(), None, payload.clone(), REQUEST_LIMIT / 2).await;
        let failure = match sent {
            // Any other answer with a status is no confirmation.
            Ok(answer) if answer.status.is_none() => return Ok(()),
            Ok(answer) => {
                let text = answer.description.unwrap_or_default();
                return Err(Error::new(ErrorKind::Backend, format!("{}: {text}", doing())));
            }
            Err(failure @ (Failure::NoResponders | Failure::Lost)) => failure,
            Err(failure) => return Err(failure.into_error(doing())),
        };
        match consumers::raw_info(link, stream, consumer).await {
            Err(failure) if failure.is_consumer_missing() || failure.is_stream_missing() => {
                return Err(consumers::explained(stream, consumer, failure));
            }
            // The server answers nothing to the ack of a delivery that it has not made.
            Ok(info) if is_from_before(subject, info.delivered.consumer_sequence) => {
                return Err(moved(stream, consumer));
            }
            Ok(_) | Err(_) => {}
        }
        if Instant::now() + CONFIRM_PAUSE >= deadline {
            return Err(failure.into_error(doing()));
        }
        tokio::time::sleep(CONFIRM_PAUSE).await;
    }
}

/// What stands behind the ack's subject in a token: this process, and the moves of the consumer
/// that the process had seen.
pub(super) fn mark(link: &Link, moves: u64) -> Arc<str> {
    format!("#{}.{moves}", link.short()).into()
}

/// The ack's subject, and the moves if the token is of this process.
pub(super) fn parts<'t>(token: &'t LeaseToken, link: &Link) -> (&'t str, Option<u64>) {
    let (subject, mark) = match token.as_marked() {
        Some((subject, mark)) => (&**subject, mark.strip_prefix('#').unwrap_or_default()),
        None => match token.as_str().split_once('#') {
            Some(parts) => parts,
            None => return (token.as_str(), None),
        },
    };
    let own = mark.split_once('.').filter(|(process, _)| *process == link.short());
    (subject, own.and_then(|(_, moves)| moves.parse().ok()))
}

pub(super) fn moved(stream: &StreamName, consumer: &ConsumerName) -> Error {
    let what = format!("consumer {consumer} on stream {stream} was moved since this delivery");
    Error::new(ErrorKind::Stale, format!("{what}: fetch again"))
}

pub(super) fn over(stream: &StreamName, consumer: &ConsumerName, sequence: u64) -> Error {
    let what = format!("message {sequence} of consumer {consumer} on stream {stream}");
    Error::new(ErrorKind::Stale, format!("{what} was delivered again since: that one counts"))
}

fn is_from_before(subject: &str, delivered: u64) -> bool {
    parse_ack_subject(subject).is_some_and(|ack| ack.consumer_sequence > delivered)
}

/// A token may come from another process: it must name a delivery of this very consumer, or it
/// would publish to whatever subject it says.
pub(super) fn check(stream: &StreamName, consumer: &ConsumerName, subject: &str) -> Result<()> {
    let ack = parse_ack_subject(subject);
    if ack.is_some_and(|ack| ack.stream == stream.as_str() && ack.consumer == consumer.as_str()) {
        return Ok(());
    }
    let what = format!("the token is not of a delivery of consumer {consumer} on stream {stream}");
    Err(Error::invalid(what))
}

pub(super) fn payload(how: &Settlement) -> Bytes {
    match how {
        // The short form of `+ACK`: the server takes an empty reply for one.
        Settlement::Ack => Bytes::new(),
        Settlement::Extend => Bytes::from_static(b"+WPI"),
        // Always with a delay: without one the server delivers again at once, whatever backoff
        // the consumer has.
        Settlement::Retry(delay) => format!("-NAK {{\"delay\": {}}}", nanos(*delay)).into(),
        Settlement::Reject(reason) => {
            // A line break would end nothing here, but it reads badly in an advisory.
            format!("+TERM {}", reason.replace(['\r', '\n'], " ")).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_anything_else_is_refused() {
        let (stream, consumer) = (StreamName::new("S").unwrap(), ConsumerName::new("c").unwrap());
        let check = |token: &str| check(&stream, &consumer, token);
        assert!(check("$JS.ACK.S.c.1.2.3.4.5").is_ok());
        assert!(check("$JS.ACK._.account.S.c.1.2.3.4.5").is_ok());
        for bad in [
            "$JS.ACK.S.d.1.2.3.4.5",
            "$JS.ACK.T.c.1.2.3.4.5",
            "orders.created",
            "",
            "$JS.API.STREAM.DELETE.S",
            "$JS.ACK.S.c.1.2.3.4",
            "$JS.ACK.S.c.1.2.3.4.x",
        ] {
            assert_eq!(check(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn delays_travel_in_nanoseconds_and_reasons_as_text() {
        let retry = payload(&Settlement::Retry(Duration::from_millis(1500)));
        assert_eq!(retry, "-NAK {\"delay\": 1500000000}");
        assert_eq!(payload(&Settlement::Reject("bad\nday".into())), "+TERM bad day");
    }
}
