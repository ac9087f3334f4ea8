//! How far a prefill is, as clients are shown it.

use bus::Error;
use serde::Serialize;

use crate::model::Incarnation;
use crate::store::Store;
use crate::store::prefill::Cursor;

/// The part of a prefill's cursor that clients are shown. Keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Progress {
    /// Rows written so far.
    pub(super) rows: u64,
    /// Keys looked at so far.
    scanned: u64,
    /// Keys in all.
    total: u64,
}

impl Progress {
    /// The progress of a prefill; `None` before a worker took it.
    pub(super) async fn read(store: &Store, of: &Incarnation) -> Result<Option<Self>, Error> {
        let cursor = Cursor::read(store, of).await?;
        Ok(cursor.map(|Cursor { rows, scanned, total, .. }| Self { rows, scanned, total }))
    }
}
