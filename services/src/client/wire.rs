//! The bodies that go over HTTP, as a client sees them: what it does not know it keeps.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The body of a registration.
#[derive(Clone, PartialEq, Eq, Serialize)]
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
}

/// Without the secret, so that it stands in no log.
impl fmt::Debug for NewSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, topics, prefill, ack_wait, secret: _ } = self;
        f.debug_struct("NewSubscription")
            .field("name", name)
            .field("topics", topics)
            .field("prefill", prefill)
            .field("ack_wait", ack_wait)
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

/// A batch of leased deliveries.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct Pulled {
    /// In order.
    #[serde(default)]
    pub messages: Vec<Leased>,
    /// Where the queue stands: `prefill` or `live`, or something before either.
    #[serde(default)]
    pub phase: String,
}

/// A delivery in queue mode, leased until it is settled.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Leased {
    /// Settles it.
    pub ack: String,
    /// 1 for the first delivery.
    #[serde(default)]
    pub attempt: u32,
    /// `prefill` or `live`.
    #[serde(default)]
    pub phase: String,
    /// The event, a structured CloudEvent.
    pub event: Value,
}

/// The answer to settlements, one result each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Settled {
    /// In the order of the request.
    pub results: Vec<SettledItem>,
}

/// What became of one settlement.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SettledItem {
    /// The delivery.
    pub id: String,
    /// `done`, or why not: `stale` means that it is delivered again.
    pub status: String,
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
}
