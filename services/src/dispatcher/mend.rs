//! Doing it: every step may be done twice.

use std::collections::BTreeSet;

use bus::Error;

use super::known::Lack;
use crate::model::{Incarnation, names};
use crate::store::Store;
use crate::work::{Report, request_prefill, send_report};

/// Whose prefills and hand-out journals are kept. Read **before** the records: both are younger
/// than their record, so that one without a record then is left over.
pub(super) async fn lives(store: &Store) -> Result<BTreeSet<Incarnation>, Error> {
    let cursors = store.cursors.keys(">").await?;
    let mut lives: BTreeSet<_> = cursors.iter().filter_map(names::parse_cursor_key).collect();
    let journals = store.journal.keys(">").await?;
    lives.extend(journals.iter().filter_map(names::parse_journal_key));
    Ok(lives)
}

/// Gives a subscription what it lacks. Returns the revision of its prefill's cursor, if it waits
/// for one that was begun.
pub(super) async fn give(store: &Store, lack: Lack) -> Result<Option<u64>, Error> {
    let Lack { of, realms, prefill } = lack;
    for realm in realms {
        send_report(store, &Report::RealmJoined { of: of.clone(), realm }).await?;
    }
    let Some(seen) = prefill else { return Ok(None) };
    let cursor = store.cursors.get(names::cursor_key(&of)).await?.map(|entry| entry.revision);
    if cursor.is_none() || cursor == seen {
        request_prefill(store, &of).await?;
    }
    Ok(cursor)
}

/// Removes what a life that is over has left.
pub(super) async fn remove(store: &Store, of: &Incarnation) -> Result<(), Error> {
    if store.cursors.get(names::cursor_key(of)).await?.is_some() {
        tracing::info!(prefill = %of, "removing a prefill without a record");
        store.remove_prefill(of).await?;
    }
    store.remove_journals(of).await
}
