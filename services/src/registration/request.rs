//! What a client asks for, checked.

use std::time::Duration;

use serde::Deserialize;

use crate::limits::MAX_ACK_WAIT;
use crate::model::{BadField, HumanDuration, Invalid, Subscription, SubscriptionName, TopicSet};
use crate::store::{Signer, check_secret};

const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
const MIN_ACK_WAIT: Duration = Duration::from_secs(1);

/// The body of `POST /v1/subscriptions`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    name: SubscriptionName,
    topics: TopicSet,
    #[serde(default)]
    prefill: bool,
    secret: Option<String>,
    ack_wait: Option<HumanDuration>,
    max_attempts: Option<u32>,
    dead_letters: Option<bool>,
}

/// A subscription to register.
#[derive(Clone)]
pub struct Request {
    /// Its name.
    pub name: SubscriptionName,
    /// What it wants.
    pub topics: TopicSet,
    /// Whether the current state comes first.
    pub prefill: bool,
    /// The client's own secret; without one it gets one.
    pub secret: Option<String>,
    /// How long a delivery is leased in queue mode.
    pub ack_wait: Duration,
    /// In queue mode an event that failed so often is given up; `None` for never.
    pub max_attempts: Option<u32>,
    /// Whether what is given up is kept; `None` for the default, which is yes.
    pub dead_letters: Option<bool>,
}

impl Request {
    /// Checks a body. What is refused is named.
    pub(super) fn parse(body: Body) -> Result<Self, BadField> {
        let ack_wait = body.ack_wait.map_or(DEFAULT_ACK_WAIT, |wait| wait.0);
        if !(MIN_ACK_WAIT..=MAX_ACK_WAIT).contains(&ack_wait) {
            let (least, most) = (MIN_ACK_WAIT.as_secs(), MAX_ACK_WAIT.as_secs());
            let why = Invalid::new(format!("ack_wait must be between {least}s and {most}s"));
            return Err(BadField::new("ack_wait", why));
        }
        if body.max_attempts == Some(0) {
            let why = Invalid::new(
                "max_attempts is 0: an event is delivered at least once, or \
                                    leave it out for no limit",
            );
            return Err(BadField::new("max_attempts", why));
        }
        if let Some(secret) = &body.secret {
            check_secret(secret).map_err(|why| BadField::new("secret", why))?;
        }
        let Body { name, topics, prefill, secret, max_attempts, dead_letters, .. } = body;
        Ok(Self { name, topics, prefill, secret, ack_wait, max_attempts, dead_letters })
    }

    /// The fields in which an existing subscription differs from this request; none means that
    /// the request is a repeat. A secret counts only if the client brings one.
    pub(super) fn differences(&self, kept: &Subscription, signer: &Signer) -> Vec<&'static str> {
        let other_secret = |own: &String| !signer.secret_matches(own, &kept.secret_hash);
        let compared = [
            ("topics", self.topics != kept.topics),
            ("prefill", self.prefill != kept.wants_prefill()),
            ("ack_wait", self.ack_wait != kept.ack_wait),
            ("max_attempts", self.max_attempts != kept.max_attempts),
            ("dead_letters", self.dead_letters.unwrap_or(true) != kept.keeps_dead_letters()),
            ("secret", self.secret.as_ref().is_some_and(other_secret)),
        ];
        compared.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
    }
}
