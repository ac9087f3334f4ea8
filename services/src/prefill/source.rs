//! Where the rows of a prefill come from.

use async_trait::async_trait;

use crate::model::{Row, Subscription};
use crate::store::Store;
use crate::store::prefill::Position;

/// The rows of a page at most.
pub(super) const PAGE_ROWS: usize = 4096;
/// The bytes of a page, after which it ends. One message more may be in it.
pub(super) const PAGE_BYTES: usize = 2 << 20;

/// Opens the source of a subscription's prefill.
#[async_trait]
pub(super) trait Open: Send + Sync {
    /// The source, at its first page.
    async fn open(
        &self,
        store: &Store,
        subscription: &Subscription,
    ) -> Result<Box<dyn Source>, SourceError>;
}

/// A source of current state, read in pages in a fixed order.
///
/// What a source must offer: the rows up to a position are the same whenever they are read, so
/// that a killed worker resumes where it stopped; each key once; and no row is newer than the
/// fence, so that no older live event can follow it. A page is bounded by [`PAGE_ROWS`] and
/// [`PAGE_BYTES`], and may take as long as it needs.
#[async_trait]
pub(crate) trait Source: Send {
    /// The page after `position` (`None`: the first). The next page is asked for while the rows of
    /// the one before are being written.
    async fn page(&mut self, position: Option<&Position>) -> Result<Page, SourceError>;
}

/// Some rows of a source.
pub(crate) struct Page {
    /// The rows; a page may have none although more follow.
    pub(crate) rows: Vec<Row>,
    /// How many keys were looked at, deleted ones included.
    pub(crate) scanned: u64,
    /// How many keys there are in all, as far as known.
    pub(crate) total: u64,
    /// Where the next page begins, beyond where this one did; `None` when this was the last.
    pub(crate) next: Option<Position>,
}

/// Why a source has no page.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// It cannot answer, now or ever: the prefill fails with this reason.
    #[error("{0}")]
    Impossible(String),
    /// It did not answer: try again.
    #[error(transparent)]
    Bus(#[from] bus::Error),
}
