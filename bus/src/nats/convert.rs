//! Between this crate's messages and what travels over NATS.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::headers::Headers;
use crate::message::{Expect, Message, StoredMessage};
use crate::name::Subject;

/// Marks a message without a body: NATS itself knows empty bodies only.
const TOMBSTONE: &str = "Lg-Tombstone";
/// Holds the key; bytes that a header cannot carry are percent-escaped.
const KEY: &str = "Lg-Key";
const RESERVED: &str = "Nats-";
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
pub(super) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";

/// The headers `message` travels with, `id` standing in for its own; `None` when it needs none.
pub(super) fn headers_out(message: &Message, id: Option<&str>) -> Result<Option<HeaderMap>> {
    let bare = message.headers.is_empty() && message.key.is_none() && message.payload.is_some();
    if bare && id.is_none() && message.expect.is_none() {
        return Ok(None);
    }
    let mut out = HeaderMap::new();
    for (name, value) in message.headers.iter() {
        check_name(name)?;
        // NATS tells spellings apart and this crate does not: all values go under the first one.
        let spelled = message.headers.iter().map(|(n, _)| n);
        let first = spelled.into_iter().find(|n| n.eq_ignore_ascii_case(name)).unwrap_or(name);
        out.append(header_name(first)?, header_value(name, value)?);
    }
    if let Some(id) = id {
        if id.is_empty() {
            return Err(Error::invalid("the message id is empty: leave it out or fill it"));
        }
        out.insert(MESSAGE_ID, header_value(MESSAGE_ID, id.as_bytes())?);
    }
    if let Some(Expect::LastSubjectSequence(sequence)) = message.expect {
        out.insert(EXPECTED_LAST, HeaderValue::from(sequence));
    }
    if let Some(key) = &message.key {
        out.insert(KEY, header_value(KEY, escape(key).as_bytes())?);
    }
    if message.payload.is_none() {
        out.insert(TOMBSTONE, HeaderValue::from(1));
    }
    Ok(Some(out))
}

fn check_name(name: &str) -> Result<()> {
    let starts = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let own = name.eq_ignore_ascii_case(TOMBSTONE) || name.eq_ignore_ascii_case(KEY);
    if !own && !starts(RESERVED) {
        return Ok(());
    }
    Err(Error::invalid(format!("header {name} has a meaning of its own on nats://: rename it")))
}

fn header_name(name: &str) -> Result<HeaderName> {
    HeaderName::from_str(name)
        .map_err(|_| Error::invalid(format!("header name {name:?} cannot be carried by nats://")))
}

fn header_value(name: &str, value: &[u8]) -> Result<HeaderValue> {
    let refuse = |why| Error::invalid(format!("the value of header {name} {why} on nats://"));
    let text = std::str::from_utf8(value).map_err(|_| refuse("must be UTF-8"))?;
    if text.trim().len() != text.len() {
        return Err(refuse("must not begin or end with white space"));
    }
    HeaderValue::from_str(text).map_err(|_| refuse("must not have a line break"))
}

/// What NATS delivered, as this crate's message. The parts are those of the wire.
pub(super) fn stored(
    subject: &str,
    sequence: u64,
    timestamp: SystemTime,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> Result<StoredMessage> {
    let subject = Subject::new(subject).map_err(|_| {
        Error::new(ErrorKind::Corrupt, format!("message {sequence} has the subject {subject:?}"))
    })?;
    let mut message = StoredMessage {
        sequence,
        timestamp,
        subject,
        key: None,
        headers: Headers::new(),
        payload: Some(payload),
    };
    if let Some(headers) = headers.filter(|headers| !headers.is_empty()) {
        headers_in(headers, &mut message)?;
    }
    Ok(message)
}

fn headers_in(headers: &HeaderMap, message: &mut StoredMessage) -> Result<()> {
    let mut named: Vec<_> = headers.iter().map(|(name, values)| (name.as_ref(), values)).collect();
    named.sort_unstable_by_key(|(name, _): &(&str, _)| *name);
    for (name, values) in named {
        let first = || values.first().map_or("", |value| value.as_str());
        match name {
            TOMBSTONE => message.payload = None,
            KEY => message.key = Some(unescape(first(), message.sequence)?),
            _ if name.starts_with(RESERVED) => {}
            _ => {
                for value in values {
                    let value = Bytes::copy_from_slice(value.as_str().as_bytes());
                    message.headers.append(name, value)?;
                }
            }
        }
    }
    Ok(())
}

fn escape(key: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(key.len());
    for &byte in key {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

fn unescape(text: &str, sequence: u64) -> Result<Bytes> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => {
                let what = format!("message {sequence} has the malformed {KEY} {text:?}");
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
        }
    }
    Ok(out.into())
}

/// What the reply subject of a delivered message tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AckSubject<'a> {
    pub(super) stream: &'a str,
    pub(super) consumer: &'a str,
    pub(super) delivered: u32,
    pub(super) stream_sequence: u64,
    pub(super) consumer_sequence: u64,
    pub(super) timestamp: SystemTime,
    pub(super) pending: u64,
}

/// Reads `$JS.ACK.<stream>.<consumer>...` of nine tokens, or the newer form of eleven or more
/// with domain and account in front (ADR-15).
pub(super) fn parse_ack_subject(subject: &str) -> Option<AckSubject<'_>> {
    let rest = subject.strip_prefix("$JS.ACK.")?;
    let tokens = rest.split('.').count();
    let mut rest = rest.split('.');
    match tokens {
        7 => {}
        9.. => {
            rest.next();
            rest.next();
        }
        _ => return None,
    }
    let (stream, consumer) = (rest.next()?, rest.next()?);
    let mut number = || rest.next()?.parse::<u64>().ok();
    let (delivered, stream_sequence, consumer_sequence) = (number()?, number()?, number()?);
    let timestamp = SystemTime::UNIX_EPOCH + Duration::from_nanos(number()?);
    let pending = number()?;
    Some(AckSubject {
        stream,
        consumer,
        delivered: u32::try_from(delivered).unwrap_or(u32::MAX),
        stream_sequence,
        consumer_sequence,
        timestamp,
        pending,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(message: &Message) -> StoredMessage {
        let headers = headers_out(message, message.id.as_deref()).unwrap();
        let payload = message.payload.clone().unwrap_or_default();
        stored(message.subject.as_str(), 1, SystemTime::UNIX_EPOCH, headers.as_ref(), payload)
            .unwrap()
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let message = Message::new("a.b", "")
            .and_then(|m| m.header("ce-id", "1")?.header("CE-ID", "2")?.header("empty", ""))
            .unwrap()
            .key([0, b'%', b' ', b'x', 0xff])
            .id("the-id")
            .expect_last(7);
        let arrived = round_trip(&message);
        assert_eq!(arrived.headers, message.headers);
        assert_eq!((arrived.key, arrived.payload), (message.key, message.payload));

        let tombstone = round_trip(&Message::tombstone("a.b").unwrap().key(""));
        assert_eq!((tombstone.key, tombstone.payload), (Some(Bytes::new()), None));
    }

    #[test]
    fn a_plain_message_builds_no_headers() {
        assert!(headers_out(&Message::new("a", "x").unwrap(), None).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_carried_is_refused_by_name() {
        let refused = |name: &str, value: &'static [u8]| {
            let message = Message::new("a", "x").unwrap().header(name, value).unwrap();
            headers_out(&message, None).unwrap_err().to_string()
        };
        assert!(refused("binary", &[0xff]).contains("header binary must be UTF-8"));
        assert!(refused("spaced", b" x").contains("header spaced"));
        assert!(refused("nats-ttl", b"1").contains("nats-ttl"));
        assert!(refused("lg-key", b"1").contains("lg-key"));
    }

    #[test]
    fn both_forms_of_ack_subject_are_read() {
        let short = parse_ack_subject("$JS.ACK.S.c.3.100.7.1790230470084404000.42").unwrap();
        assert_eq!((short.stream, short.consumer, short.delivered), ("S", "c", 3));
        assert_eq!((short.stream_sequence, short.consumer_sequence, short.pending), (100, 7, 42));
        let long = parse_ack_subject("$JS.ACK.hub.acc.S.c.3.100.7.1790230470084404000.42.tail");
        assert_eq!(long, Some(short));
        for bad in ["", "$JS.ACK.S.c.3.100.7.1", "$JS.ACK.S.c.x.100.7.1.42", "S.c.1.1.1.1.1"] {
            assert_eq!(parse_ack_subject(bad), None, "{bad}");
        }
    }
}
