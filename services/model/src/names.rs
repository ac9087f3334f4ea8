//! The names of everything Lockgate keeps on the bus. Keep stable.

use bus::{BucketName, Error, StreamName, Subject, SubjectFilter};

use super::subscription::Incarnation;
use super::topic::{Realm, Topic};
use super::{Key, SubscriptionName};

/// The first token of every event's subject: `events.<realm>.<topic>.<key>`.
pub const EVENTS: &str = "events";
/// The stream that holds every prefill queue.
pub const PREFILL_STREAM: &str = "lockgate-prefill";
/// The work queue of prefill tasks and of the reports on them.
pub const TASKS_STREAM: &str = "lockgate-tasks";
/// The stream that holds what subscriptions gave up.
pub const DEAD_LETTERS_STREAM: &str = "lockgate-dead-letters";
/// The first token of every dead letter's subject.
const DEAD_LETTERS: &str = "dead";
/// Tasks for a prefill worker.
pub const TASK_SUBJECT: &str = "lockgate.tasks.prefill";
/// Tasks for the operator, which makes a Kubernetes Job for each.
pub const KUBERNETES_TASK_SUBJECT: &str = "lockgate.tasks.kubernetes";
/// Reports to the registration API.
pub const REPORT_SUBJECT: &str = "lockgate.tasks.report";

/// Subscriptions by name; the registration API alone writes them.
pub const SUBSCRIPTIONS_BUCKET: &str = "lockgate-subscriptions";
/// Realms by name.
pub const REALMS_BUCKET: &str = "lockgate-realms";
/// Prefill cursors by subscription, incarnation and generation.
pub const CURSORS_BUCKET: &str = "lockgate-cursors";
/// What of a queue was handed out and is not settled, by incarnation, generation and lane.
pub const JOURNAL_BUCKET: &str = "lockgate-journal";
/// Who serves the queue of a subscription, by its name.
pub const LEASES_BUCKET: &str = "lockgate-leases";
/// Single-use tickets for browsers; entries vanish by age.
pub const TICKETS_BUCKET: &str = "lockgate-tickets";
/// What all replicas share: the key that signs tokens.
pub const SYSTEM_BUCKET: &str = "lockgate-system";

/// Every bucket.
pub const BUCKETS: [&str; 7] = [
    SUBSCRIPTIONS_BUCKET,
    REALMS_BUCKET,
    CURSORS_BUCKET,
    JOURNAL_BUCKET,
    LEASES_BUCKET,
    TICKETS_BUCKET,
    SYSTEM_BUCKET,
];

/// What the keys of leases on prefills begin with; a subscription's own has no dot in it.
const CLAIMS: &str = "prefill";

/// The log of a realm.
pub fn log_stream(realm: &Realm) -> Result<StreamName, Error> {
    StreamName::new(format!("{EVENTS}-{realm}"))
}

/// The realm that a stream is the log of; `None` for any other stream.
pub fn realm_of_log(stream: &StreamName) -> Option<Realm> {
    Realm::new(stream.as_str().strip_prefix(EVENTS)?.strip_prefix('-')?).ok()
}

/// What the log of a realm captures.
pub fn log_filter(realm: &Realm) -> Result<SubjectFilter, Error> {
    SubjectFilter::new(format!("{EVENTS}.{realm}.*.*"))
}

/// What the log of a realm captures for bridges: their positions, and what they have parked.
pub fn bridge_filter(realm: &Realm) -> Result<SubjectFilter, Error> {
    SubjectFilter::new(format!("bridge.{realm}.>"))
}

/// The subject of an event.
pub fn event_subject(topic: &Topic, key: &Key) -> Result<Subject, Error> {
    Subject::new(format!("{EVENTS}.{}.{}.{}", topic.realm, topic.name, key.to_token()))
}

/// Reads `<realm>.<topic>.<key>` back.
pub fn parse_place(place: &str) -> Option<(Topic, Key)> {
    let (topic, key) = place.rsplit_once('.')?;
    Some((topic.parse().ok()?, Key::from_token(key)))
}

/// Reads the subject of an event back.
pub fn parse_event_subject(subject: &Subject) -> Option<(Topic, Key)> {
    parse_place(subject.as_str().strip_prefix(EVENTS)?.strip_prefix('.')?)
}

/// The key of a prefill cursor.
pub fn cursor_key(of: &Incarnation) -> String {
    format!("{}.{}.{}", of.name, of.uid, of.generation)
}

/// Reads the key of a prefill cursor back.
pub fn parse_cursor_key(key: &Subject) -> Option<Incarnation> {
    let mut tokens = key.tokens();
    let name = SubscriptionName::new(tokens.next()?).ok()?;
    let uid = tokens.next()?.to_owned();
    let generation = tokens.next()?.parse().ok()?;
    tokens.next().is_none().then_some(Incarnation { name, uid, generation })
}

/// The key of the hand-out journal of a prefill queue.
pub fn journal_prefill_key(of: &Incarnation) -> String {
    format!("{}.prefill", cursor_key(of))
}

/// The key of the hand-out journal of the live events of a realm.
pub fn journal_live_key(of: &Incarnation, realm: &Realm) -> String {
    format!("{}.live.{realm}", cursor_key(of))
}

/// The keys of the hand-out journals of an incarnation.
pub fn journal_filter(of: &Incarnation) -> String {
    format!("{}.>", cursor_key(of))
}

/// Whose queue the key of a hand-out journal speaks of.
pub fn parse_journal_key(key: &Subject) -> Option<Incarnation> {
    let mut tokens = key.as_str().splitn(4, '.');
    let of: Vec<&str> = tokens.by_ref().take(3).collect();
    tokens.next()?;
    parse_cursor_key(&Subject::new(of.join(".")).ok()?)
}

/// The key of the lease on a prefill, in [`LEASES_BUCKET`]: held by the worker that fills it.
pub fn claim_key(of: &Incarnation) -> String {
    format!("{CLAIMS}.{}", cursor_key(of))
}

/// Every row and the manifest of one prefill.
pub fn prefill_filter(of: &Incarnation) -> Result<SubjectFilter, Error> {
    SubjectFilter::new(format!("prefill.{}.>", cursor_key(of)))
}

/// The subject of a row: `prefill.<name>.<uid>.<generation>.row.<realm>.<topic>.<key>`.
pub fn row_subject(of: &Incarnation, topic: &Topic, key: &Key) -> Result<Subject, Error> {
    let place = format!("{}.{}.{}", topic.realm, topic.name, key.to_token());
    Subject::new(format!("prefill.{}.row.{place}", cursor_key(of)))
}

/// Reads the subject of a row back.
pub fn parse_row_subject(subject: &Subject) -> Option<(Topic, Key)> {
    parse_place(subject.as_str().splitn(6, '.').nth(5)?)
}

/// The subject of the manifest that closes a prefill.
pub fn manifest_subject(of: &Incarnation) -> Result<Subject, Error> {
    Subject::new(format!("prefill.{}.manifest", cursor_key(of)))
}

/// The dead letters of a subscription's life, all generations.
pub fn dead_letters_filter(of: &Incarnation) -> String {
    format!("{DEAD_LETTERS}.{}.{}.>", of.name, of.uid)
}

/// The subject of a dead letter:
/// `dead.<name>.<uid>.<generation>.<part>.<sequence>.<attempt>.<realm>.<topic>.<key>`.
pub fn dead_letter_subject(
    of: &Incarnation,
    part: &str,
    sequence: u64,
    attempt: u32,
    topic: &Topic,
    key: &Key,
) -> Result<Subject, Error> {
    let place = format!("{}.{}.{}", topic.realm, topic.name, key.to_token());
    let of = cursor_key(of);
    Subject::new(format!("{DEAD_LETTERS}.{of}.{part}.{sequence}.{attempt}.{place}"))
}

/// What the subject of a dead letter says.
pub struct DeadLetter<'a> {
    /// Of which generation of the subscription.
    pub generation: u32,
    /// Of which part: the prefill queue or the live events.
    pub part: &'a str,
    /// Its place in that part.
    pub sequence: u64,
    /// At which attempt it was given up.
    pub attempt: u32,
    /// Where the event belongs.
    pub topic: Topic,
    /// What the event is about.
    pub key: Key,
}

/// Reads the subject of a dead letter back.
pub fn parse_dead_letter_subject(subject: &Subject) -> Option<DeadLetter<'_>> {
    let mut tokens = subject.as_str().splitn(8, '.').skip(3);
    let generation = tokens.next()?.parse().ok()?;
    let part = tokens.next()?;
    let sequence = tokens.next()?.parse().ok()?;
    let attempt = tokens.next()?.parse().ok()?;
    let (topic, key) = parse_place(tokens.next()?)?;
    Some(DeadLetter { generation, part, sequence, attempt, topic, key })
}

/// A bucket by its constant.
pub fn bucket(name: &str) -> Result<BucketName, Error> {
    BucketName::new(name)
}
