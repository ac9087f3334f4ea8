//! Which process hands out the deliveries of a subscription: a lease in KV.
//!
//! Order per key is kept in the memory of one session, so there must be one at a time. The lease
//! is taken and renewed by compare-and-set; it lasts [`TTL`] by the clock of whoever looks, so
//! replicas' clocks may differ by at most about two seconds. Whoever lets it run out
//! hands out nothing until it has it again, and never fetches for longer than it lasts. What a
//! process that lost it had handed out is covered by the next one's takeover: see `session.rs`.

use std::time::Duration;

use bus::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::model::SubscriptionName;
use crate::store::Store;

/// How long a lease lasts without renewal.
pub(super) const TTL: Duration = Duration::from_secs(5);
/// How often it is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(2);

/// The value in bucket `lockgate-leases`. Keep stable.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    owner: String,
    /// Raised by each takeover; for people who look.
    epoch: u64,
    expires_ms: u64,
}

/// A lease that was taken.
pub(super) struct Ownership {
    store: Store,
    name: SubscriptionName,
    owner: String,
    epoch: u64,
    revision: u64,
    until: Instant,
}

impl Ownership {
    /// Takes the lease for `owner`; `None` when another process holds it.
    pub(super) async fn acquire(
        store: &Store,
        name: &SubscriptionName,
        owner: &str,
    ) -> Result<Option<Self>, Error> {
        let (revision, epoch) = match store.leases.get(name.as_str()).await? {
            None => (0, 1),
            Some(entry) => match serde_json::from_slice::<Record>(&entry.value) {
                // Its own from before: a write whose answer was lost.
                Ok(held) if held.owner == owner => (entry.revision, held.epoch),
                Ok(held) if store.platform.clock.now_ms() < held.expires_ms => return Ok(None),
                Ok(over) => (entry.revision, over.epoch + 1),
                // What cannot be read protects nobody.
                Err(_) => (entry.revision, 1),
            },
        };
        let (store, name, owner) = (store.clone(), name.clone(), owner.to_owned());
        let mut taken = Self { store, name, owner, epoch, revision, until: Instant::now() };
        Ok(taken.renew().await?.then_some(taken))
    }

    /// Lets the lease last for another [`TTL`]. False when another process has taken it.
    pub(super) async fn renew(&mut self) -> Result<bool, Error> {
        // Twice, because the first conflict may be with our own write whose answer was lost.
        for _ in 0..2 {
            let started = Instant::now();
            match self.write().await {
                Ok(revision) => {
                    (self.revision, self.until) = (revision, started + TTL);
                    return Ok(true);
                }
                Err(error) if error.is_conflict() && self.is_still_ours().await? => {}
                Err(error) if error.is_conflict() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    async fn write(&self) -> Result<u64, Error> {
        let ttl_ms = u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = self.store.platform.clock.now_ms().saturating_add(ttl_ms);
        let record = Record { owner: self.owner.clone(), epoch: self.epoch, expires_ms };
        let value = serde_json::to_vec(&record).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "the lease cannot be written", source)
        })?;
        self.store.leases.update(self.name.as_str(), value, self.revision).await
    }

    async fn is_still_ours(&mut self) -> Result<bool, Error> {
        let Some(entry) = self.store.leases.get(self.name.as_str()).await? else {
            return Ok(false);
        };
        self.revision = entry.revision;
        Ok(serde_json::from_slice::<Record>(&entry.value)
            .is_ok_and(|held| held.owner == self.owner && held.epoch == self.epoch))
    }

    /// How much longer the lease lasts by this process' clock.
    pub(super) fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Gives the lease up, so that another process need not wait for its end.
    pub(super) async fn release(self) {
        if let Err(error) = self.store.leases.delete(self.name.as_str(), Some(self.revision)).await
        {
            tracing::debug!(name = %self.name, %error, "the lease is left to run out");
        }
    }
}
