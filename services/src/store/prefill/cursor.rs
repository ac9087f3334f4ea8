//! How far a prefill has come, and what is kept of it. A killed worker's successor resumes from
//! it, and a zombie's next step fails.

use bus::{Entry, Error, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::model::{Incarnation, Realm, RowsDigest, names};
use crate::store::Store;

/// The kept form. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Raised by each worker that takes over; for people who look.
    pub(crate) claims: u32,
    /// Workers that began since it last moved and were not told to stop.
    #[serde(default)]
    pub(crate) attempts: u32,
    /// What has been read; `None` before the first page, and when `ended_ms` says so.
    #[serde(default, rename = "at", skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<Position>,
    /// When the last row was written, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended_ms: Option<u64>,
    /// Why its rows are not kept any more, and whether they are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gone: Option<Gone>,
    /// Keys looked at.
    pub(crate) scanned: u64,
    /// Keys in all.
    pub(crate) total: u64,
    /// Rows written.
    pub(crate) rows: u64,
    /// Over those rows.
    pub(crate) digest: String,
}

/// What became of the rows of a complete prefill. Keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// Why.
    pub(crate) why: Why,
    /// True when there are none left.
    pub(crate) removed: bool,
}

/// Why rows are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Why {
    /// All were handed out and settled.
    Settled,
    /// They are older than [`crate::store::StoreOptions::prefill_max_age`].
    Age,
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

    /// The digest over what was written so far.
    pub(crate) fn digest(&self) -> Result<RowsDigest, Error> {
        RowsDigest::from_hex(&self.digest).ok_or_else(|| {
            let what = "the digest in a prefill cursor cannot be read";
            Error::new(ErrorKind::Corrupt, what)
        })
    }

    pub(crate) fn at_start() -> Self {
        Self {
            claims: 0,
            attempts: 0,
            position: None,
            ended_ms: None,
            gone: None,
            scanned: 0,
            total: 0,
            rows: 0,
            digest: RowsDigest::default().to_hex(),
        }
    }

    pub(crate) fn written(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "the cursor cannot be written", source)
        })
    }
}

/// Where a source has been read to, in its own fixed order. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The realm.
    pub(crate) realm: Realm,
    /// How far in it; of a log, the sequence.
    pub(crate) sequence: u64,
}
