//! Between this crate's messages and what travels over NATS.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::consumers::deliver_policy;
use super::schedule;
use crate::config::Start;
use crate::error::{Error, Result};
use crate::headers::Headers;
use crate::message::{Expect, Message, StoredMessage};
use crate::name::Subject;

/// Marks a message without a body: NATS itself knows empty bodies only.
const TOMBSTONE: &str = "Lg-Tombstone";
/// Holds the key; bytes that a header cannot carry are percent-escaped.
const KEY: &str = "Lg-Key";
const RESERVED: &str = "Nats-";
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";
const ROLLUP: &str = "Nats-Rollup";
pub(super) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";

/// The headers `message` travels with, `id` standing in for its own; `None` when it needs none.
pub(super) fn headers_out(message: &Message, id: Option<&str>) -> Result<Option<HeaderMap>> {
    let bare = message.headers.is_empty() && message.key.is_none() && message.payload.is_some();
    let plain = message.expect.is_none() && message.not_before.is_none() && !message.rollup;
    if bare && id.is_none() && plain {
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
    if message.rollup {
        if message.not_before.is_some() {
            let subject = &message.subject;
            return Err(Error::invalid(format!(
                "the message on {subject} has a delay and is a rollup: drop one of them"
            )));
        }
        out.insert(ROLLUP, header_value(ROLLUP, b"sub")?);
    }
    if let Some(until) = message.not_before {
        schedule::mark(&mut out, message, until)?;
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
    // The client library takes an empty name, and the server takes the line for something else.
    let carried = Some(name).filter(|name| !name.is_empty()).map(HeaderName::from_str);
    carried
        .and_then(std::result::Result::ok)
        .ok_or_else(|| Error::invalid(format!("header name {name:?} cannot be carried by nats://")))
}

pub(super) fn header_value(name: &str, value: &[u8]) -> Result<HeaderValue> {
    let refuse = |why| Error::invalid(format!("the value of header {name} {why} on nats://"));
    let text = std::str::from_utf8(value).map_err(|_| refuse("must be UTF-8"))?;
    if text.trim().len() != text.len() {
        return Err(refuse("must not begin or end with white space"));
    }
    HeaderValue::from_str(text).map_err(|_| refuse("must not have a line break"))
}

/// What NATS delivered, as this crate's message. The parts are those of the wire.
///
/// Never fails: anybody may have stored anything, and a message that could not be read would stop
/// whoever reads the stream.
pub(super) fn stored(
    subject: Subject,
    sequence: u64,
    timestamp: SystemTime,
    headers: Option<&HeaderMap>,
    payload: Bytes,
) -> StoredMessage {
    let mut message = StoredMessage {
        sequence,
        timestamp,
        subject,
        key: None,
        headers: Headers::new(),
        payload: Some(payload),
    };
    if let Some(headers) = headers.filter(|headers| !headers.is_empty()) {
        headers_in(headers, &mut message);
    }
    message
}

fn headers_in(headers: &HeaderMap, message: &mut StoredMessage) {
    let mut named: Vec<_> = headers.iter().map(|(name, values)| (name.as_ref(), values)).collect();
    named.sort_unstable_by_key(|(name, _): &(&str, _)| *name);
    for (name, values) in named {
        let first = || values.first().map_or("", |value| value.as_str());
        match name {
            TOMBSTONE => message.payload = None,
            KEY => message.key = Some(unescape(first())),
            // Left out, because a copy of the message could not be published with it.
            _ if check_name(name).is_err() => {}
            _ => {
                for value in values {
                    let value = Bytes::copy_from_slice(value.as_str().as_bytes());
                    if let Err(error) = message.headers.append(name, value) {
                        tracing::debug!(sequence = message.sequence, %error, "header left out");
                    }
                }
            }
        }
    }
}

/// A time as the server writes and reads it.
pub(super) fn rfc3339(time: SystemTime) -> Result<String> {
    // The client writes times in its requests only: this is one.
    let policy = serde_json::to_value(deliver_policy(Start::Time(time))?).unwrap_or_default();
    let written = policy.get("opt_start_time").and_then(|time| time.as_str());
    written.map(str::to_owned).ok_or_else(|| Error::invalid("the time cannot be written down"))
}

/// A message that nobody stored, as this crate's.
pub(super) fn unstored(message: async_nats::Message) -> Message {
    let async_nats::Message { subject, payload, headers, .. } = message;
    let StoredMessage { subject, key, headers, payload, .. } =
        stored(Subject::received(&subject), 0, SystemTime::UNIX_EPOCH, headers.as_ref(), payload);
    Message {
        subject,
        key,
        headers,
        payload,
        id: None,
        expect: None,
        not_before: None,
        rollup: false,
    }
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

/// Undoes [`escape`]. What it would never write stands for itself.
fn unescape(text: &str) -> Bytes {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        let digit = |at: usize| rest.get(at).and_then(|b| char::from(*b).to_digit(16));
        let escaped = if byte == b'%' { digit(0).zip(digit(1)) } else { None };
        match escaped {
            Some((high, low)) => {
                out.push((high * 16 + low) as u8);
                bytes = rest.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                bytes = rest;
            }
        }
    }
    out.into()
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
    // Read once per delivery: one pass over the bytes, which also counts the tokens.
    let (mut tokens, mut count, mut from) = ([""; 9], 0, 0);
    for at in dots(rest).chain([rest.len()]) {
        if let Some(slot) = tokens.get_mut(count) {
            *slot = rest.get(from..at)?;
        }
        (count, from) = (count + 1, at + 1);
    }
    let tokens = match count {
        7 => tokens.get(..7)?,
        9.. => tokens.get(2..)?,
        _ => return None,
    };
    let &[stream, consumer, delivered, stream_sequence, consumer_sequence, nanos, pending] = tokens
    else {
        return None;
    };
    let number = |token: &str| token.parse::<u64>().ok();
    Some(AckSubject {
        stream,
        consumer,
        delivered: u32::try_from(number(delivered)?).unwrap_or(u32::MAX),
        stream_sequence: number(stream_sequence)?,
        consumer_sequence: number(consumer_sequence)?,
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_nanos(number(nanos)?),
        pending: number(pending)?,
    })
}

fn dots(text: &str) -> impl Iterator<Item = usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(message: &Message) -> StoredMessage {
        let headers = headers_out(message, message.id.as_deref()).unwrap();
        let payload = message.payload.clone().unwrap_or_default();
        stored(message.subject.clone(), 1, SystemTime::UNIX_EPOCH, headers.as_ref(), payload)
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
    fn whatever_others_stored_is_read() {
        let (mut headers, long) = (HeaderMap::new(), "x".repeat(300));
        for (name, value) in
            [(KEY, "50%"), ("nats-odd", "1"), ("LG-KEY", "2"), ("plain", "3"), (&long, "4")]
        {
            headers.insert(name, value);
        }
        let read = stored(
            Subject::received("a.x*y"),
            1,
            SystemTime::UNIX_EPOCH,
            Some(&headers),
            Bytes::new(),
        );
        assert_eq!((read.subject.as_str(), read.key.as_deref()), ("a.x*y", Some(&b"50%"[..])));
        assert_eq!(read.headers.iter().collect::<Vec<_>>(), [("plain", &Bytes::from("3"))]);
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
