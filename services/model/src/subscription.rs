//! A subscription as it is kept: one record per name, written by the registration API alone.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::invalid::Invalid;
use super::mark::Mark;
use super::topic::{Realm, TopicSet};

const MAX_NAME_BYTES: usize = 48;

/// The name of a subscription: 1 to 48 characters of `a-z 0-9 _ -`, the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SubscriptionName(String);

impl SubscriptionName {
    /// Parses a name.
    pub fn new(name: impl Into<String>) -> Result<Self, Invalid> {
        let name = name.into();
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed) {
            return Ok(Self(name));
        }
        Err(Invalid::new(format!(
            "name is {name:?}: write 1 to {MAX_NAME_BYTES} characters of a-z 0-9 _ -, \
             beginning with a letter or digit"
        )))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SubscriptionName {
    type Error = Invalid;
    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl From<SubscriptionName> for String {
    fn from(name: SubscriptionName) -> Self {
        name.0
    }
}

/// The log sequence of each realm at registration: prefill is the state up to it, live starts
/// right after it. A realm that joins later stands at 0.
pub type Fence = BTreeMap<Realm, u64>;

/// The fence with what tells each place in a log from one of the same sequence in another history.
pub type Marks = BTreeMap<Realm, Mark>;

/// One life of a subscription: a name that is deleted and registered again has a new `uid`, and
/// each (re-)prefill a higher `generation`. Whatever is kept on the bus for it carries all three,
/// so that nothing of an earlier life is ever taken for this one's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incarnation {
    /// The subscription's name.
    pub name: SubscriptionName,
    /// 16 lower-case hexadecimal digits, drawn at registration.
    pub uid: String,
    /// Raised by each (re-)prefill, from 1; fences zombies.
    pub generation: u32,
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, generation {})", self.name, self.uid, self.generation)
    }
}

/// Proof of a complete prefill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The generation it belongs to.
    pub generation: u32,
    /// What the rows are the state of.
    pub fence: Fence,
    /// How many rows there are.
    pub rows: u64,
    /// Over all rows, in any order: see [`super::digest::RowsDigest`].
    pub digest: String,
}

/// Where a subscription's prefill stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum Prefill {
    /// Registered without prefill: live only.
    None,
    /// Requested; a worker may be at it (its cursor tells).
    Pending,
    /// Complete: the consumer is served.
    Done {
        /// What it holds.
        manifest: Manifest,
    },
    /// Given up.
    Failed {
        /// Why, and what to do.
        reason: String,
    },
    /// Called off.
    Cancelled,
}

/// A subscription. The JSON form is what the `lockgate-subscriptions` bucket holds: keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Which life of which name.
    #[serde(flatten)]
    pub incarnation: Incarnation,
    /// What it wants.
    pub topics: TopicSet,
    /// Where its prefill stands.
    pub prefill: Prefill,
    /// Where prefill ends and live begins; its realms are those the subscription is served from.
    pub fence: Fence,
    /// The places of the fence. One that is missing, or is of another sequence, was written by an
    /// earlier version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: Marks,
    /// How long a delivery is leased in queue mode.
    #[serde(rename = "ack_wait_ms", with = "millis")]
    pub ack_wait: Duration,
    /// In queue mode an event that failed so often is given up; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Whether what is given up is kept as a dead letter; `None` for the default, which is yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<bool>,
    /// When it was registered, milliseconds since 1970.
    pub created_ms: u64,
    /// The keyed hash of its secret, hexadecimal.
    pub secret_hash: String,
}

impl Subscription {
    /// The subscription's name.
    pub fn name(&self) -> &SubscriptionName {
        &self.incarnation.name
    }

    /// The place of the fence in a realm's log; before its first event where the realm is not in
    /// the fence.
    pub fn mark(&self, realm: &Realm) -> Mark {
        let sequence = self.fence.get(realm).copied().unwrap_or(0);
        let known = self.marks.get(realm).filter(|mark| mark.sequence == sequence);
        known.copied().unwrap_or_else(|| Mark::bare(sequence))
    }

    /// The places of the whole fence.
    pub fn fence_marks(&self) -> Marks {
        self.fence.keys().map(|realm| (realm.clone(), self.mark(realm))).collect()
    }

    /// True when the consumer may be served: live only, or prefill complete.
    pub fn is_open(&self) -> bool {
        matches!(self.prefill, Prefill::None | Prefill::Done { .. })
    }

    /// Whether an event that is given up is kept.
    pub fn keeps_dead_letters(&self) -> bool {
        self.dead_letters.unwrap_or(true)
    }

    /// True when prefill was asked for.
    pub fn wants_prefill(&self) -> bool {
        self.prefill != Prefill::None
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_form_is_stable() {
        let text = r#"{"name":"people","uid":"00ff00ff00ff00ff","generation":2,"topics":["directory.*"],"prefill":{"status":"done","manifest":{"generation":2,"fence":{"directory":7},"rows":3,"digest":"ab"}},"fence":{"directory":7},"ack_wait_ms":30000,"created_ms":1,"secret_hash":"cd"}"#;
        let subscription: Subscription = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&subscription).unwrap(), text, "without marks, as it was");
        let realm = Realm::new("directory").unwrap();
        assert_eq!(subscription.mark(&realm), Mark::bare(7));

        let marked = text.replace(
            r#""ack_wait_ms""#,
            r#""marks":{"directory":{"sequence":7,"time_ms":8,"life":9}},"ack_wait_ms""#,
        );
        let mut with: Subscription = serde_json::from_str(&marked).unwrap();
        assert_eq!(serde_json::to_string(&with).unwrap(), marked);
        assert_eq!(with.fence_marks(), with.marks);
        with.fence.insert(realm.clone(), 8);
        assert_eq!(with.mark(&realm), Mark::bare(8), "an earlier version has moved the fence");
        assert!(subscription.is_open() && subscription.wants_prefill());
    }

    #[test]
    fn names_are_checked() {
        for bad in ["", "-a", "A", "a.b", "a b", &"x".repeat(49)] {
            assert!(SubscriptionName::new(bad).is_err(), "{bad:?}");
        }
    }
}
