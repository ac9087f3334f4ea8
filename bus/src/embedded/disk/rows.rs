//! What the rows hold that are written often, as bytes. **Keep stable**: a change of any of them is
//! a new [`super::keys::VERSION`].

use std::time::SystemTime;

use bytes::Bytes;

use super::bytes::{Input, Output};
use crate::config::Entry;
use crate::embedded::journal::{Head, Open};
use crate::embedded::log::Outline;
use crate::headers::Headers;
use crate::message::{Message, StoredMessage};
use crate::name::Subject;

/// Which of the parts of a message that may be missing are there.
const HAS_KEY: u8 = 1;
const HAS_PAYLOAD: u8 = 2;

pub(super) fn outline(message: &StoredMessage, bytes: u64) -> Vec<u8> {
    let subject = message.subject.as_str().as_bytes();
    let row = Output::with_capacity(16 + subject.len());
    row.time(message.timestamp).u64(bytes).rest(subject).done()
}

pub(super) fn read_outline(row: &[u8]) -> Option<Outline> {
    let mut row = Input::new(row);
    let (timestamp, bytes) = (row.time()?, row.u64()?);
    Some(Outline { timestamp, bytes, subject: Subject::received(row.rest_text()?) })
}

pub(super) fn body(key: Option<&Bytes>, headers: &Headers, payload: Option<&Bytes>) -> Vec<u8> {
    let parts =
        if key.is_some() { HAS_KEY } else { 0 } | if payload.is_some() { HAS_PAYLOAD } else { 0 };
    let length = |part: Option<&Bytes>| part.map_or(0, Bytes::len);
    let mut row = Output::with_capacity(16 + length(key) + length(payload)).u8(parts);
    if let Some(key) = key {
        row = row.sized(key);
    }
    row = row.u32(u32::try_from(headers.len()).unwrap_or(u32::MAX));
    for (name, value) in headers.iter() {
        row = row.sized(name.as_bytes()).sized(value);
    }
    row.rest(payload.map_or(&[], |payload| &payload[..])).done()
}

/// The parts of a body.
type Body = (Option<Bytes>, Headers, Option<Bytes>);

pub(super) fn read_body(row: &[u8]) -> Option<Body> {
    read_body_from(&mut Input::new(row))
}

fn read_body_from(row: &mut Input<'_>) -> Option<Body> {
    let parts = row.u8()?;
    let key = match parts & HAS_KEY {
        0 => None,
        _ => Some(Bytes::copy_from_slice(row.sized()?)),
    };
    let mut headers = Headers::new();
    for _ in 0..row.u32()? {
        let (name, value) = (row.sized_text()?, row.sized()?);
        headers.append_received(name, Some(Bytes::copy_from_slice(value)));
    }
    let payload = row.rest();
    let payload = (parts & HAS_PAYLOAD != 0).then(|| Bytes::copy_from_slice(payload));
    Some((key, headers, payload))
}

pub(super) fn delayed(message: &Message) -> Vec<u8> {
    let Message { subject, key, headers, payload, .. } = message;
    let body = body(key.as_ref(), headers, payload.as_ref());
    let row = Output::with_capacity(body.len() + subject.as_str().len() + 4);
    row.sized(subject.as_str().as_bytes()).rest(&body).done()
}

/// The message that waits until `until`.
pub(super) fn read_delayed(row: &[u8], until: SystemTime) -> Option<Message> {
    let mut row = Input::new(row);
    let subject = Subject::received(row.sized_text()?);
    let (key, headers, payload) = read_body_from(&mut row)?;
    let not_before = Some(until);
    Some(Message {
        subject,
        key,
        headers,
        payload,
        id: None,
        expect: None,
        not_before,
        rollup: false,
    })
}

pub(super) fn id(id: &str, sequence: u64, came: SystemTime) -> Vec<u8> {
    Output::with_capacity(16 + id.len()).u64(sequence).time(came).rest(id.as_bytes()).done()
}

/// An id's sequence, when it came, and the id.
pub(super) fn read_id(row: &[u8]) -> Option<(u64, SystemTime, &str)> {
    let mut row = Input::new(row);
    Some((row.u64()?, row.time()?, row.rest_text()?))
}

pub(super) fn head(head: &Head) -> Vec<u8> {
    let row = Output::with_capacity(48).u64(head.next).u64(head.first_left).u64(head.delivered);
    let row = row.u64(head.started_after).u32(head.epoch);
    match head.paused_until {
        Some(until) => row.time(until).done(),
        None => row.done(),
    }
}

pub(super) fn read_head(row: &[u8]) -> Option<Head> {
    let mut row = Input::new(row);
    let (next, first_left, delivered) = (row.u64()?, row.u64()?, row.u64()?);
    let (started_after, epoch) = (row.u64()?, row.u32()?);
    let paused_until = if row.end().is_some() { None } else { Some(row.time()?) };
    row.end()?;
    Some(Head { next, first_left, delivered, started_after, epoch, paused_until })
}

pub(super) fn numbers(numbers: &[u64]) -> Vec<u8> {
    let row = Output::with_capacity(numbers.len() * 8);
    numbers.iter().fold(row, |row, number| row.u64(*number)).done()
}

pub(super) fn read_numbers(row: &[u8]) -> Option<Vec<u64>> {
    let mut row = Input::new(row);
    let mut numbers = Vec::new();
    while row.end().is_none() {
        numbers.push(row.u64()?);
    }
    Some(numbers)
}

pub(super) fn open(open: &Open) -> Vec<u8> {
    let row = Output::with_capacity(13).u32(open.attempt).time(open.due);
    row.u8(u8::from(open.resting)).done()
}

/// What is open at `sequence`.
pub(super) fn read_open(row: &[u8], sequence: u64) -> Option<Open> {
    let mut row = Input::new(row);
    let (attempt, due, resting) = (row.u32()?, row.time()?, row.u8()? != 0);
    row.end()?;
    Some(Open { sequence, attempt, due, resting })
}

pub(super) fn value(entry: &Entry) -> Vec<u8> {
    let row = Output::with_capacity(16 + entry.value.len());
    row.u64(entry.revision).time(entry.created).rest(&entry.value).done()
}

/// The entry of `key`.
pub(super) fn read_value(row: &[u8], key: Subject) -> Option<Entry> {
    let mut row = Input::new(row);
    let (revision, created) = (row.u64()?, row.time()?);
    Some(Entry { key, value: Bytes::copy_from_slice(row.rest()), revision, created })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(nanos: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
    }

    fn message(key: Option<&'static [u8]>, payload: Option<&'static [u8]>) -> Message {
        let mut message = Message::tombstone("s.a").unwrap();
        message.headers.append("ce-id", "1").unwrap();
        message.headers.append("ce-id", "").unwrap();
        message.key = key.map(Bytes::from_static);
        message.payload = payload.map(Bytes::from_static);
        message
    }

    #[test]
    fn every_row_reads_as_it_was_written() {
        for (key, payload) in [(None, None), (Some(&b"k"[..]), Some(&b""[..])), (None, Some(b"x"))]
        {
            let mut message = message(key, payload);
            message.not_before = Some(at(7));
            assert_eq!(read_delayed(&delayed(&message), at(7)).unwrap(), message);
            let row = body(message.key.as_ref(), &message.headers, message.payload.as_ref());
            assert_eq!(read_body(&row).unwrap(), (message.key, message.headers, message.payload));
        }
        for paused_until in [None, Some(at(9))] {
            let there = Head {
                next: 1,
                first_left: 2,
                delivered: 3,
                started_after: 4,
                epoch: 5,
                paused_until,
            };
            assert_eq!(read_head(&head(&there)).unwrap(), there);
        }
        let out =
            Open { sequence: 8, attempt: 2, due: at(1_700_000_000_123_456_789), resting: true };
        assert_eq!(read_open(&open(&out), 8).unwrap(), out);
        assert_eq!(read_numbers(&numbers(&[1, u64::MAX])).unwrap(), [1, u64::MAX]);
        assert_eq!(read_id(&id("é", 4, at(5))).unwrap(), (4, at(5), "é"));
        let key = Subject::new("k.é").unwrap();
        let entry = Entry { key: key.clone(), value: "v".into(), revision: 6, created: at(7) };
        assert_eq!(read_value(&value(&entry), key).unwrap(), entry);
    }

    #[test]
    fn the_bytes_stay_what_they_were() {
        let text = |row: Vec<u8>| row.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let message = message(Some(b"k"), Some(b"x"));
        assert_eq!(
            text(body(message.key.as_ref(), &message.headers, message.payload.as_ref())),
            "03000000016b000000020000000563652d696400000001310000000563652d69640000000078"
        );
        let stored = StoredMessage {
            sequence: 1,
            timestamp: at(1),
            subject: Subject::new("s").unwrap(),
            key: None,
            headers: Headers::new(),
            payload: None,
        };
        assert_eq!(text(outline(&stored, 2)), "0000000000000001000000000000000273");
        let out = Open { sequence: 8, attempt: 2, due: at(3), resting: true };
        assert_eq!(text(open(&out)), "00000002000000000000000301");
    }

    #[test]
    fn a_row_that_is_cut_short_is_no_row() {
        let message = message(Some(b"key"), None);
        let row = body(message.key.as_ref(), &message.headers, None);
        assert!((0..row.len()).all(|length| read_body(&row[..length]).is_none()));
        assert!(read_head(&[0; 35]).is_none() && read_head(&[0; 37]).is_none());
        assert!(read_numbers(&[0; 9]).is_none() && read_outline(&[0; 15]).is_none());
        assert!(read_open(&[0; 12], 1).is_none() && read_open(&[0; 14], 1).is_none());
    }
}
