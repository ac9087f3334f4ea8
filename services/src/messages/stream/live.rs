//! The live part of one client's stream: its realms, each from the ring or from the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus::Error;
use futures_util::FutureExt;
use futures_util::future::select_all;

use super::catch_up::{CatchUp, Page};
use super::feed::{Feed, Feeds};
use super::ring::{Entry, Found};
use crate::messages::position::Position;
use crate::messages::watched::Follower;
use crate::model::{Realm, Subscription, TopicSet};

/// Events taken from the ring at once.
const BATCH: usize = 64;

/// The realms of one client.
pub(super) struct Live {
    feeds: Feeds,
    topics: TopicSet,
    strands: BTreeMap<Realm, Strand>,
    /// The realm that gave something last: the one after it is looked at first.
    last: Option<Realm>,
}

struct Strand {
    feed: Arc<Feed>,
    changes: Follower<()>,
    catch_up: Option<CatchUp>,
}

/// What one look gave.
pub(super) enum Step {
    /// Events of a realm, and the sequence up to which everything has been looked at.
    Events {
        realm: Realm,
        entries: Vec<Arc<Entry>>,
        up_to: u64,
        /// There may be more at once.
        more: bool,
    },
    /// Every realm has been looked at up to its head.
    UpToDate,
    /// Nothing new, but not every realm's log could be looked at.
    NotReady,
    /// A realm's log does not hold what comes next any more.
    Lost { realm: Realm, first_sequence: u64 },
}

impl Live {
    pub(super) fn new(feeds: &Feeds, subscription: &Subscription) -> Self {
        let mut live = Self {
            feeds: feeds.clone(),
            topics: subscription.topics.clone(),
            strands: BTreeMap::new(),
            last: None,
        };
        live.follow(subscription);
        live
    }

    /// Adds the realms that joined.
    pub(super) fn follow(&mut self, subscription: &Subscription) {
        for realm in subscription.fence.keys() {
            if !self.strands.contains_key(realm) {
                self.strands.insert(realm.clone(), Strand::new(self.feeds.of(realm)));
            }
        }
    }

    /// Looks at the realms in turn and returns the first thing found after `position`.
    pub(super) async fn step(&mut self, position: &Position) -> Result<Step, Error> {
        let mut all_ready = true;
        for realm in self.turns() {
            let Some(strand) = self.strands.get_mut(&realm) else { continue };
            let at = position.of(&realm).unwrap_or(0);
            // Marked as seen before the look, so that a change after it is not missed.
            strand.changes.mark_seen();
            match strand.feed.after(at, &self.topics, BATCH) {
                None => all_ready = false,
                Some(Found::Here { up_to, .. }) if up_to <= at => strand.catch_up = None,
                Some(Found::Here { entries, up_to }) => {
                    strand.catch_up = None;
                    let more = entries.len() >= BATCH;
                    self.last = Some(realm.clone());
                    return Ok(Step::Events { realm, entries, up_to, more });
                }
                Some(Found::Older) => {
                    let step = strand.catch_up(&self.feeds, &realm, at, &self.topics).await?;
                    self.last = Some(realm);
                    return Ok(step);
                }
            }
        }
        Ok(if all_ready { Step::UpToDate } else { Step::NotReady })
    }

    /// Waits until a realm may have something new.
    pub(super) async fn changed(&mut self) {
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

impl Strand {
    fn new(feed: Arc<Feed>) -> Self {
        Self { changes: feed.changes(), feed, catch_up: None }
    }

    async fn catch_up(
        &mut self,
        feeds: &Feeds,
        realm: &Realm,
        at: u64,
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
            Page::Messages(messages) => {
                let up_to = messages.last().map_or(at, |message| message.sequence);
                let matching = |m| Entry::matching(m, topics).map(Arc::new);
                let entries = messages.iter().filter_map(matching).collect();
                Step::Events { realm: realm.clone(), entries, up_to, more: true }
            }
        })
    }
}
