//! Headers that the log can carry as they are, and a way for the others.
//!
//! What is not as it is travels in `kafka-header`, one value for each header in their order:
//! `name=value`, both percent-encoded, and without `=` for a null value. All values of a name go the
//! same way, so that their order is kept.

use std::collections::BTreeSet;

use bytes::Bytes;

/// Carries what no header of the log can.
pub(super) const ODD: &str = "kafka-header";

/// What means something to NATS, to this crate or to the rest of Lockgate.
const RESERVED: [&str; 5] = ["nats-", "lg-", "ce-", "kafka-", "lockgate-"];

/// A header of a record.
pub(super) type Header = (String, Option<Bytes>);

/// Names, in lower case, of which a value or the spelling cannot be carried as it is.
pub(super) fn odd_names(headers: &[Header]) -> BTreeSet<String> {
    let mut odd = BTreeSet::new();
    for (at, (name, value)) in headers.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        let respelled = || {
            let before = headers.iter().take(at);
            before.into_iter().any(|(other, _)| other != name && other.eq_ignore_ascii_case(name))
        };
        if !is_plain_name(name) || !value.as_ref().is_some_and(|v| is_plain_value(v)) || respelled()
        {
            odd.insert(lower);
        }
    }
    odd
}

fn is_plain_name(name: &str) -> bool {
    let reserved = RESERVED.iter().any(|prefix| {
        name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    (1..=256).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
        && !reserved
}

fn is_plain_value(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value);
    text.is_ok_and(|text| text.trim() == text && !text.contains(['\r', '\n', '\0']))
}

/// A header for [`ODD`].
pub(super) fn encode((name, value): &Header) -> String {
    let mut text = escape(name.as_bytes());
    if let Some(value) = value {
        text.push('=');
        text.push_str(&escape(value));
    }
    text
}

/// Reads it back; nothing for what [`encode`] would not write.
pub(super) fn decode(text: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(text).ok()?;
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(unescape(value).into())),
        None => (text, None),
    };
    Some((String::from_utf8(unescape(name)).ok()?, value))
}

/// Percent-encodes all but visible ASCII without `%` and `=`.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b'=' | b'"') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Undoes [`escape`], and any other percent-encoding; a `%` that begins none stands for itself.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
        match (byte, digit(at + 1).zip(digit(at + 2))) {
            (b'%', Some((high, low))) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    plain
}
