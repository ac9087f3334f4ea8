//! The log itself as source: per key the last event at or before the fence.

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use bus::{Stream, Subject};

use super::source::{Page, Position, Source, SourceError};
use crate::model::{Fence, Key, LogEvent, Realm, Topic, TopicSet, names};
use crate::store::{Completeness, Store};

const PAGE_KEYS: usize = 500;

/// Reads the state of the logs at a fence, exactly: newer events do not hide older state, and a
/// key whose last event is a tombstone is left out.
///
/// The keys are listed once, when the source is opened. Keys that are born later are past the
/// fence and are not looked up; keys never vanish, because a log refuses to lose history.
pub(super) struct LogSource {
    store: Store,
    logs: BTreeMap<Realm, Log>,
    total: u64,
}

struct Log {
    stream: Stream,
    fence: u64,
    /// What is left of the listing: place to the subjects that mean it, in the order of places.
    places: VecDeque<(String, Vec<Subject>)>,
}

impl LogSource {
    /// Lists the keys of every realm of the fence.
    pub(super) async fn open(
        store: &Store,
        topics: &TopicSet,
        fence: &Fence,
    ) -> Result<Self, SourceError> {
        let mut logs = BTreeMap::new();
        for (realm, fence) in fence.iter().filter(|(_, fence)| **fence > 0) {
            let stream = store.log(realm).await?;
            let places = list_places(&stream, topics, realm).await?;
            check_history(store, realm).await?;
            logs.insert(realm.clone(), Log { stream, fence: *fence, places });
        }
        let total = logs.values().map(|log| log.places.len() as u64).sum();
        Ok(Self { store: store.clone(), logs, total })
    }

    /// Forgets the places that were read before `position`.
    fn seek(&mut self, position: &Position) {
        self.logs.retain(|realm, _| *realm >= position.realm);
        if let Some(log) = self.logs.get_mut(&position.realm) {
            while log.places.front().is_some_and(|(place, _)| *place <= position.place) {
                log.places.pop_front();
            }
        }
    }
}

#[async_trait]
impl Source for LogSource {
    async fn page(&mut self, position: Option<&Position>) -> Result<Page, SourceError> {
        if let Some(position) = position {
            self.seek(position);
        }
        self.logs.retain(|_, log| !log.places.is_empty());
        let Some((realm, log)) = self.logs.iter().next() else {
            return Ok(Page { rows: Vec::new(), scanned: 0, total: self.total, next: None });
        };
        let page: Vec<_> = log.places.iter().take(PAGE_KEYS).collect();
        let subjects: Vec<Subject> = page.iter().flat_map(|(_, s)| s.iter().cloned()).collect();
        let mut rows: BTreeMap<(Topic, Key), LogEvent> = BTreeMap::new();
        for message in log.stream.last_at(&subjects, log.fence).await? {
            let Some(event) = LogEvent::from_log(&message) else { continue };
            let place = (event.topic.clone(), event.key.clone());
            if rows.get(&place).is_none_or(|kept| kept.sequence < event.sequence) {
                rows.insert(place, event);
            }
        }
        check_history(&self.store, realm).await?;
        let next =
            page.last().map(|(place, _)| Position { realm: realm.clone(), place: place.clone() });
        Ok(Page {
            scanned: page.len() as u64,
            rows: rows.into_values().filter(|event| !event.is_tombstone()).collect(),
            total: self.total,
            next,
        })
    }
}

/// The places of a realm in order. Publishers outside Lockgate may write one key as several
/// tokens; those are one place.
async fn list_places(
    stream: &Stream,
    topics: &TopicSet,
    realm: &Realm,
) -> Result<VecDeque<(String, Vec<Subject>)>, bus::Error> {
    let mut places: BTreeMap<String, Vec<Subject>> = BTreeMap::new();
    for filter in topics.filters(realm) {
        for subject in stream.subjects(&filter).await? {
            if let Some((topic, key)) = names::parse_event_subject(&subject) {
                let place = format!("{}.{}", topic.name, key.to_token());
                places.entry(place).or_default().push(subject);
            }
        }
    }
    Ok(places.into_iter().collect())
}

/// A log that has lost its beginning cannot say what the state was: a key that was published
/// only there is not even known. An admin who knows better says so.
async fn check_history(store: &Store, realm: &Realm) -> Result<(), SourceError> {
    let log = store.log_info(realm).await?;
    if store.completeness(realm, &log).await? != Completeness::Incomplete {
        return Ok(());
    }
    let first = log.first_sequence;
    Err(SourceError::Impossible(format!(
        "history-incomplete: the log of realm {realm} begins at sequence {first}, so the state of \
         its keys is not known: publish every key anew, run lockgate realms accept-history \
         {realm} and prefill again, or register without prefill"
    )))
}
