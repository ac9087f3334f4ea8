//! One reader of a realm's log for all stream-mode clients of the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Error, Reader, Start};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ring::{Found, Ring, RingSize};
use crate::messages::tasks::Spawner;
use crate::messages::watched::{Follower, Watched};
use crate::model::{History, Mark, Realm, TopicSet};
use crate::store::Store;

/// Messages read at once.
pub(in crate::messages) const PAGE: usize = 256;
/// And the bytes at which it ends.
const PAGE_BYTES: usize = 4 << 20;
/// What the rings of a process hold together, shared out evenly.
const ALL_RINGS_BYTES: usize = 256 << 20;
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
    shared: Mutex<Shared>,
    /// Rung when the ring has changed.
    changed: Watched<()>,
}

struct Shared {
    /// `None` until the log was found.
    ring: Option<Ring>,
    /// Raised whenever the log turns out not to be the one that the ring was read from.
    epoch: u64,
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

    /// Opens a reader where the ring ends. A ring of another log is begun anew.
    async fn open(&self, feed: &Feed) -> Result<Reader, Error> {
        let (store, realm) = (&self.store, &feed.realm);
        loop {
            let log = store.log(realm).await?;
            let head = match feed.head() {
                Some(head) => head,
                None => feed.begin(store.head_mark(realm).await?),
            };
            let reader = log.reader(&[], Start::Sequence(head.sequence + 1)).await?;
            // After the reader was opened: what changes from now on fails the reader.
            let history = store.check_mark(realm, &head).await?;
            if history == History::Same {
                // Whoever could not look at the log meanwhile looks again.
                feed.changed.set(());
                return Ok(reader);
            }
            tracing::warn!(%realm, ?history, "the log is not the one that was read");
            feed.begin_anew(store.head_mark(realm).await?);
        }
    }

    /// Reads on from where the ring ends; returns when nobody has used the feed for a while.
    async fn read(&self, feed: &Arc<Feed>) -> Result<(), Error> {
        let mut reader = self.open(feed).await?;
        let mut used = Instant::now();
        loop {
            let messages = reader.next_within(PAGE, PAGE_BYTES, WAIT).await?;
            feed.push(&messages, ALL_RINGS_BYTES / self.lock().len().max(1));
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
        let shared = Mutex::new(Shared { ring: None, epoch: 0 });
        Self { realm, size, shared, changed: Watched::new(()) }
    }

    /// Up to `max` events after `position` that match; `None` while the log was not found.
    pub(in crate::messages) fn after(
        &self,
        position: u64,
        topics: &TopicSet,
        max: usize,
    ) -> Option<Found> {
        self.lock().ring.as_ref().map(|ring| ring.after(position, topics, max))
    }

    /// A number that stays while the log is the same. A place that was held against the log
    /// (`Store::check_mark`) after this was read is good as long as this is the same after
    /// [`Feed::after`] was asked.
    pub(in crate::messages) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Tells of every change from now on.
    pub(in crate::messages) fn changes(&self) -> Follower<()> {
        self.changed.follow()
    }

    /// How far the log was read; `None` while it was not found.
    pub(in crate::messages) fn head(&self) -> Option<Mark> {
        self.lock().ring.as_ref().map(Ring::head)
    }

    fn begin(&self, head: Mark) -> Mark {
        self.lock().ring = Some(Ring::new(head));
        self.changed.set(());
        head
    }

    fn begin_anew(&self, head: Mark) {
        let ring = Some(Ring::new(head));
        {
            let mut shared = self.lock();
            *shared = Shared { ring, epoch: shared.epoch + 1 };
        }
        self.changed.set(());
    }

    /// Adds what was read; what is more than `bytes` is left to the log.
    fn push(&self, messages: &[bus::StoredMessage], bytes: usize) {
        let size = RingSize { bytes: bytes.min(self.size.bytes), ..self.size };
        if let Some(ring) = self.lock().ring.as_mut() {
            messages.iter().for_each(|message| ring.push(message));
            ring.shrink(size);
        }
        if messages.is_empty() {
            return;
        }
        self.changed.set(());
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
