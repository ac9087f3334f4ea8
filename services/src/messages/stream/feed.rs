//! One reader of a realm's log for all stream-mode clients of the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Error, Start};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ring::{Found, Ring, RingSize};
use crate::messages::tasks::Spawner;
use crate::messages::watched::{Follower, Watched};
use crate::model::{Realm, TopicSet};
use crate::store::Store;

/// Messages read at once.
pub(in crate::messages) const PAGE: usize = 256;
/// How long one read waits.
const WAIT: Duration = Duration::from_secs(5);
/// A feed that nobody uses ends after this long.
const IDLE: Duration = Duration::from_secs(60);
/// Before a feed that failed reads again.
const AGAIN: Duration = Duration::from_millis(500);
/// Clients that read old history from the log at once.
const CATCH_UPS: usize = 16;

/// The feeds of the process, made on demand. Cheap to clone.
#[derive(Clone)]
pub(in crate::messages) struct Feeds {
    pub(in crate::messages) store: Store,
    /// One permit for each page that is read to catch up.
    pub(in crate::messages) catch_ups: Arc<Semaphore>,
    size: RingSize,
    feeds: Arc<Mutex<BTreeMap<Realm, Arc<Feed>>>>,
    tasks: Spawner,
    shutdown: CancellationToken,
}

/// The newest events of a realm, kept in step with its log by a task while anyone holds this.
pub(in crate::messages) struct Feed {
    realm: Realm,
    size: RingSize,
    /// `None` until the log was found.
    ring: Mutex<Option<Ring>>,
    /// Rung when the ring has changed.
    changed: Watched<()>,
}

impl Feeds {
    pub(in crate::messages) fn new(
        store: Store,
        size: RingSize,
        tasks: Spawner,
        shutdown: CancellationToken,
    ) -> Self {
        let catch_ups = Arc::new(Semaphore::new(CATCH_UPS));
        Self { store, catch_ups, size, feeds: Arc::default(), tasks, shutdown }
    }

    /// The feed of a realm, started if need be.
    pub(in crate::messages) fn of(&self, realm: &Realm) -> Arc<Feed> {
        let mut feeds = self.lock();
        if let Some(feed) = feeds.get(realm) {
            return feed.clone();
        }
        let feed = Arc::new(Feed::new(realm.clone(), self.size));
        feeds.insert(realm.clone(), feed.clone());
        self.tasks.spawn(self.clone().keep_in_step(feed.clone()));
        feed
    }

    async fn keep_in_step(self, feed: Arc<Feed>) {
        loop {
            let ended = tokio::select! { biased;
                () = self.shutdown.cancelled() => return,
                ended = self.read(&feed) => ended,
            };
            match ended {
                Ok(()) => return,
                Err(error) => tracing::debug!(realm = %feed.realm, %error, "the feed reads again"),
            }
            tokio::select! { biased;
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
            if self.end_if_unused(&feed) {
                return;
            }
        }
    }

    /// Reads on from where the ring ends; returns when nobody has used the feed for a while.
    async fn read(&self, feed: &Arc<Feed>) -> Result<(), Error> {
        let log = self.store.log(&feed.realm).await?;
        let head = match feed.head() {
            Some(head) => head,
            None => feed.begin(log.info().await?.last_sequence),
        };
        let mut reader = log.reader(&[], Start::Sequence(head + 1)).await?;
        let mut used = Instant::now();
        loop {
            feed.push(&reader.next(PAGE, WAIT).await?);
            if Arc::strong_count(feed) > OWN_HOLDS {
                used = Instant::now();
            } else if used.elapsed() >= IDLE && self.end_if_unused(feed) {
                return Ok(());
            }
        }
    }

    /// Takes the feed out of the map if nobody has it; nobody can get it meanwhile.
    fn end_if_unused(&self, feed: &Arc<Feed>) -> bool {
        let mut feeds = self.lock();
        let unused = Arc::strong_count(feed) <= OWN_HOLDS;
        if unused {
            feeds.remove(&feed.realm);
        }
        unused
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Realm, Arc<Feed>>> {
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The map's and the task's.
const OWN_HOLDS: usize = 2;

impl Feed {
    fn new(realm: Realm, size: RingSize) -> Self {
        Self { realm, size, ring: Mutex::new(None), changed: Watched::new(()) }
    }

    /// Up to `max` events after `position` that match; `None` while the log was not found.
    pub(in crate::messages) fn after(&self, position: u64, topics: &TopicSet, max: usize) -> Option<Found> {
        self.ring().as_ref().map(|ring| ring.after(position, topics, max))
    }

    /// Tells of every change from now on.
    pub(in crate::messages) fn changes(&self) -> Follower<()> {
        self.changed.follow()
    }

    fn head(&self) -> Option<u64> {
        self.ring().as_ref().map(Ring::head)
    }

    fn begin(&self, head: u64) -> u64 {
        *self.ring() = Some(Ring::new(self.size, head));
        self.changed.set(());
        head
    }

    fn push(&self, messages: &[bus::StoredMessage]) {
        if messages.is_empty() {
            return;
        }
        if let Some(ring) = self.ring().as_mut() {
            messages.iter().for_each(|message| ring.push(message));
        }
        self.changed.set(());
    }

    fn ring(&self) -> MutexGuard<'_, Option<Ring>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
