//! A lease that is held: renewed, looked at, released.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Place;
use super::record::Record;

/// A lease that is held, and renewed in a task of its own until it is lost, released or dropped.
///
/// At most one [`Lease`] of a key holds at a time, over all processes: see the rules at
/// [`Lease::contend`]. Dropping it stops the renewal, and it runs out for the others; to hand over
/// at once, [`Lease::release`] it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # use bus::{BucketConfig, BucketName};
/// use std::time::Duration;
/// use bus::Lease;
///
/// # let leases = bus.ensure_kv(&BucketConfig::new(BucketName::new("leases")?)).await?;
/// let lease = Lease::contend(&leases, "reports", "node-1", Duration::from_secs(5))?.take().await?;
/// assert_eq!(Lease::holder(&leases, "reports").await?.as_deref(), Some("node-1"));
/// let status = lease.status(); // for the tasks that work under it
/// let work = async { 42 };
/// tokio::select! {
///     () = status.lost() => {} // somebody else may go on by now: stop
///     answer = work => assert_eq!(answer, 42),
/// }
/// lease.release().await;
/// assert!(!status.holds());
/// # Ok(())
/// # }
/// ```
pub struct Lease {
    status: LeaseStatus,
    place: Place,
    letting_go: CancellationToken,
    /// Ends with what stands then, or without when the lease was lost.
    renewing: JoinSet<Option<(Record, u64)>>,
}

/// A held lease as those who work under it see it. Cheap to clone; it renews nothing and keeps
/// nothing alive.
///
/// See [`Lease`] for an example.
#[derive(Debug, Clone)]
pub struct LeaseStatus(Arc<State>);

#[derive(Debug)]
struct State {
    term: u64,
    until: Mutex<Instant>,
    over: CancellationToken,
}

impl LeaseStatus {
    /// True while nobody else can have taken over. It costs no request: ask before each step that
    /// must not overlap with another holder's. Never true again after it was false.
    pub fn holds(&self) -> bool {
        if self.0.over.is_cancelled() {
            return false;
        }
        if Instant::now() < self.until() {
            return true;
        }
        // Frozen past its end: a renewal that is answered only now must not revive it.
        self.0.over.cancel();
        false
    }

    /// Resolves when the lease is over: lost, released or dropped. At once when it was before.
    pub async fn lost(&self) {
        self.0.over.cancelled().await;
    }

    /// The number of this holding: 1 for the first under the key, higher for each that follows.
    /// A fence for what is written elsewhere.
    pub fn term(&self) -> u64 {
        self.0.term
    }

    fn until(&self) -> Instant {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when it came too late.
    fn renewed(&self, until: Instant) -> bool {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        self.holds()
    }
}

impl Lease {
    /// A lease whose first record was written after `began`.
    pub(super) fn begin(place: Place, record: Record, revision: u64, began: Instant) -> Self {
        let until = Mutex::new(began + place.believed());
        let over = CancellationToken::new();
        let status = LeaseStatus(Arc::new(State { term: record.term, until, over }));
        let letting_go = CancellationToken::new();
        let beat = record.beat;
        let renewal =
            Renewal { place: place.clone(), status: status.clone(), record, revision, beat };
        let mut renewing = JoinSet::new();
        renewing.spawn(renewal.run(letting_go.clone()));
        Self { status, place, letting_go, renewing }
    }

    /// As [`LeaseStatus::holds`].
    pub fn holds(&self) -> bool {
        self.status.holds()
    }

    /// As [`LeaseStatus::lost`].
    pub async fn lost(&self) {
        self.status.lost().await;
    }

    /// As [`LeaseStatus::term`].
    pub fn term(&self) -> u64 {
        self.status.term()
    }

    /// What the tasks that work under the lease look at.
    pub fn status(&self) -> LeaseStatus {
        self.status.clone()
    }

    /// Lets the next holder begin at once: call it when everything that was begun under the lease
    /// is over. On return this process does not hold it. Best effort: what fails here, the end of
    /// its time does.
    pub async fn release(mut self) {
        let Some((record, revision)) = self.stop().await else { return };
        let Ok(value) = record.released().written() else { return };
        let Place { bucket, key, ttl } = &self.place;
        let released = timeout_at(Instant::now() + *ttl, bucket.update(key, value, revision));
        if !matches!(released.await, Ok(Ok(_))) {
            tracing::debug!(lease = %key, "the lease runs out by itself");
        }
    }

    /// Releases the lease and deletes its record, for a key that is not wanted any more: the next
    /// term under it would be 1 again. Best effort, as [`Lease::release`].
    pub async fn remove(mut self) {
        let Some((_, revision)) = self.stop().await else { return };
        let Place { bucket, key, ttl } = &self.place;
        let removed = timeout_at(Instant::now() + *ttl, bucket.delete(key, Some(revision)));
        if !matches!(removed.await, Ok(Ok(()))) {
            tracing::debug!(lease = %key, "the record of the lease stays");
        }
    }

    /// Stops renewing; what stands then, if the lease was not lost.
    async fn stop(&mut self) -> Option<(Record, u64)> {
        self.letting_go.cancel();
        let stands = self.renewing.join_next().await?.ok().flatten();
        self.status.0.over.cancel();
        stands
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.status.0.over.cancel();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, status) = (&self.place.key, &self.status);
        f.debug_struct("Lease").field("key", key).field("status", status).finish_non_exhaustive()
    }
}

impl Place {
    fn believed(&self) -> Duration {
        self.ttl * 5 / 6
    }
}

/// The task that renews.
struct Renewal {
    place: Place,
    status: LeaseStatus,
    record: Record,
    revision: u64,
    /// The highest beat that was tried. Each try has its own, so that a record which was written
    /// by an earlier try is not taken for this one's: the others count from when they first saw it.
    beat: u64,
}

impl Renewal {
    /// Renews until told to let go, and returns what stands then; `None` when the lease was lost.
    /// Whichever way it ends, a panic included, the lease is over.
    async fn run(mut self, letting_go: CancellationToken) -> Option<(Record, u64)> {
        let _over = self.status.0.over.clone().drop_guard();
        let mut pause = self.place.ttl / 3;
        loop {
            let wake = (Instant::now() + pause).min(self.status.until());
            tokio::select! { biased;
                () = letting_go.cancelled() => return Some((self.record, self.revision)),
                () = self.status.lost() => return None,
                () = tokio::time::sleep_until(wake) => {}
            }
            if !self.status.holds() {
                return None;
            }
            pause = if self.renew().await? { self.place.ttl / 3 } else { self.place.ttl / 12 };
        }
    }

    /// One renewal: false when it has to be tried again, `None` when the lease is lost.
    async fn renew(&mut self) -> Option<bool> {
        let Place { bucket, key, .. } = &self.place;
        let (began, until) = (Instant::now(), self.status.until());
        self.beat = self.beat.saturating_add(1);
        let next = self.record.renewed(self.beat);
        let value = next.written().ok()?;
        match timeout_at(until, bucket.update(key, value, self.revision)).await.ok()? {
            Ok(revision) => {
                (self.record, self.revision) = (next, revision);
                return self.status.renewed(began + self.place.believed()).then_some(true);
            }
            Err(error) => tracing::warn!(lease = %key, %error, "lease not renewed"),
        }
        // It may have been written all the same: a record of this term is this holder's.
        let Ok(Ok(entry)) = timeout_at(until, bucket.get(key)).await else {
            return Some(false);
        };
        let stands = entry.as_ref().and_then(Record::read)?;
        if !stands.is_same_term(&self.record) {
            return None;
        }
        let written = stands.beat == next.beat;
        (self.record, self.revision) = (stands, entry?.revision);
        if written {
            return self.status.renewed(began + self.place.believed()).then_some(true);
        }
        Some(false)
    }
}
