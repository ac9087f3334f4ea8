//! A lease: one holder at a time, decided in a bucket, without a wall clock.
//!
//! No clock is compared with another process' clock. The holder writes its record anew every third
//! of the lease's time to live and believes itself the holder for five sixths of one from
//! **before** its last write that succeeded. Whoever waits takes over when it has seen the same
//! revision for a whole time to live from **after** it first read it. So the old holder has stopped
//! before the new one begins, as long as their monotonic clocks run at about the same speed (a
//! sixth apart at most).
//!
//! What a lease cannot do: take back what a holder began while it held. A machine that sleeps
//! stops its monotonic clock too, and may wake up in the belief that nothing happened. Where that
//! matters, let the write itself be conditional (a revision, [`Lease::term`]).

mod held;
mod record;

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

pub use self::held::{Lease, LeaseStatus};
use self::record::Record;
use crate::config::Entry;
use crate::error::{Error, Result};
use crate::kv::KeyValue;
use crate::name::Subject;

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const MAX_VALUE_BYTES: usize = 1024;
/// How often who waits looks: a clean hand-over takes this long.
const LOOK: Duration = Duration::from_millis(200);
/// Within one try: the first conflict may be with an own write whose answer was lost.
const LOOKS: usize = 3;

/// What came of a try to take a lease.
///
/// See [`Contender`] for an example.
#[derive(Debug)]
pub enum Attempt {
    /// It is held, and renewed in a task of its own.
    Held(Lease),
    /// Somebody else has it, or may have it still.
    Taken {
        /// The value of who has it; empty when its record cannot be read.
        value: String,
        /// For how long its record has stood still under this contender's eyes. Less than at the
        /// try before: its holder is alive.
        still: Duration,
    },
}

/// One who wants a lease, and remembers since when it has seen the present holder's record stand
/// still.
///
/// It is asked again and again ([`Contender::try_take`]), or waits ([`Contender::take`]). A holder
/// that died is followed when its record has not moved for a whole time to live under this
/// contender's eyes: the first look begins the wait.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use std::time::Duration;
/// use bus::{Attempt, BucketConfig, BucketName, Lease};
///
/// let leases = bus.ensure_kv(&BucketConfig::new(BucketName::new("leases")?)).await?;
/// let ttl = Duration::from_secs(5);
/// let held = Lease::contend(&leases, "reports", "node-1", ttl)?.take().await?;
///
/// let mut contender = Lease::contend(&leases, "reports", "node-2", ttl)?;
/// match contender.try_take().await? {
///     Attempt::Taken { value, .. } => assert_eq!(value, "node-1"),
///     Attempt::Held(_) => unreachable!("node-1 renews it"),
/// }
/// held.release().await;
/// let held = contender.take().await?;
/// assert!(held.holds() && held.term() == 2);
/// # Ok(())
/// # }
/// ```
pub struct Contender {
    place: Place,
    value: String,
    /// By which its own writes are known. Another one for each lease that it gets.
    id: String,
    seen: Option<Seen>,
}

/// The revision that stands, and since when it was seen to.
struct Seen {
    revision: u64,
    since: Instant,
}

/// Where a lease is decided, and for how long it is given.
#[derive(Clone)]
struct Place {
    bucket: KeyValue,
    key: Subject,
    ttl: Duration,
}

impl Lease {
    /// A contender for the lease under `key`, with a value of its own (at most 1024 bytes) that
    /// others are shown while it holds: an address, a name. A `ttl` is 100 ms to a day: how long a
    /// holder that died keeps the others waiting. Contenders may have different ones; everybody
    /// waits at least as long as the holder's. [`crate::ErrorKind::Invalid`] otherwise.
    ///
    /// Nothing is written before it is asked. `bucket` needs compare-and-set, and no limit on age
    /// below `ttl`.
    pub fn contend(
        bucket: &KeyValue,
        key: impl AsRef<str>,
        value: impl Into<String>,
        ttl: Duration,
    ) -> Result<Contender> {
        let (key, value) = (Subject::new(key)?, value.into());
        if !(SHORTEST..=LONGEST).contains(&ttl) {
            let what = format!("lease {key} has a time to live of {ttl:?}: give 100 ms to a day");
            return Err(Error::invalid(what));
        }
        if value.len() > MAX_VALUE_BYTES {
            let (bytes, most) = (value.len(), MAX_VALUE_BYTES);
            let what = format!("the value of lease {key} has {bytes} bytes: give at most {most}");
            return Err(Error::invalid(what));
        }
        let place = Place { bucket: bucket.clone(), key, ttl };
        Ok(Contender { place, value, id: fresh_id(), seen: None })
    }

    /// One try with a contender of its own: [`Attempt::Held`] when the lease is free. A holder
    /// that died is not followed this way, however often it is called: keep a [`Contender`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # use bus::{BucketConfig, BucketName};
    /// use std::time::Duration;
    /// use bus::{Attempt, Lease};
    ///
    /// # let leases = bus.ensure_kv(&BucketConfig::new(BucketName::new("leases")?)).await?;
    /// let attempt = Lease::try_take(&leases, "nightly", "node-1", Duration::from_secs(5)).await?;
    /// let Attempt::Held(lease) = attempt else { return Ok(()) };
    /// // Work, and look now and then whether it is still ours to do.
    /// assert!(lease.holds());
    /// lease.release().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_take(
        bucket: &KeyValue,
        key: impl AsRef<str>,
        value: impl Into<String>,
        ttl: Duration,
    ) -> Result<Attempt> {
        Self::contend(bucket, key, value, ttl)?.try_take().await
    }

    /// The value of who holds the lease under `key`, as far as the bucket tells: a holder that
    /// died stands there until somebody follows it. `None` when nobody does.
    pub async fn holder(bucket: &KeyValue, key: impl AsRef<str>) -> Result<Option<String>> {
        let entry = bucket.get(key).await?;
        let stands = entry.as_ref().and_then(Record::read).filter(|record| record.held);
        Ok(stands.map(|record| record.value))
    }
}

impl Contender {
    /// Tries once, without waiting: a read, and a write when the lease is free or its holder's
    /// record stood still for long enough.
    ///
    /// On an error that may pass ([`Error::is_retryable`]) nobody knows whether it was taken; the
    /// next call of the **same** contender recognises its own record and takes it at once, and
    /// others wait for a time to live. The same holds when this future is dropped.
    pub async fn try_take(&mut self) -> Result<Attempt> {
        let mut value = String::new();
        for _ in 0..LOOKS {
            let entry = self.place.bucket.get(&self.place.key).await?;
            let record = entry.as_ref().and_then(Record::read);
            if let Some(still) = self.kept_out(entry.as_ref(), record.as_ref()) {
                let value = record.map_or_else(String::new, |record| record.value);
                return Ok(Attempt::Taken { value, still });
            }
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let term = record.as_ref().map_or(1, |last| last.term.saturating_add(1));
            if let Some(lease) = self.take_over(term, revision).await? {
                return Ok(Attempt::Held(lease));
            }
            value = record.map_or(value, |record| record.value);
        }
        Ok(Attempt::Taken { value, still: Duration::ZERO })
    }

    /// Waits until the lease is held, however long that takes: a moment after its holder released
    /// it, a time to live after its holder died. A backend that is away is waited for; any other
    /// error is returned. Dropping the future is safe at any point: the contender goes on where it
    /// stopped when it is asked again.
    pub async fn take(&mut self) -> Result<Lease> {
        loop {
            match self.try_take().await {
                Ok(Attempt::Held(lease)) => return Ok(lease),
                Ok(Attempt::Taken { .. }) => {}
                Err(error) if error.is_retryable() => {
                    tracing::warn!(lease = %self.place.key, %error, "waiting for a lease");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK.min(self.place.ttl / 4)).await;
        }
    }

    /// For how long the record that stands has stood still, if it keeps this contender out.
    fn kept_out(&mut self, entry: Option<&Entry>, record: Option<&Record>) -> Option<Duration> {
        let (entry, now) = (entry?, Instant::now());
        let since = match &self.seen {
            Some(seen) if seen.revision == entry.revision => seen.since,
            _ => now,
        };
        self.seen = Some(Seen { revision: entry.revision, since });
        // What cannot be read may be held all the same.
        let free = record.is_some_and(|record| !record.held || record.id == self.id);
        let theirs = record.map_or(Duration::ZERO, Record::ttl).min(LONGEST);
        let still = now.saturating_duration_since(since);
        (!free && still < theirs.max(self.place.ttl)).then_some(still)
    }

    /// `None` when somebody else was faster.
    async fn take_over(&mut self, term: u64, revision: u64) -> Result<Option<Lease>> {
        let began = Instant::now();
        let record = Record::first(term, &self.id, &self.value, self.place.ttl);
        let update = self.place.bucket.update(&self.place.key, record.written()?, revision);
        match update.await {
            Ok(revision) => {
                // From now on a record under the old id is the lease's, not free for this one.
                (self.id, self.seen) = (fresh_id(), None);
                Ok(Some(Lease::begin(self.place.clone(), record, revision, began)))
            }
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Different for every contender of every process; nothing else depends on it.
fn fresh_id() -> String {
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

#[cfg(test)]
mod tests;
