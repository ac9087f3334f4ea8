//! An event as a log holds it, whoever published it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::{Headers, StoredMessage};
use bytes::Bytes;
use data_encoding::BASE64;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::in_log::{self, Shown, Told};
use super::json::Object;
use super::row::OWN_HEADERS;
use super::timestamp;
use crate::{Key, Topic, names};

/// An event that is in a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEvent {
    /// Where it belongs.
    pub topic: Topic,
    /// What it is about.
    pub key: Key,
    /// Its place in its realm's log.
    pub sequence: u64,
    /// When the log took it, in whole milliseconds.
    pub time: SystemTime,
    pub(super) headers: Headers,
    pub(super) payload: Option<Bytes>,
}

impl LogEvent {
    /// Reads a message of a realm's log; `None` when its subject is not that of an event.
    pub fn from_log(message: &StoredMessage) -> Option<Self> {
        let (topic, key) = names::parse_event_subject(&message.subject)?;
        let mut headers = message.headers.clone();
        for own in OWN_HEADERS {
            headers.remove(own);
        }
        let time = UNIX_EPOCH + Duration::from_millis(millis(message.timestamp));
        let (sequence, payload) = (message.sequence, message.payload.clone());
        Some(Self { topic, key, sequence, time, headers, payload })
    }

    /// True when the event deletes its key: a message without a payload, or an event in the JSON
    /// format without data.
    pub fn is_tombstone(&self) -> bool {
        in_log::is_tombstone(&self.headers, self.payload.as_deref())
    }

    /// The event in the CloudEvents JSON format, on one line, in JSON that every parser reads. It
    /// always works: what a foreign publisher left out or got wrong is filled from the log, and
    /// data that is neither text nor JSON that every parser reads is written in base64.
    ///
    /// Always present: `subject` (unless the key is empty), `time`, and the extensions `topic`
    /// (`realm.topic`) and `logsequence` (decimal text). The same event gives the same bytes.
    pub fn to_json(&self) -> Bytes {
        let Told { attributes: mut given, data } = self.told();
        let mut object = Object::with_capacity(512 + self.payload.as_ref().map_or(0, Bytes::len));
        object.text("specversion", "1.0");
        let filled = given.remove("id").unwrap_or_else(|| self.own_id());
        object.text("id", &filled);
        let filled = given.remove("source").unwrap_or_else(|| self.own_source());
        object.text("source", &filled);
        let filled = given.remove("type").unwrap_or_else(|| self.topic.to_string());
        object.text("type", &filled);
        if !self.key.as_str().is_empty() {
            object.text("subject", self.key.as_str());
        }
        let filled = given.remove("time").filter(|time| timestamp::is_rfc3339(time));
        object.text("time", &filled.unwrap_or_else(|| self.log_time()));
        let (media_type, data) = data.shown(given.remove("datacontenttype"));
        if let Some(media_type) = media_type {
            object.text("datacontenttype", &media_type);
        }
        given.insert("topic".into(), self.topic.to_string());
        given.insert("logsequence".into(), self.sequence.to_string());
        for (name, value) in &given {
            object.text(name, value);
        }
        match data {
            Shown::None => {}
            Shown::Json(json) => object.json("data", &json),
            Shown::Text(text) => object.text("data", &text),
            Shown::Binary(bytes) => object.text("data_base64", &BASE64.encode(&bytes)),
        }
        Bytes::from(object.finish())
    }

    fn told(&self) -> Told<'_> {
        Told::read(&self.headers, self.payload.as_deref())
    }

    fn own_id(&self) -> String {
        format!("{}-{}-{}", names::EVENTS, self.topic.realm, self.sequence)
    }

    fn own_source(&self) -> String {
        format!("/lockgate/{}", self.topic.realm)
    }

    fn log_time(&self) -> String {
        let nanos = i128::from(millis(self.time)) * 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos);
        let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
        text.unwrap_or_else(|| String::from("1970-01-01T00:00:00Z"))
    }
}

pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
