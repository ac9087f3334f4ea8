//! A delivered event, as far as a terminal needs it.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::raw::{Members, one_line};
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
    /// The whole of it, as the server wrote it, on one line.
    pub(crate) event: String,
    /// The data as JSON, on one line; none for a deleted key.
    pub(crate) data: Option<String>,
    time: Option<OffsetDateTime>,
}

impl Delivery {
    /// Reads a structured CloudEvent. `None` when it is not one that a server of this version
    /// sends: it can be shown, and nothing else.
    pub(crate) fn parse(phase: Phase, event: &str) -> Option<Self> {
        let members: Members<'_> = serde_json::from_str(event).ok()?;
        let data = members.get("data").or_else(|| members.get("data_base64"));
        let time = members.text("time");
        Some(Self {
            phase,
            topic: members.text("topic")?.parse().ok()?,
            sequence: members.text("logsequence")?.parse().ok()?,
            key: members.text("subject").unwrap_or_default(),
            event: one_line(event),
            data: data.map(one_line),
            time: time.and_then(|time| OffsetDateTime::parse(&time, &Rfc3339).ok()),
        })
    }

    /// How long ago its time was, by this machine's clock.
    pub(crate) fn age(&self) -> Option<Duration> {
        Duration::try_from(OffsetDateTime::now_utc() - self.time?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_comes_from_the_event() {
        let event = r#"{"topic":"a.b","logsequence":"17","subject":"k","data":{"z":1.10,"a":1E2,
            "a":12345678901234567890123},"time":"2020-01-01T00:00:00+02:00"}"#;
        let delivery = Delivery::parse(Phase::Live, event).unwrap();
        assert_eq!((delivery.sequence, delivery.key.as_str()), (17, "k"));
        let data = delivery.data.as_deref().unwrap();
        assert!(data.starts_with(r#"{"z":1.10,"a":1E2, "#), "{data}");
        assert!(data.ends_with(r#""a":12345678901234567890123}"#), "{data}");
        assert!(delivery.event.starts_with(r#"{"topic":"a.b","logsequence":"17""#));
        assert!(!delivery.event.contains('\n'));
        assert!(delivery.age().unwrap() > Duration::from_secs(1));

        let tombstone = r#"{"topic":"a.b","logsequence":"18"}"#;
        assert_eq!(Delivery::parse(Phase::Live, tombstone).unwrap().data, None);
    }

    #[test]
    fn data_that_no_strict_reader_takes_is_shown_all_the_same() {
        for data in ["\"\\ud800\"", "1e999", &format!("{}{}", "[".repeat(500), "]".repeat(500))] {
            let event = format!(r#"{{"topic":"a.b","logsequence":"1","data":{data}}}"#);
            let delivery = Delivery::parse(Phase::Live, &event).unwrap();
            assert_eq!(delivery.data.as_deref(), Some(data));
        }
        for not_one in ["", "{", "[]", r#"{"topic":"a.b"}"#, r#"{"topic":"a","logsequence":"1"}"#] {
            assert!(Delivery::parse(Phase::Live, not_one).is_none(), "{not_one}");
        }
    }
}
