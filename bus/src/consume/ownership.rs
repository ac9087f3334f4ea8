//! One process at a time owns a consumer: a lease in a bucket, kept by compare-and-set.
//!
//! No clock is compared with another process' clock. The owner writes its record anew every third
//! of the lease and believes itself the owner for five sixths of one from **before** its last
//! write that succeeded. Whoever waits takes over when it has seen the same revision for a whole
//! lease from **after** it first read it. So the old owner has stopped before the new one begins,
//! as long as their clocks run at about the same speed (a sixth apart at most).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::{BucketConfig, Entry};
use crate::dead_letter::Origin;
use crate::driver::{Driver, KvDriver};
use crate::error::Result;
use crate::name::{BucketName, Subject};

const BUCKET: &str = "bus-owners";
const LONGEST_LEASE: Duration = Duration::from_secs(30);
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
/// How often who waits looks: a clean hand-over takes this long.
const LOOK: Duration = Duration::from_millis(200);

/// What stands in the bucket under `<stream>.<consumer>`. Keep stable: processes of different
/// versions read each other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Grows with every owner.
    term: u64,
    /// Grows with every renewal of a term.
    beat: u64,
    /// False when the owner has let go.
    held: bool,
}

/// Where the ownership of one consumer is decided.
#[derive(Clone)]
pub(super) struct Ownership {
    bucket: Arc<dyn KvDriver>,
    key: Subject,
    lease: Duration,
}

/// A term of ownership, as those who work under it see it.
#[derive(Debug)]
pub(super) struct Term {
    until: Mutex<Instant>,
    over: CancellationToken,
}

impl Term {
    /// True while nobody else can have taken over.
    pub(super) fn holds(&self) -> bool {
        !self.over.is_cancelled() && Instant::now() < self.until()
    }

    /// Resolves when the term is over.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// A term that is being renewed. Dropping it stops that, and the term runs out.
pub(super) struct Held {
    pub(super) term: Arc<Term>,
    ownership: Ownership,
    letting_go: CancellationToken,
    renewing: JoinSet<Option<(Record, u64)>>,
}

impl Ownership {
    /// `ack_wait` bounds how long a crash keeps the next owner waiting anyway.
    pub(super) async fn open(
        driver: &dyn Driver,
        origin: &Origin,
        ack_wait: Duration,
    ) -> Result<Self> {
        let name = BucketName::new(BUCKET)?;
        // Not updated where it exists: who declared it may have given it replicas.
        let bucket = match driver.bucket(&name).await {
            Err(error) if error.is_not_found() => {
                driver.ensure_bucket(&BucketConfig::new(name.clone())).await?;
                driver.bucket(&name).await?
            }
            opened => opened?,
        };
        let key = Subject::new(format!("{}.{}", origin.stream, origin.consumer))?;
        let lease = ack_wait.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        Ok(Self { bucket, key, lease })
    }

    /// Waits until this process owns the consumer, however long that takes.
    pub(super) async fn acquire(&self) -> Result<Held> {
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            match self.bucket.get(&self.key).await {
                Ok(entry) => {
                    let now = Instant::now();
                    let revision = entry.as_ref().map_or(0, |entry| entry.revision);
                    let since = match seen {
                        Some((same, since)) if same == revision => since,
                        _ => now,
                    };
                    seen = Some((revision, since));
                    if free(entry.as_ref()) || now >= since + self.lease {
                        let term = entry.as_ref().and_then(read).map_or(1, |last| last.term + 1);
                        if let Some(held) = self.take(term, revision).await? {
                            return Ok(held);
                        }
                    }
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(key = %self.key, %error, "waiting to own the consumer");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK.min(self.lease / 4)).await;
        }
    }

    /// `None` when someone else was faster, or nobody knows: then the record that stands counts as
    /// somebody else's.
    async fn take(&self, term: u64, revision: u64) -> Result<Option<Held>> {
        let (began, record) = (Instant::now(), Record { term, beat: 0, held: true });
        let revision = match self.bucket.update(&self.key, written(&record)?, revision).await {
            Ok(revision) => revision,
            Err(error) if error.is_conflict() || error.is_retryable() => return Ok(None),
            Err(error) => return Err(error),
        };
        let until = Mutex::new(began + self.believed());
        let term = Arc::new(Term { until, over: CancellationToken::new() });
        let letting_go = CancellationToken::new();
        let mut renewing = JoinSet::new();
        let (ownership, shared, stop) = (self.clone(), term.clone(), letting_go.clone());
        renewing.spawn(async move {
            let kept = ownership.renew(&shared, record, revision, &stop).await;
            shared.over.cancel();
            kept
        });
        Ok(Some(Held { term, ownership: self.clone(), letting_go, renewing }))
    }

    fn believed(&self) -> Duration {
        self.lease * 5 / 6
    }

    /// Renews until told to let go, and returns what stands then; `None` when the term was lost.
    async fn renew(
        &self,
        term: &Term,
        mut record: Record,
        mut revision: u64,
        letting_go: &CancellationToken,
    ) -> Option<(Record, u64)> {
        let mut pause = self.lease / 3;
        loop {
            let wake = (Instant::now() + pause).min(term.until());
            tokio::select! { biased;
                () = letting_go.cancelled() => return Some((record, revision)),
                () = tokio::time::sleep_until(wake) => {}
            }
            let (began, until) = (Instant::now(), term.until());
            if began >= until {
                return None;
            }
            let next = Record { beat: record.beat + 1, ..record.clone() };
            let value = written(&next).ok()?;
            let renewal = self.bucket.update(&self.key, value, revision);
            match timeout_at(until, renewal).await.ok()? {
                Ok(renewed) => {
                    (record, revision, pause) = (next, renewed, self.lease / 3);
                    term.renewed(began + self.believed());
                    continue;
                }
                Err(error) => tracing::warn!(key = %self.key, %error, "ownership not renewed"),
            }
            pause = self.lease / 12;
            // It may have been written all the same: a record of this term is this owner's.
            let Ok(Ok(entry)) = timeout_at(until, self.bucket.get(&self.key)).await else {
                continue;
            };
            match entry.as_ref().and_then(read) {
                Some(stands) if stands.held && stands.term == record.term => {
                    if stands.beat == next.beat {
                        term.renewed(began + self.believed());
                    }
                    revision = entry.map_or(revision, |entry| entry.revision);
                    record = stands;
                }
                _ => return None,
            }
        }
    }
}

impl Held {
    /// Lets the next owner begin at once. Best effort: what fails here, the lease's end does.
    pub(super) async fn release(mut self) {
        self.letting_go.cancel();
        let Some(Ok(Some((record, revision)))) = self.renewing.join_next().await else { return };
        let free = Record { held: false, ..record };
        let Ok(value) = written(&free) else { return };
        let Ownership { bucket, key, lease } = &self.ownership;
        let released = timeout_at(Instant::now() + *lease, bucket.update(key, value, revision));
        if !matches!(released.await, Ok(Ok(_))) {
            tracing::debug!(%key, "the ownership runs out by itself");
        }
    }
}

fn free(entry: Option<&Entry>) -> bool {
    entry.is_none_or(|entry| read(entry).is_some_and(|record| !record.held))
}

fn read(entry: &Entry) -> Option<Record> {
    serde_json::from_slice(&entry.value).ok()
}

fn written(record: &Record) -> Result<Bytes> {
    let corrupt = |source| {
        let what = "the ownership record cannot be written";
        crate::Error::with_source(crate::ErrorKind::Invalid, what, source)
    };
    serde_json::to_vec(record).map(Bytes::from).map_err(corrupt)
}
