//! A delivered event, as far as a terminal needs it.

use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::failure::Failure;
use crate::model::Topic;

/// Which half of a subscription an event belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// A row of the current state.
    Prefill,
    /// A later change.
    Live,
}

impl Phase {
    /// As the API writes it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Live => "live",
        }
    }
}

/// An event with the attributes that every delivered event has.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) phase: Phase,
    pub(crate) topic: Topic,
    pub(crate) sequence: u64,
    pub(crate) key: String,
    pub(crate) event: Value,
}

impl Delivery {
    /// Reads a structured CloudEvent.
    pub(crate) fn parse(phase: Phase, event: Value) -> Result<Self, Failure> {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        let topic = text("topic").and_then(|topic| topic.parse().ok());
        let sequence = text("logsequence").and_then(|sequence| sequence.parse().ok());
        let (Some(topic), Some(sequence)) = (topic, sequence) else {
            return Err(Failure::new(
                "an event came without its topic or logsequence\n  \
                 check that --server is a Lockgate server of this version",
            ));
        };
        let key = text("subject").unwrap_or_default().to_owned();
        Ok(Self { phase, topic, sequence, key, event })
    }

    /// The data on one line; none for a deleted key.
    pub(crate) fn data(&self) -> Option<String> {
        let data = self.event.get("data").or_else(|| self.event.get("data_base64"))?;
        Some(data.to_string())
    }

    /// How long ago its time was, by this machine's clock.
    pub(crate) fn age(&self) -> Option<Duration> {
        let time = OffsetDateTime::parse(self.event.get("time")?.as_str()?, &Rfc3339).ok()?;
        Duration::try_from(OffsetDateTime::now_utc() - time).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_shown_comes_from_the_event() {
        let event = json!({"topic":"a.b","logsequence":"17","subject":"k","data":{"x":1},
            "time":"2020-01-01T00:00:00+02:00"});
        let delivery = Delivery::parse(Phase::Live, event).unwrap();
        assert_eq!((delivery.sequence, delivery.key.as_str()), (17, "k"));
        assert_eq!(delivery.data().unwrap(), r#"{"x":1}"#);
        assert!(delivery.age().unwrap() > Duration::from_secs(1));

        let tombstone = json!({"topic":"a.b","logsequence":"18"});
        assert_eq!(Delivery::parse(Phase::Live, tombstone).unwrap().data(), None);
        assert!(Delivery::parse(Phase::Live, json!({"topic":"a.b"})).is_err());
    }
}
