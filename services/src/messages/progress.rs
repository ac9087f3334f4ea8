//! How far a prefill is, as its worker writes it down.

use bus::Error;
use serde::Deserialize;

use crate::model::{Incarnation, names};
use crate::store::Store;

/// The part of a prefill cursor that clients are shown.
#[derive(Deserialize)]
struct Cursor {
    rows: u64,
}

/// The rows written so far; `None` before a worker took the task.
pub(super) async fn rows(store: &Store, of: &Incarnation) -> Result<Option<u64>, Error> {
    let entry = store.cursors.get(names::cursor_key(of)).await?;
    // A cursor of another version shows no progress; it is the worker's to complain about.
    let read = |entry: bus::Entry| serde_json::from_slice::<Cursor>(&entry.value).ok();
    Ok(entry.and_then(read).map(|cursor| cursor.rows))
}
