//! What a client asks for, checked.

use std::time::Duration;

use serde::Deserialize;

use crate::limits::MAX_ACK_WAIT;
use crate::model::{Invalid, Subscription, SubscriptionName, TopicSet};
use crate::store::{Signer, check_secret};

const DEFAULT_ACK_WAIT: Duration = Duration::from_secs(30);
const MIN_ACK_WAIT: Duration = Duration::from_secs(1);

/// The body of `POST /v1/subscriptions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    pub(crate) name: String,
    pub(crate) topics: Vec<String>,
    #[serde(default)]
    pub(crate) prefill: bool,
    pub(crate) secret: Option<String>,
    pub(crate) ack_wait: Option<String>,
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
}

impl Request {
    /// Checks a body. The error names the field.
    pub(crate) fn parse(body: Body) -> Result<Self, (&'static str, Invalid)> {
        let ack_wait = match body.ack_wait {
            None => DEFAULT_ACK_WAIT,
            Some(text) => parse_ack_wait(&text).map_err(|why| ("ack_wait", why))?,
        };
        if let Some(secret) = &body.secret {
            check_secret(secret).map_err(|why| ("secret", why))?;
        }
        Ok(Self {
            name: SubscriptionName::new(body.name).map_err(|why| ("name", why))?,
            topics: TopicSet::parse(&body.topics).map_err(|why| ("topics", why))?,
            prefill: body.prefill,
            secret: body.secret,
            ack_wait,
        })
    }

    /// The fields in which an existing subscription differs from this request; none means that
    /// the request is a repeat. A secret counts only if the client brings one.
    pub(super) fn differences(
        &self,
        kept: &Subscription,
        signer: &Signer,
    ) -> Vec<&'static str> {
        let other_secret = |own: &String| !signer.secret_matches(own, &kept.secret_hash);
        let compared = [
            ("topics", self.topics != kept.topics),
            ("prefill", self.prefill != kept.wants_prefill()),
            ("ack_wait", self.ack_wait != kept.ack_wait),
            ("secret", self.secret.as_ref().is_some_and(other_secret)),
        ];
        compared.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
    }
}

fn parse_ack_wait(text: &str) -> Result<Duration, Invalid> {
    let wait = humantime::parse_duration(text).map_err(|_| {
        Invalid::new(format!("ack_wait is {text:?}: write a duration, for example \"30s\""))
    })?;
    if (MIN_ACK_WAIT..=MAX_ACK_WAIT).contains(&wait) {
        return Ok(wait);
    }
    let (least, most) = (MIN_ACK_WAIT.as_secs(), MAX_ACK_WAIT.as_secs());
    Err(Invalid::new(format!("ack_wait is {text:?}: choose between {least} s and {most} s")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Request, (&'static str, Invalid)> {
        Request::parse(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn an_error_names_its_field() {
        let field = |json: &str| parse(json).err().map(|(field, _)| field);
        assert_eq!(field(r#"{"name":"A","topics":["a.b"]}"#), Some("name"));
        assert_eq!(field(r#"{"name":"a","topics":["a"]}"#), Some("topics"));
        assert_eq!(field(r#"{"name":"a","topics":["a.b"],"secret":"short"}"#), Some("secret"));
        assert_eq!(field(r#"{"name":"a","topics":["a.b"],"ack_wait":"1ms"}"#), Some("ack_wait"));
        assert_eq!(field(r#"{"name":"a","topics":["a.b"],"ack_wait":"5s"}"#), None);
    }
}
