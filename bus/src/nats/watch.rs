//! A watch on the keys of a bucket.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::feed::{Feed, Item};
use super::kv::{is_deletion, key};
use crate::config::Entry;
use crate::driver::{KvChange, WatchDriver};
use crate::error::Result;

/// One look at the feed; a watch waits for as long as it takes, in turns.
const TURN: Duration = Duration::from_secs(60);

/// Watches through a [`Feed`].
pub(super) struct Watch {
    feed: Feed,
    prefix: String,
    synced: bool,
    /// The last revision reported, so that none comes twice.
    last: u64,
}

impl Watch {
    pub(super) fn new(feed: Feed, prefix: String) -> Self {
        Self { feed, prefix, synced: false, last: 0 }
    }

    fn change(&mut self, item: Item, initial: bool) -> Result<Option<KvChange>> {
        if item.sequence <= self.last {
            return Ok(None);
        }
        self.last = item.sequence;
        let key = key(&self.prefix, item.message.subject.as_str(), item.sequence)?;
        let (revision, created) = (item.sequence, item.timestamp);
        if !is_deletion(item.message.headers.as_ref()) {
            let value = item.message.payload;
            return Ok(Some(KvChange::Put(Entry { key, value, revision, created })));
        }
        // A key that was gone before the watch began is no news.
        Ok((!initial).then_some(KvChange::Delete { key, revision }))
    }
}

#[async_trait]
impl WatchDriver for Watch {
    async fn next(&mut self) -> Result<KvChange> {
        loop {
            if self.feed.in_step() && !self.synced {
                self.synced = true;
                return Ok(KvChange::Synced);
            }
            let initial = !self.synced;
            let Some(item) = self.feed.next(Instant::now() + TURN).await? else { continue };
            if let Some(change) = self.change(item, initial)? {
                return Ok(change);
            }
        }
    }
}
