//! The one worker that is at a prefill: a lease that is renewed however long a page takes, and the
//! cursor, which is moved by compare-and-set.

use std::time::Duration;

use bus::{Attempt, Error, Lease, LeaseStatus};
use tokio::time::sleep;

use super::source::Page;
use crate::model::{Incarnation, RowsDigest, names};
use crate::store::Store;
use crate::store::prefill::Cursor;

/// A worker that died is followed after this long.
const TTL: Duration = Duration::from_secs(10);
/// How often who waits looks whether the present worker is alive.
const LOOK: Duration = Duration::from_millis(500);

/// A prefill in the hands of the worker that claimed it.
pub(super) struct Claim {
    store: Store,
    key: String,
    revision: u64,
    lease: Lease,
    /// As it is kept.
    pub(super) cursor: Cursor,
}

impl Claim {
    /// Claims a prefill, making its cursor if this is the first time; `None` while another worker
    /// is at it. One that has died is waited for.
    pub(super) async fn take(store: &Store, of: &Incarnation) -> Result<Option<Self>, Error> {
        let key = names::cursor_key(of);
        // Before the lease: what is without a record is found, and removed, by its cursor.
        let first = store.cursors.create(&key, Cursor::at_start().written()?).await;
        if let Err(error) = first
            && !error.is_conflict()
        {
            return Err(error);
        }
        let Some(lease) = lease(store, of).await? else { return Ok(None) };
        // Read under the lease: what a predecessor wrote last.
        let Some(entry) = store.cursors.get(&key).await? else { return Ok(None) };
        let mut cursor = Cursor::parse(&entry).unwrap_or_else(|error| {
            tracing::warn!(%error, "the prefill begins at its start");
            Cursor::at_start()
        });
        if cursor.position.is_none() && cursor.ended_ms.is_none() {
            // Nothing was read as far as it tells: what it counted will be counted again.
            let Cursor { claims, attempts, .. } = cursor;
            cursor = Cursor { claims, attempts, ..Cursor::at_start() };
        }
        cursor.claims = cursor.claims.saturating_add(1);
        cursor.attempts = cursor.attempts.saturating_add(1);
        let mut claim = Self { store: store.clone(), key, revision: entry.revision, lease, cursor };
        match claim.keep().await {
            Ok(()) => Ok(Some(claim)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves on behind a page whose rows are written, for good after the last.
    /// [`bus::ErrorKind::Conflict`] when another worker has taken over: stop then.
    pub(super) async fn advance(&mut self, page: &Page, digest: RowsDigest) -> Result<(), Error> {
        let cursor = &mut self.cursor;
        cursor.attempts = 1;
        cursor.position.clone_from(&page.next);
        if page.next.is_none() {
            cursor.ended_ms = Some(self.store.platform.clock.now_ms());
        }
        cursor.scanned += page.scanned;
        cursor.total = page.total;
        cursor.rows += page.rows.len() as u64;
        cursor.digest = digest.to_hex();
        self.keep().await
    }

    /// What the worker looks at: over when another may have taken over.
    pub(super) fn status(&self) -> LeaseStatus {
        self.lease.status()
    }

    /// Lets another worker begin at once, after an attempt that failed.
    pub(super) async fn release(self) {
        self.lease.release().await;
    }

    /// Lets another worker begin at once, because this process stops: no attempt.
    pub(super) async fn hand_over(mut self) {
        self.cursor.attempts = self.cursor.attempts.saturating_sub(1);
        if let Err(error) = self.keep().await {
            tracing::debug!(cursor = self.key, %error, "the stop counts as an attempt");
        }
        self.lease.release().await;
    }

    /// Ends the claim of a prefill that needs no worker any more.
    pub(super) async fn finish(self) {
        self.lease.remove().await;
    }

    async fn keep(&mut self) -> Result<(), Error> {
        let value = self.cursor.written()?;
        self.revision = self.store.cursors.update(&self.key, value, self.revision).await?;
        Ok(())
    }
}

/// The lease on a prefill, or nothing as soon as its holder is seen to be alive.
async fn lease(store: &Store, of: &Incarnation) -> Result<Option<Lease>, Error> {
    let mut contender = Lease::contend(&store.leases, names::claim_key(of), "worker", TTL)?;
    let mut before = Duration::ZERO;
    loop {
        match contender.try_take().await? {
            Attempt::Held(lease) => return Ok(Some(lease)),
            Attempt::Taken { still, .. } if still < before => return Ok(None),
            Attempt::Taken { still, .. } => before = still,
        }
        sleep(LOOK).await;
    }
}
