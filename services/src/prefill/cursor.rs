//! How far a prefill has come, kept by compare-and-set: a killed worker's successor resumes, and
//! a zombie's next step fails.

use std::time::Duration;

use bus::{Entry, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use super::source::Position;
use crate::model::{Incarnation, RowsDigest, names};
use crate::store::Store;

/// A cursor that has not moved for this long has no worker any more.
pub(super) const CLAIM: Duration = Duration::from_secs(10);

/// The kept form. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Raised by each worker that takes over.
    pub(crate) claims: u32,
    /// When it last moved, milliseconds since 1970; 0 when its worker has let go of it.
    pub(crate) moved_ms: u64,
    /// What has been read; `None` before the first page.
    pub(crate) position: Option<Position>,
    /// Keys looked at.
    pub(crate) scanned: u64,
    /// Keys in all.
    pub(crate) total: u64,
    /// Rows written.
    pub(crate) rows: u64,
    /// Over those rows.
    pub(crate) digest: String,
}

impl Cursor {
    /// Reads the cursor of a prefill, if a worker has begun it.
    pub(crate) async fn read(store: &Store, of: &Incarnation) -> Result<Option<Self>, Error> {
        let entry = store.cursors.get(names::cursor_key(of)).await?;
        entry.as_ref().map(Self::parse).transpose()
    }

    /// Reads an entry of the cursor bucket.
    pub(crate) fn parse(entry: &Entry) -> Result<Self, Error> {
        serde_json::from_slice(&entry.value).map_err(|source| {
            let what = format!("the prefill cursor {} cannot be read", entry.key);
            Error::with_source(ErrorKind::Corrupt, what, source)
        })
    }

    /// True while a worker is at it.
    pub(crate) fn is_claimed(&self, now_ms: u64) -> bool {
        now_ms < self.moved_ms.saturating_add(CLAIM.as_millis() as u64)
    }
}

/// A cursor in the hands of the worker that claimed it.
pub(super) struct Claim {
    store: Store,
    key: String,
    revision: u64,
    /// As it is kept.
    pub(super) cursor: Cursor,
}

impl Claim {
    /// Claims the cursor of a prefill, making it if this is the first time; `None` while another
    /// worker is at it.
    pub(super) async fn take(store: &Store, of: &Incarnation) -> Result<Option<Self>, Error> {
        let key = names::cursor_key(of);
        let now_ms = store.platform.clock.now_ms();
        let (mut cursor, revision) = match store.cursors.get(&key).await? {
            None => (Cursor::at_start(), 0),
            Some(entry) => (Cursor::parse(&entry)?, entry.revision),
        };
        if cursor.is_claimed(now_ms) {
            return Ok(None);
        }
        cursor.claims += 1;
        let mut claim = Self { store: store.clone(), key, revision, cursor };
        match claim.keep().await {
            Ok(()) => Ok(Some(claim)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves on. [`ErrorKind::Conflict`] when another worker has taken over: stop then.
    pub(super) async fn advance(
        &mut self,
        position: Position,
        scanned: u64,
        rows: u64,
        digest: RowsDigest,
    ) -> Result<(), Error> {
        self.cursor.position = Some(position);
        self.cursor.scanned += scanned;
        self.cursor.rows += rows;
        self.cursor.digest = digest.to_hex();
        self.keep().await
    }

    /// The digest over what was written so far.
    pub(super) fn digest(&self) -> Result<RowsDigest, Error> {
        RowsDigest::from_hex(&self.cursor.digest).ok_or_else(|| {
            let what = format!("the digest in prefill cursor {} cannot be read", self.key);
            Error::new(ErrorKind::Corrupt, what)
        })
    }

    /// Lets go, so that the next worker need not wait until the claim runs out.
    pub(super) async fn release(mut self) {
        let mut cursor = self.cursor.clone();
        cursor.moved_ms = 0;
        let value = serde_json::to_vec(&cursor).unwrap_or_default();
        match self.store.cursors.update(&self.key, value, self.revision).await {
            Ok(revision) => self.revision = revision,
            Err(error) => tracing::debug!(cursor = self.key, %error, "claim left to run out"),
        }
    }

    async fn keep(&mut self) -> Result<(), Error> {
        self.cursor.moved_ms = self.store.platform.clock.now_ms();
        let value = serde_json::to_vec(&self.cursor).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "the cursor cannot be written", source)
        })?;
        self.revision = self.store.cursors.update(&self.key, value, self.revision).await?;
        Ok(())
    }
}

impl Cursor {
    fn at_start() -> Self {
        Self {
            claims: 0,
            moved_ms: 0,
            position: None,
            scanned: 0,
            total: 0,
            rows: 0,
            digest: RowsDigest::default().to_hex(),
        }
    }
}
