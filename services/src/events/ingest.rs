//! Publishing checked events: realms made on first use, order kept per key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::{Error, ErrorKind, Receipt, Stream};
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};

use crate::limits::{BUS_WINDOW, MAX_REALMS, PUBLISH_WINDOW};
use crate::model::{CloudEvent, Key, Realm, RealmList};
use crate::store::Store;

use super::duplicate::store_once;

/// Publishes events to the logs of their realms. Cheap to clone; many tasks may publish at once.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    store: Store,
    /// Logs that were there when last asked.
    logs: Mutex<BTreeMap<Realm, Stream>>,
    /// Held while a realm is made, so that their number is counted right.
    making: tokio::sync::Mutex<()>,
}

impl Ingest {
    /// Publishes to the logs of `store`.
    pub fn new(store: Store) -> Self {
        let (logs, making) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Inner { store, logs, making }))
    }

    /// The first realm of the events that does not exist and that events may not make here. What
    /// exists takes events whatever the list says.
    pub async fn refused_realm(&self, events: &[CloudEvent]) -> Result<Option<Realm>, Error> {
        let list = self.realm_list();
        let realms: BTreeSet<&Realm> = events.iter().map(|event| &event.topic().realm).collect();
        let unknown: Vec<Realm> = {
            let logs = self.logs();
            let asked = |realm: &&Realm| !list.allows(realm) && !logs.contains_key(*realm);
            realms.into_iter().filter(asked).cloned().collect()
        };
        let mut looks = stream::iter(unknown)
            .map(|realm| async move {
                let exists = self.0.store.realm_exists(&realm).await?;
                Ok::<_, Error>((realm, exists))
            })
            .buffered(BUS_WINDOW);
        while let Some(looked) = looks.next().await {
            let (realm, exists) = looked?;
            if !exists {
                return Ok(Some(realm));
            }
        }
        Ok(None)
    }

    /// Which realms events may make here.
    pub fn realm_list(&self) -> &RealmList {
        self.0.store.realm_list()
    }

    /// Publishes events; one result for each, in their order. A receipt means durable.
    ///
    /// Events are handed to their logs in the order in which they stand here, and two of one key
    /// are never on their way at once. After a failure the rest of the key is not tried, so that
    /// repeating the whole call keeps every key's order: what was stored is recognised by source
    /// and id for the length of the log's duplicate window.
    pub async fn publish(&self, events: &[CloudEvent]) -> Vec<Result<Receipt, Error>> {
        self.prepare(events).await;
        let mut batch = Batch::of(events.len());
        let mut at_work = FuturesUnordered::new();
        for (at, event) in events.iter().enumerate() {
            let key = (&event.topic().realm, event.key());
            while at_work.len() >= PUBLISH_WINDOW || batch.on_their_way.contains(&key) {
                let Some((done, key, result)) = at_work.next().await else { break };
                batch.done(done, key, result);
            }
            if batch.failed.contains(&key) {
                let detail = "not tried, as an earlier event of its key failed: repeat them all";
                batch.done(at, key, Err(Error::new(ErrorKind::Unavailable, detail)));
                continue;
            }
            batch.on_their_way.insert(key);
            at_work.push(async move { (at, key, self.publish_one(event).await) });
        }
        while let Some((done, key, result)) = at_work.next().await {
            batch.done(done, key, result);
        }
        batch.results.into_iter().flatten().collect()
    }

    /// Opens the logs and makes new realms, before many events of one arrive at the same gate. A
    /// failure comes up again, and is reported, where the realm's events are published.
    async fn prepare(&self, events: &[CloudEvent]) {
        let realms: BTreeSet<&Realm> = events.iter().map(|event| &event.topic().realm).collect();
        let open = |realm| async move {
            if let Err(error) = self.log(realm).await {
                tracing::warn!(%realm, %error, "a realm is not ready");
            }
        };
        stream::iter(realms).for_each_concurrent(BUS_WINDOW, open).await;
    }

    async fn publish_one(&self, event: &CloudEvent) -> Result<Receipt, Error> {
        let realm = &event.topic().realm;
        let result = self.store(realm, event).await;
        self.0.store.platform.metrics.published(realm, &result);
        result
    }

    async fn store(&self, realm: &Realm, event: &CloudEvent) -> Result<Receipt, Error> {
        let log = self.log(realm).await?;
        match store_once(&log, event).await {
            // Deleted since we saw it.
            Err(error) if error.is_not_found() => {
                self.logs().remove(realm);
                store_once(&self.log(realm).await?, event).await
            }
            result => result,
        }
    }

    async fn log(&self, realm: &Realm) -> Result<Stream, Error> {
        let known = self.logs().get(realm).cloned();
        if let Some(log) = known {
            return Ok(log);
        }
        let log = match self.0.store.realm_exists(realm).await? {
            true => self.0.store.ensure_realm(realm).await?,
            false => self.make(realm).await?,
        };
        self.logs().insert(realm.clone(), log.clone());
        Ok(log)
    }

    /// Makes a realm, unless that is not for events to do or there are too many.
    async fn make(&self, realm: &Realm) -> Result<Stream, Error> {
        if !self.realm_list().allows(realm) {
            return Err(Error::new(ErrorKind::Invalid, not_allowed(realm, self.realm_list())));
        }
        let _turn = self.0.making.lock().await;
        let realms = self.0.store.realms().await?;
        if realms.len() >= MAX_REALMS && !realms.contains(realm) {
            let what = format!("realm {realm} would be one more than the {MAX_REALMS} there are");
            return Err(Error::new(ErrorKind::Full, format!("{what}: use one of them")));
        }
        self.0.store.ensure_realm(realm).await
    }

    fn logs(&self) -> MutexGuard<'_, BTreeMap<Realm, Stream>> {
        self.0.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an event may not make a realm, and how it may.
pub(super) fn not_allowed(realm: &Realm, list: &RealmList) -> String {
    let what = format!("realm {realm} does not exist");
    format!(
        "{what}, and the realms that events may make here are {list}: correct the topic, or have \
         {realm} added to --realms (LOCKGATE_REALMS)"
    )
}

/// What order is kept by.
type Place<'a> = (&'a Realm, &'a Key);

/// How far a call has come.
struct Batch<'a> {
    results: Vec<Option<Result<Receipt, Error>>>,
    on_their_way: BTreeSet<Place<'a>>,
    failed: BTreeSet<Place<'a>>,
}

impl<'a> Batch<'a> {
    fn of(size: usize) -> Self {
        let results = std::iter::repeat_with(|| None).take(size).collect();
        Self { results, on_their_way: BTreeSet::new(), failed: BTreeSet::new() }
    }

    fn done(&mut self, at: usize, key: Place<'a>, result: Result<Receipt, Error>) {
        self.on_their_way.remove(&key);
        if result.is_err() {
            self.failed.insert(key);
        }
        if let Some(slot) = self.results.get_mut(at) {
            *slot = Some(result);
        }
    }
}
