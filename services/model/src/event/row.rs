//! An event on its way to consumers: a row of a prefill queue, or what is kept of one given up.
//!
//! It is encoded once, when it is written, and every reader passes the bytes on. One header says
//! where it is in its log; everything else is in the subject or in the JSON. An event whose JSON is
//! too large for the stream (control characters take six bytes there) is carried as the log has it.

use std::time::{Duration, UNIX_EPOCH};

use bus::{Message, StoredMessage, Subject};
use bytes::Bytes;

use super::log_event::{LogEvent, millis};
use crate::limits::MAX_STORED_MESSAGE_BYTES;
use crate::{Incarnation, Key, Topic, names};

/// The sequence in the log of an event that is carried as JSON.
const ENCODED: &str = "lockgate-encoded";
/// The sequence in the log of an event that is carried as the log has it.
const SEQUENCE: &str = "lockgate-sequence";
/// When the log took that one, milliseconds since 1970.
const TIME: &str = "lockgate-time";
/// What Lockgate itself writes: taken off what comes from a log.
pub(super) const OWN_HEADERS: [&str; 3] = [ENCODED, SEQUENCE, TIME];

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Where it belongs.
    pub topic: Topic,
    /// What it is about.
    pub key: Key,
    /// Its place in its realm's log.
    pub sequence: u64,
    /// The event as consumers get it ([`LogEvent::to_json`]).
    pub json: Bytes,
    /// Where the JSON is too large to be carried.
    large: Option<Box<LogEvent>>,
}

impl Row {
    /// Reads a row of a prefill queue; `None` when it is not one, as the manifest is not.
    pub fn read(message: &StoredMessage) -> Option<Self> {
        let (topic, key) = names::parse_row_subject(&message.subject)?;
        Self::carried_by(topic, key, message)
    }

    /// Reads what [`Row::message`] wrote; what it is about stands in the subject.
    pub fn carried_by(topic: Topic, key: Key, message: &StoredMessage) -> Option<Self> {
        let number = |name| message.headers.get(name)?.parse::<u64>().ok();
        if let Some(sequence) = number(ENCODED) {
            let (json, large) = (message.payload.clone()?, None);
            return Some(Self { topic, key, sequence, json, large });
        }
        let (sequence, time_ms) = (number(SEQUENCE)?, number(TIME)?);
        let time = UNIX_EPOCH.checked_add(Duration::from_millis(time_ms))?;
        let mut headers = message.headers.clone();
        OWN_HEADERS.iter().for_each(|own| drop(headers.remove(own)));
        let payload = message.payload.clone();
        Some(Self::from(LogEvent { topic, key, sequence, time, headers, payload }))
    }

    /// The row of a prefill queue. It is stored only where there is none: a second one is a
    /// [`bus::ErrorKind::Conflict`], which means that it is there already.
    pub fn of_prefill(&self, of: &Incarnation) -> Result<Message, bus::Error> {
        Ok(self.message(names::row_subject(of, &self.topic, &self.key)?)?.expect_last(0))
    }

    /// A message that carries it on a subject which says what it is about.
    pub fn message(&self, subject: Subject) -> Result<Message, bus::Error> {
        let mut message = Message::tombstone(subject)?;
        let Some(event) = &self.large else {
            message.payload = Some(self.json.clone());
            return message.header(ENCODED, self.sequence.to_string());
        };
        (message.payload, message.headers) = (event.payload.clone(), event.headers.clone());
        message
            .header(SEQUENCE, event.sequence.to_string())?
            .header(TIME, millis(event.time).to_string())
    }
}

impl From<LogEvent> for Row {
    fn from(event: LogEvent) -> Self {
        let json = event.to_json();
        let (topic, key, sequence) = (event.topic.clone(), event.key.clone(), event.sequence);
        let is_large = json.len() > MAX_STORED_MESSAGE_BYTES as usize;
        Self { topic, key, sequence, json, large: is_large.then(|| Box::new(event)) }
    }
}
