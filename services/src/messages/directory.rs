//! The subscriptions as they change: one watch for the whole process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Error, KvChange, Watch};
use tokio_util::sync::CancellationToken;

use super::watched::{Follower, Watched};
use crate::model::SubscriptionName;
use crate::store::{Kept, Store};

/// Before a watch that failed is opened again.
const AGAIN: Duration = Duration::from_millis(500);

/// Every record this process knows of, in step with the bucket. Cheap to clone.
///
/// A request reads its record from KV, which is never behind what the client saw last, and then
/// follows it here.
#[derive(Clone)]
pub(super) struct Directory {
    store: Store,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    records: BTreeMap<SubscriptionName, Watched<Option<Arc<Kept>>>>,
    /// The watch has reported everything up to this revision, so a record that is not here and
    /// not newer was deleted.
    reported: u64,
}

/// A record, and what becomes of it.
#[derive(Clone)]
pub(super) struct Followed {
    kept: Arc<Kept>,
    changes: Follower<Option<Arc<Kept>>>,
}

impl Followed {
    /// The record as it was when the request read it, or newer.
    pub(super) fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// The record now; `None` when it was deleted.
    pub(super) fn current(&self) -> Option<Arc<Kept>> {
        self.changes.get()
    }

    /// Waits for a change that this has not returned for yet.
    pub(super) async fn changed(&mut self) {
        self.changes.changed().await;
    }
}

impl Directory {
    pub(super) fn new(store: Store) -> Self {
        Self { store, known: Arc::default() }
    }

    /// The record as KV has it now, to be followed; `None` when there is none.
    pub(super) async fn follow(&self, name: &SubscriptionName) -> Result<Option<Followed>, Error> {
        let read = self.store.subscription(name).await?;
        Ok(read.and_then(|kept| self.learn(Arc::new(kept))))
    }

    /// Takes in a record that was read. The newer of it and the one known wins.
    fn learn(&self, kept: Arc<Kept>) -> Option<Followed> {
        let mut known = self.known();
        let name = kept.subscription.name().clone();
        if !known.records.contains_key(&name) {
            if kept.revision <= known.reported {
                return None;
            }
            known.records.insert(name.clone(), Watched::new(None));
        }
        let record = known.records.get(&name)?;
        advance(record, &kept);
        let changes = record.follow();
        let kept = changes.get()?;
        Some(Followed { kept, changes })
    }

    /// Keeps the directory in step until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        loop {
            let ended = tokio::select! { biased;
                () = shutdown.cancelled() => return,
                ended = self.watch() => ended,
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "the watch on subscriptions failed, opening it again");
            }
            tokio::select! { biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn watch(&self) -> Result<(), Error> {
        let mut watch = self.store.subscriptions.watch(">").await?;
        self.catch_up(&mut watch).await?;
        loop {
            match watch.next().await? {
                KvChange::Put(entry) => {
                    self.put(&entry);
                    self.reported(entry.revision);
                }
                KvChange::Delete { key, revision } => {
                    if let Ok(name) = SubscriptionName::new(key.as_str()) {
                        self.deleted(&name, revision);
                    }
                    self.reported(revision);
                }
                KvChange::Synced => {}
            }
        }
    }

    /// Reads what is there when a watch begins. What is known and not there may have been deleted
    /// while no watch was open, which only a read can tell.
    async fn catch_up(&self, watch: &mut Watch) -> Result<(), Error> {
        let (mut there, mut newest) = (BTreeSet::new(), 0);
        loop {
            match watch.next().await? {
                KvChange::Put(entry) => {
                    newest = entry.revision.max(newest);
                    there.extend(self.put(&entry));
                }
                KvChange::Delete { revision, .. } => newest = revision.max(newest),
                KvChange::Synced => break,
            }
        }
        let known: Vec<_> = self.known().records.keys().cloned().collect();
        for name in known.into_iter().filter(|name| !there.contains(name)) {
            if self.store.subscription(&name).await?.is_none() {
                self.deleted(&name, u64::MAX);
            }
        }
        self.reported(newest);
        Ok(())
    }

    fn put(&self, entry: &bus::Entry) -> Option<SubscriptionName> {
        match Kept::read(entry) {
            Ok(kept) => {
                let name = kept.subscription.name().clone();
                let mut known = self.known();
                let record =
                    known.records.entry(name.clone()).or_insert_with(|| Watched::new(None));
                advance(record, &Arc::new(kept));
                Some(name)
            }
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a record is left out");
                None
            }
        }
    }

    fn deleted(&self, name: &SubscriptionName, revision: u64) {
        let mut known = self.known();
        let older = |record: &Watched<Option<Arc<Kept>>>| {
            record.get().is_none_or(|kept| kept.revision < revision)
        };
        if known.records.get(name).is_some_and(older)
            && let Some(record) = known.records.remove(name)
        {
            record.set(None);
        }
    }

    fn reported(&self, revision: u64) {
        let mut known = self.known();
        known.reported = known.reported.max(revision);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn advance(record: &Watched<Option<Arc<Kept>>>, kept: &Arc<Kept>) {
    record.change(|known| {
        let newer = known.as_ref().is_none_or(|known| known.revision < kept.revision);
        if newer {
            *known = Some(kept.clone());
        }
        newer
    });
}
