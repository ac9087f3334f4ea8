//! Where the rows of a prefill come from.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::{LogEvent, Realm};

/// A source of current state, read in pages in a fixed order.
///
/// What a source must offer: the rows up to a position are the same whenever they are read, so
/// that a killed worker resumes where it stopped; and no row is newer than the fence, so that no
/// older live event can follow it.
#[async_trait]
pub(super) trait Source: Send {
    /// The page after `position` (`None`: the first).
    async fn page(&mut self, position: Option<&Position>) -> Result<Page, SourceError>;
}

/// Where a source has been read to, in its own fixed order. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The realm.
    pub(crate) realm: Realm,
    /// `topic.key` within it, the key as a token.
    pub(crate) place: String,
}

/// Some rows of a source.
pub(super) struct Page {
    /// The rows; a page may have none although more follow.
    pub(super) rows: Vec<LogEvent>,
    /// How many keys were looked at, deleted ones included.
    pub(super) scanned: u64,
    /// How many keys there are in all, as far as known.
    pub(super) total: u64,
    /// Where the next page begins; `None` when this was the last.
    pub(super) next: Option<Position>,
}

/// Why a source has no page.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// It cannot answer, now or ever: the prefill fails with this reason.
    #[error("{0}")]
    Impossible(String),
    /// It did not answer: try again.
    #[error(transparent)]
    Bus(#[from] bus::Error),
}
