//! From an event of the log to the record that carries it in Kafka.

use bus::StoredMessage;
use bytes::Bytes;

use super::headers::{ODD, decode, unescape};
use super::key::from_token;
use super::origin::{Form, KAFKA, Origin, SEQUENCE, VISITED};
use super::record::Record;
use super::{kafka_place, log_place};
use crate::config::Route;

/// The record of an event; nothing for one that has been in this Kafka topic before. `cluster` is
/// the id of the Kafka cluster, `life` tells the log from another of its name.
///
/// An event that was a record becomes it again: key, value, headers and timestamp. Any other is a
/// record in CloudEvents' binary mode if it has attributes, with the time that the log took it.
pub fn to_record(route: &Route, cluster: &str, life: u64, event: &StoredMessage) -> Option<Record> {
    let origin = Origin::of(&event.headers);
    let target = kafka_place(cluster, &route.kafka_topic);
    let mut visited: Vec<Bytes> = event.headers.values(VISITED).cloned().collect();
    if let Some(origin) = &origin {
        visited.push(kafka_place(&origin.cluster, &origin.place.topic).into());
    }
    if visited.iter().any(|place| *place == target.as_bytes()) {
        return None;
    }
    let form = origin.as_ref().map_or(Form::Binary, |origin| origin.form);
    let mut headers = Vec::with_capacity(event.headers.len() + 3);
    for (name, value) in event.headers.iter() {
        if name.eq_ignore_ascii_case(ODD) {
            headers.extend(decode(value));
        } else if !is_own(name, form) {
            headers.push(header(name, value));
        }
    }
    visited.push(log_place(life, &route.realm, &route.topic).into());
    headers.extend(visited.into_iter().map(|place| (VISITED.to_owned(), Some(place))));
    headers.push((SEQUENCE.to_owned(), Some(event.sequence.to_string().into())));
    let timestamp = match &origin {
        Some(origin) => origin.timestamp,
        None => millis(event.timestamp),
    };
    Some(Record {
        key: key_of(event, origin.is_some()),
        value: event.payload.clone(),
        headers,
        timestamp,
    })
}

fn is_own(name: &str, form: Form) -> bool {
    let own = [KAFKA, VISITED, SEQUENCE];
    own.iter().any(|own| name.eq_ignore_ascii_case(own))
        || form == Form::Timed && name.eq_ignore_ascii_case("ce-time")
}

fn header(name: &str, value: &Bytes) -> (String, Option<Bytes>) {
    let attribute = name.get(..3).filter(|start| start.eq_ignore_ascii_case("ce-"));
    match (attribute, name.get(3..), std::str::from_utf8(value)) {
        (Some(_), Some(attribute), Ok(text)) => {
            (format!("ce_{}", attribute.to_ascii_lowercase()), Some(unescape(text).into()))
        }
        _ => (name.to_owned(), Some(value.clone())),
    }
}

/// The key; where the publisher set none, that of the subject. A record without a key had none.
fn key_of(event: &StoredMessage, was_record: bool) -> Option<Bytes> {
    if event.key.is_some() || was_record {
        return event.key.clone();
    }
    event.subject.tokens().last().map(|token| from_token(token).into())
}

fn millis(time: std::time::SystemTime) -> Option<i64> {
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}
