//! Between this crate's messages and Kafka's records.
//!
//! Kafka has keys, headers and null values of its own. What it lacks, the subject and the time
//! before which a message is held back, travels in headers that begin with `Lg-`; those are
//! refused on a message and taken out of what arrives. A message without a key needs no header
//! for its subject where that may stand in the key's place: in a topic that this crate made, for
//! the subjects that it was made for. Other programs see it there, their partitioners agree, and
//! a record without headers is cheaper to write, to carry and to read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};

use super::entry::StreamEntry;
use super::partition;
use super::sequence::Place;
use crate::arena::Arena;
use crate::error::{Error, Result};
use crate::headers::Headers;
use crate::message::{Message, StoredMessage};
use crate::name::{Subject, SubjectFilter};

/// Where the message was published. Keep stable: it is stored.
const SUBJECT: &str = "Lg-Subject";
/// Milliseconds since 1970 before which no consumer gets it. Keep stable: it is stored.
const NOT_BEFORE: &str = "Lg-Not-Before";
const RESERVED: &str = "Lg-";

/// The partition a message belongs to: by its key, or by its subject where it has none.
pub(super) fn partition_of(message: &Message, partitions: u32) -> i32 {
    let subject = message.subject.as_str().as_bytes();
    partition::of_key(message.key.as_deref().unwrap_or(subject), partitions)
}

/// A message's key and headers as a record has them, where `keyed` may stand in the key's place. A
/// header of a reserved name is `Invalid`.
pub(super) fn written<'a>(
    message: &'a Message,
    keyed: &[SubjectFilter],
) -> Result<(Option<&'a [u8]>, Option<OwnedHeaders>)> {
    let subject = message.subject.as_str();
    if message.key.is_some() || !is_keyed(keyed, subject) {
        return Ok((message.key.as_deref(), Some(headers(message, Some(subject))?)));
    }
    let plain = message.headers.is_empty() && message.not_before.is_none();
    let headers = if plain { None } else { Some(headers(message, None)?) };
    Ok((Some(subject.as_bytes()), headers))
}

fn is_keyed(keyed: &[SubjectFilter], subject: &str) -> bool {
    !subject.is_empty() && keyed.iter().any(|filter| filter.matches(subject))
}

/// What a message travels with, and with its subject.
pub(super) fn headers(message: &Message, subject: Option<&str>) -> Result<OwnedHeaders> {
    let room = message.headers.len() + 2;
    let mut out = OwnedHeaders::new_with_capacity(room);
    if subject.is_some() {
        out = out.insert(Header { key: SUBJECT, value: subject });
    }
    if let Some(time) = message.not_before {
        let millis = millis_of(time).to_string();
        out = out.insert(Header { key: NOT_BEFORE, value: Some(&millis) });
    }
    for (name, value) in message.headers.entries() {
        if is_reserved(name) {
            let what = format!("header {name} has a meaning of its own on kafka://: rename it");
            return Err(Error::invalid(what));
        }
        if name.contains('\0') {
            let what =
                format!("header {name:?} has a zero in its name, which kafka:// cannot carry");
            return Err(Error::invalid(what));
        }
        out = out.insert(Header { key: name, value: value.map(Bytes::as_ref) });
    }
    Ok(out)
}

/// How many bytes the caller put into a message, as [`crate::StreamConfig::max_message_bytes`]
/// counts them.
pub(super) fn content_bytes(message: &Message) -> usize {
    let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    headers.sum::<usize>() + length(&message.key) + length(&message.payload)
}

/// When a record was stored.
pub(super) fn time_of(record: &BorrowedMessage<'_>) -> SystemTime {
    let millis = record.timestamp().to_millis().and_then(|millis| u64::try_from(millis).ok());
    UNIX_EPOCH + Duration::from_millis(millis.unwrap_or_default())
}

/// Milliseconds since 1970, rounded up, as Kafka counts time.
pub(super) fn millis_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

/// Reads the records of one stream.
#[derive(Clone)]
pub(super) struct Decoder {
    partitions: u32,
    /// The subject of a record that another program wrote.
    foreign: Subject,
    /// Subjects that stand in the key's place.
    keyed: Vec<SubjectFilter>,
    /// Neighbours often share a subject, and then its text.
    last: Subject,
    /// It stood in the key's place.
    last_is_key: bool,
    arena: Arena,
}

impl Decoder {
    /// Reads what is stored in the topic of this stream.
    pub(super) fn of(StreamEntry { config, keyed, .. }: &StreamEntry) -> Self {
        // A record that another program wrote says nothing of subjects.
        let literal = config.subjects.first().and_then(|first| Subject::new(first.as_str()).ok());
        let foreign = literal.unwrap_or_else(|| Subject::received(config.name.as_str()));
        let (partitions, keyed) = (config.partitions, keyed.clone());
        let last = foreign.clone();
        let arena = Arena::default();
        Self { partitions, foreign, keyed, last, last_is_key: false, arena }
    }

    /// Lets go of the text that the last record shared: another thread counts who holds it from
    /// now on, and two that count at once slow each other down.
    pub(super) fn let_go(&mut self) {
        (self.last, self.last_is_key) = (self.foreign.clone(), false);
    }

    /// A record as this crate's message.
    pub(super) fn message(&mut self, record: &BorrowedMessage<'_>) -> StoredMessage {
        self.stored(record).0
    }

    /// The same, if its subject is wanted; the others are not copied.
    pub(super) fn message_if(
        &mut self,
        record: &BorrowedMessage<'_>,
        wanted: impl FnOnce(&Subject) -> bool,
    ) -> Option<StoredMessage> {
        let taken = Taken::from(record);
        let (subject, key) = self.place(taken.subject, record.key());
        wanted(&subject).then(|| self.finish(record, subject, key, taken).0)
    }

    /// A record as this crate's message, and when it is due if it has to wait.
    ///
    /// Never fails: anybody may have stored anything, and a record that could not be read would
    /// stop whoever reads the stream.
    pub(super) fn stored(
        &mut self,
        record: &BorrowedMessage<'_>,
    ) -> (StoredMessage, Option<SystemTime>) {
        let taken = Taken::from(record);
        let (subject, key) = self.place(taken.subject, record.key());
        self.finish(record, subject, key, taken)
    }

    /// The subject, and the key if it has one beside that.
    fn place<'k>(
        &mut self,
        named: Option<&str>,
        key: Option<&'k [u8]>,
    ) -> (Subject, Option<&'k [u8]>) {
        if let Some(named) = named {
            self.last_is_key = false;
            return (self.shared(named), key);
        }
        if self.last_is_key && key == Some(self.last.as_str().as_bytes()) {
            return (self.last.clone(), None);
        }
        let text = key.and_then(|key| std::str::from_utf8(key).ok());
        match text.filter(|text| is_keyed(&self.keyed, text)) {
            Some(text) => {
                self.last_is_key = true;
                (self.shared(text), None)
            }
            None => (self.foreign.clone(), key),
        }
    }

    fn shared(&mut self, text: &str) -> Subject {
        if text != self.last.as_str() {
            self.last = Subject::received(text);
        }
        self.last.clone()
    }

    fn finish(
        &mut self,
        record: &BorrowedMessage<'_>,
        subject: Subject,
        key: Option<&[u8]>,
        taken: Taken<'_>,
    ) -> (StoredMessage, Option<SystemTime>) {
        let place = Place { partition: record.partition(), offset: record.offset() };
        let message = StoredMessage {
            sequence: place.sequence(self.partitions),
            timestamp: time_of(record),
            subject,
            key: key.map(|key| self.arena.copy(key)),
            headers: taken.headers,
            payload: record.payload().map(|payload| self.arena.copy(payload)),
        };
        (message, taken.not_before)
    }
}

/// What the headers of a record say.
#[derive(Default)]
struct Taken<'a> {
    subject: Option<&'a str>,
    not_before: Option<SystemTime>,
    headers: Headers,
}

impl<'a> Taken<'a> {
    fn from(record: &'a BorrowedMessage<'_>) -> Self {
        let Some(headers) = record.headers() else { return Self::default() };
        let mut taken = Self::default();
        for at in 0..headers.count() {
            // The client library panics at a name that is not UTF-8, which Kafka does not allow and
            // anybody may write.
            match catch_unwind(AssertUnwindSafe(|| headers.try_get(at))) {
                Ok(header) => header.into_iter().for_each(|header| taken.take(header)),
                Err(_) => {
                    let (topic, offset) = (record.topic(), record.offset());
                    tracing::warn!(topic, offset, at, "a header whose name is not text left out");
                }
            }
        }
        taken
    }

    fn take(&mut self, header: Header<'a, &'a [u8]>) {
        let text = || std::str::from_utf8(header.value.unwrap_or_default()).ok();
        match header.key {
            SUBJECT => self.subject = text(),
            NOT_BEFORE => {
                let millis = text().and_then(|text| text.parse().ok());
                self.not_before = millis.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
            }
            // Left out, because a copy of the message could not be published with it.
            name if is_reserved(name) => {}
            name => self.headers.append_received(name, header.value.map(Bytes::copy_from_slice)),
        }
    }
}

fn is_reserved(name: &str) -> bool {
    name.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
}
