//! What is there.

use std::collections::{BTreeMap, BTreeSet};

use bus::Error;

use crate::model::{Incarnation, Realm, names};
use crate::prefill::Cursor;
use crate::store::{Kept, Store};

/// Everything a pass looks at.
pub(super) struct Observed {
    pub(super) now_ms: u64,
    pub(super) realms: Vec<Realm>,
    /// Prefills that a worker has begun, by whose they are, and whether a worker is at it. Listed
    /// **before** the records, as are the journals: both are younger than their record, so that
    /// one without a record here is an orphan.
    pub(super) prefills: BTreeMap<Incarnation, bool>,
    /// Whose hand-out journals are kept.
    pub(super) journals: BTreeSet<Incarnation>,
    pub(super) subscriptions: Vec<Kept>,
    /// Names in the records bucket, those whose record cannot be read included: nothing of theirs
    /// is an orphan.
    pub(super) names: BTreeSet<String>,
}

/// Looks at the whole store.
pub(super) async fn observe(store: &Store) -> Result<Observed, Error> {
    let now_ms = store.platform.clock.now_ms();
    let mut prefills = BTreeMap::new();
    for entry in store.cursors.entries(">").await? {
        let Some(of) = names::parse_cursor_key(&entry.key) else { continue };
        // A cursor that cannot be read still marks a prefill whose rows may have to go.
        let at_work = Cursor::parse(&entry).is_ok_and(|cursor| cursor.is_claimed(now_ms));
        prefills.insert(of, at_work);
    }
    let journals = store.journal.keys(">").await?;
    let journals = journals.iter().filter_map(names::parse_journal_key).collect();
    let names = store.subscriptions.keys(">").await?;
    let names = names.into_iter().map(|key| key.as_str().to_owned()).collect();
    let subscriptions = store.all_subscriptions().await?;
    let realms = store.realms().await?;
    Ok(Observed { now_ms, realms, prefills, journals, subscriptions, names })
}
