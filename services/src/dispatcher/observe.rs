//! What is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use bus::{ConsumerInfo, Error};

use crate::model::{Incarnation, Realm, names};
use crate::prefill::Cursor;
use crate::store::{Kept, Store};

/// Everything a pass looks at.
pub(super) struct Observed {
    pub(super) now: SystemTime,
    pub(super) now_ms: u64,
    /// Final queues by realm, listed **before** the records: a queue is older than its record, so
    /// one without a record here is an orphan unless its registration is still under way.
    pub(super) queues: BTreeMap<Realm, BTreeMap<String, Queue>>,
    /// Consumers of prefill queues.
    pub(super) prefill_queues: BTreeMap<String, Queue>,
    /// Prefills that a worker has begun, by whose they are, and whether a worker is at it.
    pub(super) prefills: BTreeMap<Incarnation, bool>,
    /// Whose settlements are kept.
    pub(super) settled: BTreeSet<Incarnation>,
    pub(super) subscriptions: Vec<Kept>,
    /// Names in the records bucket, those whose record cannot be read included: nothing of theirs
    /// is an orphan.
    pub(super) names: BTreeSet<String>,
}

/// A consumer as the dispatcher sees it.
pub(super) struct Queue {
    pub(super) created: SystemTime,
}

/// Looks at the whole store.
pub(super) async fn observe(store: &Store) -> Result<Observed, Error> {
    let mut queues = BTreeMap::new();
    for realm in store.realms().await? {
        let consumers = store.bus().consumers(names::log_stream(&realm)?).await?;
        queues.insert(realm, by_name(consumers));
    }
    let prefill_queues = by_name(store.bus().consumers(names::PREFILL_STREAM).await?);
    let now_ms = store.platform.clock.now_ms();
    let mut prefills = BTreeMap::new();
    for entry in store.cursors.entries(">").await? {
        let Some(of) = names::parse_cursor_key(&entry.key) else { continue };
        // A cursor that cannot be read still marks a prefill whose rows may have to go.
        let at_work = Cursor::parse(&entry).is_ok_and(|cursor| cursor.is_claimed(now_ms));
        prefills.insert(of, at_work);
    }
    let settled = store.settled.keys(">").await?;
    let settled = settled.iter().filter_map(names::parse_settled_key).collect();
    let names = store.subscriptions.keys(">").await?;
    let names = names.into_iter().map(|key| key.as_str().to_owned()).collect();
    let subscriptions = store.all_subscriptions().await?;
    let now = store.platform.clock.now();
    Ok(Observed { now, now_ms, queues, prefill_queues, prefills, settled, subscriptions, names })
}

fn by_name(consumers: Vec<ConsumerInfo>) -> BTreeMap<String, Queue> {
    let seen = |info: ConsumerInfo| (info.config.name.to_string(), Queue { created: info.created });
    consumers.into_iter().map(seen).collect()
}
