//! What stands in the bucket.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::config::Entry;
use crate::error::{Error, ErrorKind, Result};

/// The value under a lease's key. Keep stable: processes of different versions read each other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Grows with every holder.
    pub(super) term: u64,
    /// Grows with every try to renew a term.
    pub(super) beat: u64,
    /// False when the holder has let go.
    pub(super) held: bool,
    /// Which contender wrote it.
    #[serde(default)]
    pub(super) id: String,
    /// What its holder shows of itself.
    #[serde(default)]
    pub(super) value: String,
    /// How long it is given, in milliseconds; 0 where an earlier version wrote it.
    #[serde(default)]
    pub(super) ttl_ms: u64,
}

impl Record {
    pub(super) fn first(term: u64, id: &str, value: &str, ttl: Duration) -> Self {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Self { term, beat: 0, held: true, id: id.to_owned(), value: value.to_owned(), ttl_ms }
    }

    pub(super) fn renewed(&self, beat: u64) -> Self {
        Self { beat, ..self.clone() }
    }

    pub(super) fn released(&self) -> Self {
        Self { held: false, ..self.clone() }
    }

    /// True when the same contender wrote both in the same term.
    pub(super) fn is_same_term(&self, other: &Self) -> bool {
        self.held && (self.term, &self.id) == (other.term, &other.id)
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    pub(super) fn read(entry: &Entry) -> Option<Self> {
        serde_json::from_slice(&entry.value).ok()
    }

    pub(super) fn written(&self) -> Result<Bytes> {
        serde_json::to_vec(self).map(Bytes::from).map_err(|source| {
            let what = "the record of a lease cannot be written as JSON";
            Error::with_source(ErrorKind::Invalid, what, source)
        })
    }
}
