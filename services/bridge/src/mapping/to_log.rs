//! From a record to the message of the log that is its event.

use bus::Message;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::headers::{ODD, encode, escape, odd_names};
use super::key::to_token;
use super::origin::{Form, KAFKA, Origin, SEQUENCE, VISITED};
use super::record::{Place, Record};
use super::{Unfit, log_place};
use crate::config::{NullKey, Route};
use crate::names;

/// The prefix of an attribute in Kafka's binary mode.
const ATTRIBUTE: &str = "ce_";
/// Without it a record is not in binary mode.
pub(super) const VERSION: &str = "ce_specversion";

/// What a route into the log knows of both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToLog {
    /// The id of the Kafka cluster.
    pub cluster: String,
    /// Which log it is: one of its name that was deleted and made again has another.
    pub life: u64,
}

/// The event of a record; nothing for one that has been in this topic of the log before.
pub fn to_event(
    route: &Route,
    ends: &ToLog,
    record: &Record,
    place: &Place,
) -> Result<Option<Message>, Unfit> {
    let here = log_place(ends.life, &route.realm, &route.topic);
    let visited = |(name, value): &&super::headers::Header| name == VISITED && value.is_some();
    if record.headers.iter().filter(visited).any(|(_, v)| v.as_deref() == Some(here.as_bytes())) {
        return Ok(None);
    }
    let token = token_of(route, record, place)?;
    let subject = names::event_subject(&route.realm, &route.topic, &token).map_err(unfit)?;
    let mut message = Message::tombstone(subject).map_err(unfit)?;
    message.key = record.key.clone();
    message.payload = record.value.clone();
    let form = form_of(record);
    add_headers(&mut message, record, form).map_err(unfit)?;
    let origin = Origin {
        form,
        cluster: ends.cluster.clone(),
        place: place.clone(),
        timestamp: record.timestamp,
    };
    message.headers.append(KAFKA, origin.to_string()).map_err(unfit)?;
    Ok(Some(message))
}

fn unfit(error: bus::Error) -> Unfit {
    Unfit(error.to_string())
}

fn token_of(route: &Route, record: &Record, place: &Place) -> Result<String, Unfit> {
    match (&record.key, route.null_key) {
        (Some(key), _) => to_token(key),
        (None, NullKey::Empty) => to_token(b""),
        (None, NullKey::Place) => Ok(format!("{}-{}", place.partition, place.offset)),
        (None, NullKey::Park) => Err(Unfit("it has no key, and the route asks for one".into())),
    }
}

fn form_of(record: &Record) -> Form {
    if record.header(VERSION).is_some() {
        return Form::Binary;
    }
    let structured = |value: &str| value.trim_start().starts_with("application/cloudevents");
    let has_time = record.timestamp.and_then(rfc3339).is_some();
    match record.header("content-type").is_some_and(structured) {
        false if has_time => Form::Timed,
        _ => Form::Plain,
    }
}

fn add_headers(message: &mut Message, record: &Record, form: Form) -> Result<(), bus::Error> {
    let carried = record.headers.iter().any(|(name, _)| name == VISITED);
    let own = |name: &str| carried && (name == VISITED || name == SEQUENCE);
    let rest: Vec<_> = record.headers.iter().filter(|(name, _)| !own(name)).cloned().collect();
    let odd = odd_names(&rest);
    for header in &rest {
        let (name, value) = header;
        let attribute = name.strip_prefix(ATTRIBUTE).filter(|_| form == Form::Binary);
        match (attribute, value) {
            (Some(attribute), Some(value)) if is_attribute(attribute, &rest) => {
                message.headers.append(format!("ce-{attribute}"), escape(value))?;
            }
            (None, Some(value)) if !odd.contains(&name.to_ascii_lowercase()) => {
                message.headers.append(name.clone(), value.clone())?;
            }
            _ => message.headers.append(ODD, encode(header))?,
        }
    }
    for (name, value) in &record.headers {
        if let (true, Some(value)) = (name == VISITED, value) {
            message.headers.append(VISITED, value.clone())?;
        }
    }
    if form == Form::Timed
        && let Some(time) = record.timestamp.and_then(rfc3339)
    {
        message.headers.append("ce-time", time)?;
    }
    Ok(())
}

/// True for the name of an attribute that has one value.
fn is_attribute(name: &str, headers: &[super::headers::Header]) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let header = format!("{ATTRIBUTE}{name}");
    (1..=64).contains(&name.len())
        && name.bytes().all(allowed)
        && name != "datacontenttype"
        && headers.iter().filter(|(other, _)| *other == header).count() == 1
}

/// The time as an event tells it.
fn rfc3339(ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    time.format(&Rfc3339).ok()
}
