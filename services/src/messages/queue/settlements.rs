//! What was settled for good, kept by ourselves.
//!
//! A bus may forget acks that it has confirmed: nats-server writes the state of a consumer to disk
//! ten times a second, and what came after the last write is gone when it is killed. The message
//! comes again, perhaps after newer ones of its key. What it stores in a bucket it does not
//! forget, so every ack is recorded there **before** the bus hears of it: whatever a bus
//! has ever called settled is in the record. A delivery that the record holds is acked again and
//! goes to nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bus::{Consumer, Error, ErrorKind, KeyValue};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::lane::Lane;
use super::record::Record;
use crate::model::Incarnation;
use crate::store::Store;

/// How often a write may lose against other replicas.
const TRIES: usize = 16;
/// The bus is asked for the floor this often at most, unless [`MANY`] were settled meanwhile.
const LOOK: Duration = Duration::from_secs(1);
const MANY: usize = 500;
/// Lanes of which a process remembers what it wrote last; only saves reading.
const REMEMBERED: usize = 4096;

/// The records of all lanes. Cheap to clone.
#[derive(Clone)]
pub(super) struct Settlements {
    bucket: KeyValue,
    lanes: Arc<std::sync::Mutex<BTreeMap<String, Arc<Mutex<Known>>>>>,
}

/// What this process knows of a lane. Locked while it writes: its own requests take turns.
#[derive(Default)]
struct Known {
    /// As last seen, with its revision; 0 where there was none.
    kept: Option<(Record, u64)>,
    /// The highest the bus has ever named: once true, it stays true whatever the bus forgets.
    floor: u64,
    looked: Option<Instant>,
    added: usize,
}

impl Settlements {
    pub(super) fn new(store: &Store) -> Self {
        Self { bucket: store.journal.clone(), lanes: Arc::default() }
    }

    /// What is settled by now, whoever settled it.
    pub(super) async fn read(&self, of: &Incarnation, lane: &Lane) -> Result<Record, Error> {
        Ok(self.get(&lane.journal_key(of)).await?.0)
    }

    /// Records messages of a lane as settled for good; they are when this returns, for every
    /// replica. After an error they may be.
    pub(super) async fn add(
        &self,
        of: &Incarnation,
        lane: &Lane,
        queue: &Consumer,
        sequences: &BTreeSet<u64>,
    ) -> Result<(), Error> {
        let key = lane.journal_key(of);
        let known = self.known(&key);
        let mut known = known.lock().await;
        known.look(queue, sequences.len()).await;
        for _ in 0..TRIES {
            // Taken out: after a write of unknown outcome it must be read anew.
            let (mut record, revision) = match known.kept.take() {
                Some(kept) => kept,
                None => self.get(&key).await?,
            };
            if !sequences.iter().all(|sequence| record.contains(*sequence)) {
                record.raise(known.floor);
                record.add(sequences);
                match self.bucket.update(&key, record.encode(), revision).await {
                    Ok(revision) => known.kept = Some((record, revision)),
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error),
                }
            } else {
                known.kept = Some((record, revision));
            }
            return Ok(());
        }
        let what = format!("{key} was written by others {TRIES} times in a row: repeat the ack");
        Err(Error::new(ErrorKind::Unavailable, what))
    }

    async fn get(&self, key: &str) -> Result<(Record, u64), Error> {
        let Some(entry) = self.bucket.get(key).await? else { return Ok((Record::default(), 0)) };
        let record = Record::decode(&entry.value).ok_or_else(|| {
            let what = format!("{key} in bucket {} cannot be read", self.bucket.name());
            let help = "use the version that wrote it, or delete it and accept repetitions";
            tracing::error!(key, "the record of what is settled cannot be read");
            Error::new(ErrorKind::Corrupt, format!("{what}: {help}"))
        })?;
        Ok((record, entry.revision))
    }

    fn known(&self, key: &str) -> Arc<Mutex<Known>> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= REMEMBERED && !lanes.contains_key(key) {
            lanes.pop_first();
        }
        lanes.entry(key.to_owned()).or_default().clone()
    }
}

impl Known {
    /// Has the bus raise the floor now and then, so that the record stays short.
    async fn look(&mut self, queue: &Consumer, adding: usize) {
        self.added += adding;
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) && self.added < MANY {
            return;
        }
        (self.looked, self.added) = (Some(Instant::now()), 0);
        // Without an answer the record is a little longer.
        if let Ok(info) = queue.info().await {
            self.floor = self.floor.max(info.settled_sequence);
        }
    }
}
