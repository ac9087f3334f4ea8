//! Publishing checked events: realms made on first use, order kept per key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Error, ErrorKind, Receipt, Stream};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::limits::{MAX_REALMS, PUBLISH_WINDOW};
use crate::model::{CloudEvent, Key, Realm};
use crate::store::Store;

/// Publishes events to the logs of their realms. Cheap to clone; many tasks may publish at once.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    store: Store,
    /// Logs that were there when last asked.
    logs: Mutex<BTreeMap<Realm, Stream>>,
}

impl Ingest {
    /// Publishes to the logs of `store`.
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, logs: Mutex::default() }))
    }

    /// Publishes events; one result for each, in their order. A receipt means durable.
    ///
    /// Events of one key are published one after another, and after a failure the rest of the key
    /// is not tried, so that repeating the whole call keeps every key's order: what was stored is
    /// recognised by source and id for the length of the log's duplicate window. Events of
    /// different keys of one call may be stored in any order.
    pub async fn publish(&self, events: &[CloudEvent]) -> Vec<Result<Receipt, Error>> {
        self.prepare(events).await;
        let mut waiting = by_key(events).into_iter();
        let mut at_work = FuturesUnordered::new();
        let mut results = Vec::with_capacity(events.len());
        loop {
            while at_work.len() < PUBLISH_WINDOW
                && let Some(places) = waiting.next()
            {
                at_work.push(self.publish_in_turn(events, places));
            }
            match at_work.next().await {
                Some(done) => results.extend(done),
                None => break,
            }
        }
        results.sort_unstable_by_key(|(at, _)| *at);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Makes new realms one by one, before many events of one arrive at the same gate. A failure
    /// comes up again, and is reported, where the realm's events are published.
    async fn prepare(&self, events: &[CloudEvent]) {
        let realms: BTreeSet<&Realm> = events.iter().map(|event| &event.topic().realm).collect();
        for realm in realms {
            if let Err(error) = self.log(realm).await {
                tracing::warn!(%realm, %error, "a realm is not ready");
            }
        }
    }

    /// Publishes the events at these places, each when the one before it is durable.
    async fn publish_in_turn(
        &self,
        events: &[CloudEvent],
        places: Vec<usize>,
    ) -> Vec<(usize, Result<Receipt, Error>)> {
        let mut results = Vec::with_capacity(places.len());
        let mut failed = false;
        for at in places {
            let result = if failed {
                let detail = "not tried, as an earlier event of its key failed: repeat them all";
                Err(Error::new(ErrorKind::Unavailable, detail))
            } else {
                self.publish_one(&events[at]).await
            };
            failed = result.is_err();
            results.push((at, result));
        }
        results
    }

    async fn publish_one(&self, event: &CloudEvent) -> Result<Receipt, Error> {
        let realm = &event.topic().realm;
        let log = self.log(realm).await?;
        match log.publish(event.to_message()?).await {
            // Deleted since we saw it.
            Err(error) if error.is_not_found() => {
                self.logs().remove(realm);
                self.log(realm).await?.publish(event.to_message()?).await
            }
            result => result,
        }
    }

    async fn log(&self, realm: &Realm) -> Result<Stream, Error> {
        let known = self.logs().get(realm).cloned();
        if let Some(log) = known {
            return Ok(log);
        }
        let realms = self.0.store.realms().await?;
        if realms.len() >= MAX_REALMS && !realms.contains(realm) {
            let what = format!("realm {realm} would be one more than the {MAX_REALMS} there are");
            return Err(Error::new(ErrorKind::Full, format!("{what}: use one of them")));
        }
        let log = self.0.store.ensure_realm(realm).await?;
        self.logs().insert(realm.clone(), log.clone());
        Ok(log)
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<Realm, Stream>> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The places of the events of each key, keys in the order of their first event. The topic does
/// not matter: a log keeps order across its topics.
fn by_key(events: &[CloudEvent]) -> Vec<Vec<usize>> {
    let mut chains: Vec<Vec<usize>> = Vec::new();
    let mut chain_of: BTreeMap<(&Realm, &Key), usize> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        let chain = *chain_of.entry((&event.topic().realm, event.key())).or_insert(chains.len());
        match chains.get_mut(chain) {
            Some(places) => places.push(at),
            None => chains.push(vec![at]),
        }
    }
    chains
}
