//! What really happened: the logs, read from the bus itself after the fact.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Bus, Start};
use lockgate::model::{Fence, LogEvent, Realm, TopicSet};

/// One event as its log holds it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) place: String,
    pub(crate) deleted: bool,
    pub(crate) body: String,
}

/// Every log, in order.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) logs: BTreeMap<Realm, Vec<Event>>,
}

/// The current state: place to the sequence and body of its last event; deleted ones are not there.
pub(crate) type State = BTreeMap<(Realm, String), (u64, String)>;

impl Truth {
    /// Reads what the topics include.
    pub(crate) async fn read(bus: &Bus, realms: &[Realm], topics: &TopicSet) -> Self {
        let mut logs = BTreeMap::new();
        for realm in realms {
            let Ok(stream) = bus.stream(format!("events-{realm}")).await else { continue };
            let last = stream.info().await.expect("log info").last_sequence;
            let mut reader = stream.reader(&[], Start::Beginning).await.expect("log reader");
            let (mut events, mut at) = (Vec::new(), 0);
            while at < last {
                let batch = reader.next(500, Duration::from_secs(5)).await.expect("log read");
                assert!(!batch.is_empty(), "the log of {realm} stops at {at} of {last}");
                for message in &batch {
                    at = message.sequence;
                    let event = LogEvent::from_log(message).expect("an event");
                    if topics.matches(&event.topic) {
                        events.push(Event::from(&event));
                    }
                }
            }
            logs.insert(realm.clone(), events);
        }
        Self { logs }
    }

    /// The state at a fence.
    pub(crate) fn state_at(&self, fence: &Fence) -> State {
        let mut state = State::new();
        for (realm, events) in &self.logs {
            let fence = fence.get(realm).copied().unwrap_or(0);
            for event in events.iter().filter(|event| event.sequence <= fence) {
                event.apply(realm, &mut state);
            }
        }
        state
    }

    /// The state after everything.
    pub(crate) fn state(&self) -> State {
        let end = self.logs.keys().map(|realm| (realm.clone(), u64::MAX)).collect();
        self.state_at(&end)
    }

    /// The events of a realm after a sequence.
    pub(crate) fn after(&self, realm: &Realm, sequence: u64) -> impl Iterator<Item = &Event> {
        self.logs.get(realm).into_iter().flatten().filter(move |event| event.sequence > sequence)
    }
}

impl Event {
    /// What an event does to the state.
    pub(crate) fn apply(&self, realm: &Realm, state: &mut State) {
        let place = (realm.clone(), self.place.clone());
        if self.deleted {
            state.remove(&place);
        } else {
            state.insert(place, (self.sequence, self.body.clone()));
        }
    }
}

impl From<&LogEvent> for Event {
    fn from(event: &LogEvent) -> Self {
        let json: serde_json::Value =
            serde_json::from_slice(&event.to_json()).expect("an event is JSON");
        Self::from_json(&json).1
    }
}

impl Event {
    /// Reads a delivered event; returns its realm with it.
    pub(crate) fn from_json(json: &serde_json::Value) -> (Realm, Self) {
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        let topic: lockgate::model::Topic = text("topic").parse().expect("a topic");
        let event = Self {
            sequence: text("logsequence").parse().expect("a log sequence"),
            place: format!("{} {}", topic.name, text("subject")),
            deleted: json.get("data").is_none() && json.get("data_base64").is_none(),
            body: json.get("data").map(ToString::to_string).unwrap_or_default(),
        };
        (topic.realm, event)
    }
}
