//! The hand-out journals of a process, each written by compare-and-set.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Error, ErrorKind, KeyValue};

use super::lane::Lane;
use crate::model::Subscription;
use crate::platform::Entropy;
use crate::store::Store;
use crate::store::journal::Journal;

/// How often a write may lose against other replicas, or get no answer.
const TRIES: usize = 16;
/// Lanes of which a process remembers the journal; only saves reading.
const REMEMBERED: usize = 8192;

/// Finds the journal of a lane. Cheap to clone.
#[derive(Clone)]
pub(super) struct Journals {
    bucket: KeyValue,
    entropy: Entropy,
    known: Arc<Mutex<BTreeMap<String, Arc<LaneJournal>>>>,
}

/// The journal of one lane, as all who use it in this process share it.
pub(super) struct LaneJournal {
    key: String,
    bucket: KeyValue,
    entropy: Entropy,
    /// What stands before the first write.
    start: Journal,
    /// As last seen, with its revision (0: never written). Locked while it is written: the
    /// requests of a process take turns, and one that is queued behind another finds it fresh.
    seen: tokio::sync::Mutex<Option<(Arc<Journal>, u64)>>,
    /// The newest that was read or written, for who only wants to look.
    latest: Mutex<Option<Arc<Journal>>>,
}

/// What came of a write.
pub(super) struct Written<T> {
    /// What the change returned.
    pub(super) value: T,
    /// The journal with the change in it.
    pub(super) journal: Arc<Journal>,
}

impl Journals {
    pub(super) fn new(store: &Store) -> Self {
        let (bucket, entropy) = (store.journal.clone(), store.platform.entropy.clone());
        Self { bucket, entropy, known: Arc::default() }
    }

    /// The journal of a lane of a subscription. It costs nothing before it is read.
    pub(super) fn of(&self, subscription: &Subscription, lane: &Lane) -> Arc<LaneJournal> {
        let key = lane.journal_key(&subscription.incarnation);
        let mut known = self.lock();
        if let Some(journal) = known.get(&key) {
            return journal.clone();
        }
        if known.len() >= REMEMBERED {
            known.retain(|_, journal| Arc::strong_count(journal) > 1);
        }
        let journal = Arc::new(LaneJournal {
            key: key.clone(),
            bucket: self.bucket.clone(),
            entropy: self.entropy.clone(),
            start: lane.start(subscription),
            seen: tokio::sync::Mutex::default(),
            latest: Mutex::default(),
        });
        known.insert(key, journal.clone());
        journal
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<LaneJournal>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneJournal {
    /// The journal as it stands in the bucket now.
    pub(super) async fn read(&self) -> Result<Arc<Journal>, Error> {
        let mut seen = self.seen.lock().await;
        let (journal, revision) = self.get().await?;
        // The very same one where nothing has changed, so that who compares need not look inside.
        let same = seen.take().filter(|(_, known)| *known == revision);
        let (journal, revision) = same.unwrap_or((journal, revision));
        self.is_latest(&journal);
        *seen = Some((journal.clone(), revision));
        Ok(journal)
    }

    /// The newest that this process has read or written; costs nothing.
    pub(super) fn latest(&self) -> Option<Arc<Journal>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_latest(&self, journal: &Arc<Journal>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(journal.clone());
    }

    /// Writes a change by compare-and-set: `change` is applied to the journal as it stands, again
    /// after each lost race, and must depend on nothing else. It is written when this returns
    /// `Ok`, for every replica; one that changes nothing is not written. After an error it may
    /// have been.
    pub(super) async fn write<T>(
        &self,
        mut change: impl FnMut(&mut Journal) -> T,
    ) -> Result<Written<T>, Error> {
        let mut seen = self.seen.lock().await;
        let mut tried: Vec<(u64, T)> = Vec::new();
        let mut last_error = None;
        for _ in 0..TRIES {
            // Taken out: after a write of unknown outcome it must be read anew.
            let known = seen.take();
            let is_fresh = known.is_none();
            let (stands, revision) = match known {
                Some(known) => known,
                None => self.get().await?,
            };
            if let Some(at) = tried.iter().position(|(write, _)| *write == stands.write) {
                // It was written although the answer was lost.
                let (_, value) = tried.swap_remove(at);
                self.is_latest(&stands);
                *seen = Some((stands.clone(), revision));
                return Ok(Written { value, journal: stands });
            }
            let mut journal = Journal::clone(&stands);
            let value = change(&mut journal);
            if journal == *stands && !is_fresh {
                // No write says that it is still so: what is remembered may be outdated.
                continue;
            }
            if journal == *stands {
                self.is_latest(&stands);
                *seen = Some((stands.clone(), revision));
                return Ok(Written { value, journal: stands });
            }
            journal.write = u64::from_le_bytes(self.entropy.bytes()?);
            match self.bucket.update(&self.key, journal.encode()?, revision).await {
                Ok(revision) => {
                    let journal = Arc::new(journal);
                    self.is_latest(&journal);
                    *seen = Some((journal.clone(), revision));
                    return Ok(Written { value, journal });
                }
                Err(error) if error.is_conflict() || error.is_retryable() => {
                    tried.push((journal.write, value));
                    last_error = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        let what = format!("the hand-out journal {} could not be written", self.key);
        let busy = || Error::new(ErrorKind::Unavailable, "others wrote it each time");
        Err(last_error.unwrap_or_else(busy).context(what))
    }

    async fn get(&self) -> Result<(Arc<Journal>, u64), Error> {
        let Some(entry) = self.bucket.get(&self.key).await? else {
            return Ok((Arc::new(self.start.clone()), 0));
        };
        let journal = Journal::decode(&entry.value).ok_or_else(|| {
            let what = format!("{} in bucket {} cannot be read", self.key, self.bucket.name());
            let help = "use the version that wrote it, or prefill the subscription again";
            Error::new(ErrorKind::Corrupt, format!("{what}: {help}"))
        })?;
        Ok((Arc::new(journal), entry.revision))
    }
}
