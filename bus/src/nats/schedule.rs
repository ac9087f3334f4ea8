//! Messages that wait for their time: the server's own schedules (NATS ADR-51).
//!
//! A message that waits lies in its stream on a subject of its own, which nobody who reads the
//! stream sees. When it is due the server publishes it to the subject it was meant for and removes
//! the one that waited, in one step; that survives restarts, as the stream does.

use std::time::SystemTime;

use async_nats::HeaderMap;
use async_nats::jetstream::stream::Config;

use super::convert::{header_value, rfc3339};
use super::facts::Facts;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::name::{StreamName, SubjectFilter};

const SCHEDULE: &str = "Nats-Schedule";
const TARGET: &str = "Nats-Schedule-Target";

/// What the subjects of waiting messages begin with.
fn prefix(stream: &str) -> String {
    format!("lg-delay.{stream}.")
}

/// All subjects of messages that wait in the stream.
pub(super) fn waiting(stream: &StreamName) -> String {
    format!("{}>", prefix(stream.as_str()))
}

/// The subject on which one message waits.
pub(super) fn place(stream: &StreamName, unique: &str) -> String {
    format!("{}{unique}", prefix(stream.as_str()))
}

/// True for the subject of a message that waits, or a filter for such.
pub(super) fn is_waiting(stream: &StreamName, subject: &str) -> bool {
    subject.strip_prefix("lg-delay.").is_some_and(|rest| {
        rest.strip_prefix(stream.as_str()).is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The subjects that the stream was declared with, where others wait beside them.
pub(super) fn declared(stream: &StreamName, config: &Config) -> Option<Vec<SubjectFilter>> {
    let shown = config.subjects.iter().filter(|subject| !is_waiting(stream, subject));
    config.allow_message_schedules.then(|| shown.flat_map(SubjectFilter::new).collect())
}

/// The filters to read with, so that what waits is not seen: `filters`, or where they stand for
/// everything, what the stream was declared with.
pub(super) fn hide_waiting(
    stream: &StreamName,
    config: &Config,
    filters: &[SubjectFilter],
) -> Result<Vec<SubjectFilter>> {
    let Some(declared) = declared(stream, config) else { return Ok(filters.to_vec()) };
    if is_everything(filters) {
        return Ok(declared);
    }
    let hidden = SubjectFilter::new(waiting(stream))?;
    match filters.iter().find(|filter| filter.overlaps(&hidden)) {
        None => Ok(filters.to_vec()),
        Some(filter) => Err(Error::invalid(format!(
            "filter {filter} would match what waits in stream {stream} for its time: begin it \
             with a literal token"
        ))),
    }
}

pub(super) fn is_everything(filters: &[SubjectFilter]) -> bool {
    filters.iter().all(|filter| filter.as_str() == ">")
}

/// Adds what makes `message` wait until `until`.
pub(super) fn mark(headers: &mut HeaderMap, message: &Message, until: SystemTime) -> Result<()> {
    headers
        .insert(SCHEDULE, header_value(SCHEDULE, format!("@at {}", rfc3339(until)?).as_bytes())?);
    headers.insert(TARGET, header_value(TARGET, message.subject.as_str().as_bytes())?);
    Ok(())
}

/// What speaks against letting `message` wait in its stream.
pub(super) fn check(stream: &StreamName, facts: &Facts, message: &Message) -> Result<()> {
    let (subject, until) = (&message.subject, message.not_before.unwrap_or(SystemTime::UNIX_EPOCH));
    if !facts.delayed {
        return Err(Error::invalid(format!(
            "stream {stream} takes no delayed messages: declare it with `delayed`"
        )));
    }
    if message.expect.is_some() {
        return Err(Error::invalid(format!(
            "the message on {subject} has a delay and a condition: drop one of them"
        )));
    }
    // What waits has an age too, and is dropped without a word when it is too old.
    let longest = facts.max_age.and_then(|max_age| SystemTime::now().checked_add(max_age));
    if longest.is_some_and(|longest| until >= longest) {
        return Err(Error::invalid(format!(
            "the message on {subject} would wait for longer than stream {stream} keeps messages: \
             delay it less or raise max_age"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_never_reach_what_waits() {
        let stream = StreamName::new("S").unwrap();
        let mut config =
            Config { subjects: vec!["s.>".into(), waiting(&stream)], ..Config::default() };
        let filters = |texts: &[&str]| -> Vec<_> {
            texts.iter().map(|text| SubjectFilter::new(text).unwrap()).collect()
        };
        let read = |config: &Config, texts: &[&str]| hide_waiting(&stream, config, &filters(texts));
        assert_eq!(read(&config, &[]).unwrap(), []);
        config.allow_message_schedules = true;
        assert_eq!(read(&config, &[]).unwrap(), filters(&["s.>"]));
        assert_eq!(read(&config, &[">"]).unwrap(), filters(&["s.>"]));
        assert_eq!(read(&config, &["s.a", "s.b"]).unwrap(), filters(&["s.a", "s.b"]));
        assert!(read(&config, &["*.S.a"]).is_err());
        assert!(
            is_waiting(&stream, &place(&stream, "x")) && is_waiting(&stream, &waiting(&stream))
        );
        assert!(!is_waiting(&stream, "lg-delay.S2.x") && !is_waiting(&stream, "s.lg-delay.S.x"));
    }
}
