//! A watch on the keys of a bucket.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::feed::{Feed, Item};
use super::kv::{Bucket, Written};
use crate::driver::{KvChange, WatchDriver};
use crate::error::Result;
use crate::name::{Subject, SubjectFilter};

/// One look at the feed; a watch waits for as long as it takes, in turns.
const TURN: Duration = Duration::from_secs(60);

/// Watches through a [`Feed`].
pub(super) struct Watch {
    bucket: Bucket,
    filter: SubjectFilter,
    feed: Feed,
    /// The last revision that came through the feed, so that none comes twice.
    last: u64,
    state: State,
}

enum State {
    /// The keys whose messages came so far, deleted ones included.
    Initial { seen: BTreeSet<Subject> },
    /// What is told before anything else comes from the feed, and up to which revision the feed
    /// may repeat it.
    Told { queue: VecDeque<KvChange>, early: BTreeMap<Subject, u64> },
}

impl Watch {
    pub(super) fn new(bucket: Bucket, filter: SubjectFilter, feed: Feed) -> Self {
        let state = State::Initial { seen: BTreeSet::new() };
        Self { bucket, filter, feed, last: 0, state }
    }

    /// Ends the initial part with what it overlooked, then the mark.
    async fn finish_initial(&mut self) -> Result<()> {
        let State::Initial { seen } = &self.state else { return Ok(()) };
        let seen = |key: &Subject| seen.contains(key);
        let overlooked = self.bucket.overlooked(&self.filter, &self.feed, &seen).await?;
        let (mut queue, mut early) = (VecDeque::new(), BTreeMap::new());
        for (key, written) in overlooked {
            match written {
                Written::Value(entry) => {
                    early.insert(key, entry.revision);
                    queue.push_back(KvChange::Put(entry));
                }
                Written::Deletion { revision } => {
                    // A key that was never told is not there: no news.
                    if seen(&key) {
                        queue.push_back(KvChange::Delete { key: key.clone(), revision });
                    }
                    early.insert(key, revision);
                }
            }
        }
        queue.push_back(KvChange::Synced);
        self.state = State::Told { queue, early };
        Ok(())
    }

    /// What an item of the feed is to the watcher; nothing if it was told before.
    fn change(&mut self, item: Item) -> Result<Option<KvChange>> {
        let revision = item.sequence;
        if revision <= self.last {
            return Ok(None);
        }
        self.last = revision;
        let (key, written) = self.bucket.entry(item)?;
        let initial = match &mut self.state {
            State::Initial { seen } => {
                seen.insert(key.clone());
                true
            }
            State::Told { early, .. } => {
                if early.get(&key).is_some_and(|told| revision <= *told) {
                    return Ok(None);
                }
                early.remove(&key);
                false
            }
        };
        Ok(match written {
            Written::Value(entry) => Some(KvChange::Put(entry)),
            // A key that was gone before the watch began is no news.
            Written::Deletion { revision } => {
                (!initial).then_some(KvChange::Delete { key, revision })
            }
        })
    }
}

#[async_trait]
impl WatchDriver for Watch {
    async fn next(&mut self) -> Result<KvChange> {
        loop {
            match &mut self.state {
                State::Initial { .. } if self.feed.in_step() => {
                    match self.finish_initial().await {
                        Err(error) if error.is_retryable() => {
                            tracing::warn!(%error, "the watch is not in step yet, trying again");
                        }
                        done => done?,
                    }
                    continue;
                }
                State::Initial { .. } => {
                    let until = Instant::now() + TURN;
                    if let Some(item) = self.feed.next_initial(until).await?
                        && let Some(change) = self.change(item)?
                    {
                        return Ok(change);
                    }
                    continue;
                }
                State::Told { queue, .. } => {
                    if let Some(change) = queue.pop_front() {
                        return Ok(change);
                    }
                }
            }
            let Some(item) = self.feed.next(Instant::now() + TURN).await? else { continue };
            if let Some(change) = self.change(item)? {
                return Ok(change);
            }
        }
    }
}
