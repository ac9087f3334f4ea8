//! The live part of one client's stream: its realms, each from the ring or from the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::{Error, StoredMessage};
use futures_util::FutureExt;
use futures_util::future::select_all;

use super::catch_up::{CatchUp, Page};
use super::feed::{Feed, Feeds};
use super::ring::{Entry, Found};
use crate::limits::STREAM_PAGE_BYTES;
use crate::messages::position::Position;
use crate::messages::watched::Follower;
use crate::model::{History, Mark, Realm, TopicSet};

/// Events taken from the ring at once.
const BATCH: usize = 64;

/// The realms of one client.
pub(in crate::messages) struct Live {
    feeds: Feeds,
    topics: TopicSet,
    strands: BTreeMap<Realm, Strand>,
    /// The realm that gave something last: the one after it is looked at first.
    last: Option<Realm>,
}

struct Strand {
    feed: Arc<Feed>,
    changes: Follower<()>,
    /// The feed's epoch in which the position was held against the log.
    checked: Option<u64>,
    catch_up: Option<CatchUp>,
}

/// What one look gave.
pub(in crate::messages) enum Step {
    /// Events of a realm, and the place up to which everything has been looked at.
    Events {
        realm: Realm,
        entries: Vec<Arc<Entry>>,
        up_to: Mark,
        /// There may be more at once.
        more: bool,
    },
    /// Every realm has been looked at up to its head.
    UpToDate,
    /// Nothing new, but not every realm's log could be looked at.
    NotReady,
    /// A realm's log does not hold what comes next any more.
    Lost { realm: Realm, first_sequence: u64 },
    /// A realm's log is not the one that was read.
    Changed { realm: Realm, why: String },
}

impl Live {
    pub(in crate::messages) fn new<'a>(
        feeds: &Feeds,
        topics: &TopicSet,
        realms: impl IntoIterator<Item = &'a Realm>,
    ) -> Self {
        let mut live = Self {
            feeds: feeds.clone(),
            topics: topics.clone(),
            strands: BTreeMap::new(),
            last: None,
        };
        live.follow(realms);
        live
    }

    /// Adds the realms that joined.
    pub(in crate::messages) fn follow<'a>(&mut self, realms: impl IntoIterator<Item = &'a Realm>) {
        for realm in realms {
            if !self.strands.contains_key(realm) {
                self.strands.insert(realm.clone(), Strand::new(self.feeds.of(realm)));
            }
        }
    }

    /// Looks at the realms in turn and returns the first thing found after `position`.
    pub(in crate::messages) async fn step(&mut self, position: &Position) -> Result<Step, Error> {
        let mut all_ready = true;
        for realm in self.turns() {
            let Some(strand) = self.strands.get_mut(&realm) else { continue };
            let at = position.of(&realm).unwrap_or_else(|| Mark::bare(0));
            match strand.step(&self.feeds, &realm, at, &self.topics).await? {
                Step::UpToDate => {}
                Step::NotReady => all_ready = false,
                found => {
                    self.last = Some(realm);
                    return Ok(found);
                }
            }
        }
        Ok(if all_ready { Step::UpToDate } else { Step::NotReady })
    }

    /// Waits until a realm may have something new.
    pub(in crate::messages) async fn changed(&mut self) {
        let changes: Vec<_> =
            self.strands.values_mut().map(|strand| strand.changes.changed().boxed()).collect();
        if changes.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(changes).await;
    }

    fn turns(&self) -> Vec<Realm> {
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for realm in self.strands.keys() {
            let behind_last = self.last.as_ref().is_none_or(|last| realm > last);
            if behind_last { &mut first } else { &mut rest }.push(realm.clone());
        }
        first.append(&mut rest);
        first
    }
}

/// What fits a page that a client holds, in bytes; true when something was left out. A client that
/// stops reading keeps what the ring has long let go of.
fn within_bytes(mut entries: Vec<Arc<Entry>>, up_to: Mark) -> (Vec<Arc<Entry>>, Mark, bool) {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        let has_room = bytes < STREAM_PAGE_BYTES;
        bytes += entry.json.len();
        has_room
    });
    let fitting = fits.count();
    if fitting == entries.len() {
        return (entries, up_to, false);
    }
    entries.truncate(fitting);
    let place = |entry: &Arc<Entry>| Mark::of(up_to.life(), entry.sequence, entry.time);
    let up_to = entries.last().map_or(up_to, place);
    (entries, up_to, true)
}

impl Strand {
    fn new(feed: Arc<Feed>) -> Self {
        Self { changes: feed.changes(), feed, checked: None, catch_up: None }
    }

    /// What there is of one realm behind `at`.
    async fn step(
        &mut self,
        feeds: &Feeds,
        realm: &Realm,
        at: Mark,
        topics: &TopicSet,
    ) -> Result<Step, Error> {
        loop {
            // Marked as seen before the look, so that a change after it is not missed.
            self.changes.mark_seen();
            let epoch = self.feed.epoch();
            if self.checked != Some(epoch) {
                self.catch_up = None;
                match feeds.store.check_mark(realm, &at).await {
                    Ok(History::Same) => self.checked = Some(epoch),
                    Ok(History::Changed { why }) => {
                        return Ok(Step::Changed { realm: realm.clone(), why });
                    }
                    Ok(History::Purged { first_sequence }) => {
                        return Ok(Step::Lost { realm: realm.clone(), first_sequence });
                    }
                    // One realm without a log keeps no other waiting.
                    Err(_) if feeds.store.log_is_missing(realm).await? => {
                        return Ok(Step::NotReady);
                    }
                    Err(error) => return Err(error),
                }
            }
            let found = self.feed.after(at.sequence, topics, BATCH);
            if self.feed.epoch() == epoch {
                return self.take(feeds, realm, at, topics, found).await;
            }
        }
    }

    async fn take(
        &mut self,
        feeds: &Feeds,
        realm: &Realm,
        at: Mark,
        topics: &TopicSet,
        found: Option<Found>,
    ) -> Result<Step, Error> {
        match found {
            None => Ok(Step::NotReady),
            Some(Found::Older) => self.catch_up(feeds, realm, at, topics).await,
            Some(Found::Here { entries, up_to }) => {
                self.catch_up = None;
                if up_to.sequence <= at.sequence {
                    return Ok(Step::UpToDate);
                }
                let (entries, up_to, cut) = within_bytes(entries, up_to);
                let more = cut || entries.len() >= BATCH;
                Ok(Step::Events { realm: realm.clone(), entries, up_to, more })
            }
        }
    }

    async fn catch_up(
        &mut self,
        feeds: &Feeds,
        realm: &Realm,
        at: Mark,
        topics: &TopicSet,
    ) -> Result<Step, Error> {
        let catch_up = match &mut self.catch_up {
            Some(catch_up) => catch_up,
            none => none.insert(CatchUp::open(&feeds.store, realm, at).await?),
        };
        let page = match catch_up.next(&feeds.catch_ups).await {
            Ok(page) => page,
            Err(error) => {
                self.catch_up = None;
                return Err(error);
            }
        };
        Ok(match page {
            Page::Lost { first_sequence } => Step::Lost { realm: realm.clone(), first_sequence },
            Page::Changed { why } => Step::Changed { realm: realm.clone(), why },
            Page::Messages(messages) => {
                let place = |m: &StoredMessage| Mark::of(at.life(), m.sequence, m.timestamp);
                let up_to = messages.last().map_or(at, place);
                let matching = |m| Entry::matching(m, topics).map(Arc::new);
                let entries = messages.iter().filter_map(matching).collect();
                Step::Events { realm: realm.clone(), entries, up_to, more: true }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bus::{Headers, StoredMessage, Subject};
    use bytes::Bytes;

    use super::*;
    use crate::limits::{MAX_EVENT_JSON_BYTES, MAX_STORED_MESSAGE_BYTES};
    use crate::model::LogEvent;

    fn message(sequence: u64, payload: Vec<u8>) -> StoredMessage {
        StoredMessage {
            sequence,
            timestamp: SystemTime::UNIX_EPOCH,
            subject: Subject::new("events.a.b.k").unwrap(),
            key: None,
            headers: Headers::new(),
            payload: Some(Bytes::from(payload)),
        }
    }

    #[test]
    fn a_page_ends_with_the_event_that_fills_it() {
        let entry = |sequence| {
            let message = message(sequence, vec![b'1'; STREAM_PAGE_BYTES / 2]);
            Arc::new(Entry::of(&message).unwrap())
        };
        let entries: Vec<_> = (1..=5).map(entry).collect();
        let head = Mark::bare(9);
        let (page, up_to, cut) = within_bytes(entries.clone(), head);
        assert_eq!((page.len(), up_to.sequence, cut), (2, 2, true));
        let (page, up_to, cut) = within_bytes(entries[..1].to_vec(), head);
        assert_eq!((page.len(), up_to.sequence, cut), (1, 9, false));
        assert_eq!(within_bytes(Vec::new(), head), (Vec::new(), head, false));
    }

    #[test]
    fn the_longest_event_is_within_what_a_client_reads() {
        let full = MAX_STORED_MESSAGE_BYTES as usize;
        for byte in [1, b'"', b'1', 0xFF] {
            let event = LogEvent::from_log(&message(u64::MAX, vec![byte; full])).unwrap();
            let json = event.to_json();
            assert!(json.len() <= MAX_EVENT_JSON_BYTES, "{byte}: {}", json.len());
        }
    }
}
