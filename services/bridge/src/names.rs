//! The names of what a bridge keeps. Keep stable.
//!
//! In the log of a realm, beside its events:
//!
//! | Subject | What |
//! |---|---|
//! | `bridge.<realm>.<route>.begin` | where the route began; written once, never removed |
//! | `bridge.<realm>.<route>.position.<partition>` | the next offset; one message, replaced |
//! | `bridge.<realm>.<route>.parked.<topic id>.<partition>.<offset>` | a record that is parked |
//! | `bridge.<realm>.<route>.parked.log.<sequence>` | an event that is parked |
//!
//! The first of them is the first that a route writes, so that what it replaces and removes later is
//! never the beginning of a log, by which a log tells that its history is whole.

use bus::{Error, Subject, SubjectFilter};

/// The first token of every subject that a bridge writes besides events.
pub const RESERVED: &str = "bridge";

/// The bucket in which routes say how they are, and hold their leases.
pub const BUCKET: &str = "lockgate-bridge";

/// What a log must capture besides its events, for a bridge to fill it: `bridge.<realm>.>`.
pub fn reserved_filter(realm: &str) -> Result<SubjectFilter, Error> {
    SubjectFilter::new(format!("{RESERVED}.{realm}.>"))
}

/// The name of a realm's log.
pub fn log_stream(realm: &str) -> String {
    format!("events-{realm}")
}

/// The subject of an event.
pub(crate) fn event_subject(realm: &str, topic: &str, key_token: &str) -> Result<Subject, Error> {
    Subject::new(format!("events.{realm}.{topic}.{key_token}"))
}

/// The events of a topic.
pub(crate) fn topic_filter(realm: &str, topic: &str) -> Result<SubjectFilter, Error> {
    SubjectFilter::new(format!("events.{realm}.{topic}.*"))
}

/// Where a route began.
pub(crate) fn begin(realm: &str, route: &str) -> Result<Subject, Error> {
    Subject::new(format!("{RESERVED}.{realm}.{route}.begin"))
}

/// How far a route is in a partition.
pub(crate) fn position(realm: &str, route: &str, partition: i32) -> Result<Subject, Error> {
    Subject::new(format!("{RESERVED}.{realm}.{route}.position.{partition}"))
}

/// A record, or an event by its sequence (partition `log`), that is parked.
pub(crate) fn parked(realm: &str, route: &str, part: &str, at: u64) -> Result<Subject, Error> {
    Subject::new(format!("{RESERVED}.{realm}.{route}.parked.{part}.{at}"))
}

/// Everything that a route has parked.
pub(crate) fn parked_filter(realm: &str, route: &str) -> Result<SubjectFilter, Error> {
    SubjectFilter::new(format!("{RESERVED}.{realm}.{route}.parked.>"))
}

/// The Kafka topic that keeps how far a route out of the log is.
pub fn position_topic(route: &str) -> String {
    format!("lockgate-bridge-{route}")
}

/// The consumer group, or the transactional id, of a route.
pub(crate) fn kafka_id(route: &str) -> String {
    format!("lockgate-bridge.{route}")
}
