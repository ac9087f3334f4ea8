//! The bodies that go over HTTP, as a client sees them: what it does not know it keeps.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The body of a registration.
#[derive(Clone, PartialEq, Eq, Default, Serialize)]
pub struct NewSubscription {
    /// The name.
    pub name: String,
    /// Topics as `realm.topic`, `*` allowed for either token.
    pub topics: Vec<String>,
    /// Whether the current state comes first.
    pub prefill: bool,
    /// The client's own secret of at least 32 visible characters: known before the request, so
    /// that a lost answer costs nothing.
    pub secret: String,
    /// How long a delivery is leased in queue mode, for example `30s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_wait: Option<String>,
    /// How often a delivery is tried in queue mode; without end if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Whether what is given up in queue mode is kept as a dead letter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dead_letters: bool,
}

/// Without the secret, so that it stands in no log.
impl fmt::Debug for NewSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, topics, prefill, ack_wait, max_attempts, dead_letters, secret: _ } = self;
        f.debug_struct("NewSubscription")
            .field("name", name)
            .field("topics", topics)
            .field("prefill", prefill)
            .field("ack_wait", ack_wait)
            .field("max_attempts", max_attempts)
            .field("dead_letters", dead_letters)
            .finish_non_exhaustive()
    }
}

/// A subscription as the server shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionStatus {
    /// The name.
    pub name: String,
    /// Its topics.
    pub topics: Vec<String>,
    /// Where its prefill stands.
    pub prefill: PrefillStatus,
    /// Per realm the log sequence up to which prefill is the state.
    #[serde(default)]
    pub fence: BTreeMap<String, u64>,
    /// Raised by each (re-)prefill.
    #[serde(default)]
    pub generation: u32,
    /// Differs when the name was deleted and registered again.
    #[serde(default)]
    pub uid: String,
    /// Events not handed out yet in queue mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Deliveries that are out in queue mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsettled: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Where a prefill stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrefillStatus {
    /// `none`, `pending`, `running`, `done`, `failed` or `cancelled`.
    pub status: String,
    /// Rows written so far, or in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Keys looked at so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scanned: Option<u64>,
    /// Keys in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Over all rows, when done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A realm as the server shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RealmStatus {
    /// The name.
    pub name: String,
    /// Whether prefills can read the state: `whole`, `accepted`, `incomplete`, or `missing` where
    /// there is no log.
    pub history: String,
    /// Events held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// Bytes held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Where the log begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_sequence: Option<u64>,
    /// Where it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sequence: Option<u64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The answer to the question for all realms.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Realms {
    pub(super) realms: Vec<RealmStatus>,
}

/// One page of subscriptions.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SubscriptionPage {
    /// In order of their names.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// Asks for the next page; none on the last.
    pub next_page_token: Option<String>,
}

/// The answer to a batch of events.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct PublishAnswer {
    pub(crate) results: Vec<Published>,
}

/// What became of one event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The event's id.
    pub id: String,
    /// The realm whose log holds it.
    #[serde(default)]
    pub realm: String,
    /// Its place in that log.
    #[serde(default)]
    pub sequence: u64,
    /// True when the log held it already and it was not stored again.
    #[serde(default)]
    pub duplicate: bool,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The body of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PullRequest {
    /// How many deliveries at most.
    pub max: usize,
    /// How long to wait for the first, for example `20s`.
    pub wait: String,
    /// How many of one key at most: 1 is one at a time. What the server chooses if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_key: Option<usize>,
}

/// A batch of leased deliveries.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Pulled {
    /// In order.
    #[serde(default)]
    pub messages: Vec<Leased>,
    /// Where the queue stands: `prefill` or `live`, or something before either.
    #[serde(default)]
    pub phase: String,
}

/// A delivery in queue mode, leased until it is settled.
#[derive(Debug, Clone, Deserialize)]
pub struct Leased {
    /// Settles it.
    pub ack: String,
    /// 1 for the first delivery.
    #[serde(default)]
    pub attempt: u32,
    /// `prefill` or `live`.
    #[serde(default)]
    pub phase: String,
    /// The event, a structured CloudEvent, as the server wrote it.
    pub event: Box<RawValue>,
}

/// The body of a settlement: each delivery by its `ack`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Settlements {
    /// Done: never again. Of a key in the order in which they came.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ack: Vec<String>,
    /// Not done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nack: Vec<Nack>,
    /// Still at work: leased anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extend: Vec<String>,
}

/// A delivery that was not done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Nack {
    /// The delivery.
    pub id: String,
    /// How long until it comes again, for example `5s`; at once if it is not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<String>,
    /// Never again: it is given up, and kept as a dead letter where the subscription has them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reject: bool,
    /// Why it is given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to settlements, one result each.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Settled {
    /// In the order of the request.
    pub results: Vec<SettledItem>,
}

/// What became of one settlement, or of one dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledItem {
    /// The delivery or dead letter.
    pub id: String,
    /// `done`, or why not. `stale`: the lease is over and it is delivered again, or, of a dead
    /// letter, it cannot be delivered any more. `early`: an event of its key before it is not
    /// settled yet. `failed`: the bus did not answer. `unknown`: there is no such one.
    pub status: String,
}

/// One page of dead letters.
#[derive(Debug, Clone, Deserialize)]
pub struct DeadLetterPage {
    /// In the order of the queue.
    pub dead_letters: Vec<DeadLetter>,
    /// Asks for the next page; none on the last.
    pub next_page_token: Option<String>,
}

/// An event that was given up, and why.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it in a request to redrive or drop it.
    pub id: String,
    /// `prefill` or `live`.
    #[serde(default)]
    pub phase: String,
    /// The realm whose log holds the event.
    #[serde(default)]
    pub realm: String,
    /// Its place in that log.
    #[serde(default)]
    pub sequence: u64,
    /// How often it was delivered.
    #[serde(default)]
    pub attempts: u32,
    /// Why it was given up.
    #[serde(default)]
    pub reason: String,
    /// When, in RFC 3339.
    #[serde(default)]
    pub since: String,
    /// The event, a structured CloudEvent, as the server wrote it.
    pub event: Box<RawValue>,
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeadLetters {
    /// Those with these ids.
    Ids(Vec<String>),
    /// `true`: every one.
    All(bool),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_what_it_does_not_know() {
        let text = r#"{"name":"p","topics":["a.*"],"prefill":{"status":"done","rows":3,"digest":"ab"},"fence":{"a":7},"generation":1,"uid":"u","lag":0,"created":"2026-01-01T00:00:00Z"}"#;
        let status: SubscriptionStatus = serde_json::from_str(text).unwrap();
        assert_eq!(status.prefill.rows, Some(3));
        let (again, first): (Value, Value) =
            (serde_json::to_value(&status).unwrap(), serde_json::from_str(text).unwrap());
        assert_eq!(again, first);
    }

    #[test]
    fn events_stay_as_they_are_written() {
        let event = r#"{"z":12345678901234567890123,"a":1.10,"a":"\ud800"}"#;
        let text = format!(r#"{{"messages":[{{"ack":"x","event":{event},"more":1}}]}}"#);
        let pulled: Pulled = serde_json::from_str(&text).unwrap();
        assert_eq!(pulled.messages[0].event.get(), event);
        let text = format!(r#"{{"dead_letters":[{{"id":"1","event":{event}}}]}}"#);
        let page: DeadLetterPage = serde_json::from_str(&text).unwrap();
        assert!(serde_json::to_string(&page.dead_letters[0]).unwrap().contains(event));
    }

    #[test]
    fn only_what_is_said_is_sent() {
        fn json(body: &impl Serialize) -> String {
            serde_json::to_string(body).unwrap()
        }
        let pull = PullRequest { max: 3, wait: "5s".into(), max_per_key: None };
        assert_eq!(json(&pull), r#"{"max":3,"wait":"5s"}"#);
        let nack = Nack { id: "a".into(), reject: true, ..Nack::default() };
        let settlements = Settlements { nack: vec![nack], ..Settlements::default() };
        assert_eq!(json(&settlements), r#"{"nack":[{"id":"a","reject":true}]}"#);
        assert_eq!(json(&DeadLetters::All(true)), r#"{"all":true}"#);
        assert_eq!(json(&DeadLetters::Ids(vec!["7".into()])), r#"{"ids":["7"]}"#);
    }
}
