//! The one thread that writes: all that waits as one, then a sync that all of it shares.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fjall::Slice;

use super::SyncPolicy;
use super::keys::{CLOCK_KEY, Meta, Table};
use super::queue::{Shared, Stop, Work};
use super::tables::{Tables, Write, failed};
use crate::error::{Error, ErrorKind, Result};

/// What is written under [`SyncPolicy::Interval`] is synced after this long.
const SYNC_INTERVAL: Duration = Duration::from_millis(50);
/// Nothing to do for this long is looked into, which costs nothing and bounds every wait.
const IDLE: Duration = Duration::from_secs(1);
/// So many rows of what was deleted go with each turn.
const SWEEP_ROWS: usize = 4096;

/// The running thread. Dropping it ends the thread after everything is written and synced.
#[derive(Debug)]
pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    /// Starts the thread; `dropped` are the streams and buckets whose rows are to go.
    pub(super) fn start(shared: Arc<Shared>, dropped: Vec<u64>) -> Result<Self> {
        let mut state = Turns { shared: shared.clone(), dropped, synced_at: Instant::now() };
        let thread = std::thread::Builder::new()
            .name("bus-disk".into())
            .spawn(move || state.run())
            .map_err(|source| {
                let what = "the thread that writes to disk cannot be started: free some threads";
                Error::with_source(ErrorKind::Unavailable, what, source)
            })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread and closes the database. Blocks until both are done.
    pub(super) fn stop(&self, how: Stop, reason: &str) {
        self.shared.stop(how);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in there has failed the backend already.
            let _ = thread.join();
        }
        self.shared.close(reason);
        drop(self.shared.tables.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.stop(Stop::Drained, "it was closed");
    }
}

struct Turns {
    shared: Arc<Shared>,
    dropped: Vec<u64>,
    synced_at: Instant,
}

/// Fails the backend if the thread ends in a panic.
struct Watchman(Arc<Shared>);

impl Drop for Watchman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the thread that writes to disk ended in a panic".to_owned());
        }
    }
}

impl Turns {
    fn run(&mut self) {
        let _watchman = Watchman(self.shared.clone());
        loop {
            let work = self.shared.take(self.patience());
            let stop = work.stop;
            if stop == Some(Stop::Now) {
                return;
            }
            if let Err(error) = self.turn(work) {
                let shared = &self.shared;
                tracing::error!(path = %shared.path.display(), %error, "the disk failed");
                shared.fail(format!("the disk did not take what was written ({})", chain(&error)));
                return;
            }
            if stop.is_some() {
                return;
            }
        }
    }

    fn patience(&self) -> Duration {
        if !self.dropped.is_empty() {
            return Duration::ZERO;
        }
        match self.shared.policy {
            SyncPolicy::Interval if !self.shared.is_synced() => {
                SYNC_INTERVAL.saturating_sub(self.synced_at.elapsed())
            }
            _ => IDLE,
        }
    }

    fn turn(&mut self, work: Work) -> fjall::Result<()> {
        let shared = self.shared.clone();
        let tables = shared.tables.read().unwrap_or_else(PoisonError::into_inner);
        let Some(tables) = tables.as_ref() else { return Ok(()) };
        let ends = work.stop.is_some();
        if !work.writes.is_empty() {
            // Read after all of it happened: nothing on disk is later than what is said there.
            let time = Some(Slice::from(shared.clock.latest().to_be_bytes()));
            let clock = Write { table: Table::Meta, key: Slice::from(CLOCK_KEY), value: time };
            tables.write(self.last_of_each(work.writes).chain([clock]))?;
        }
        shared.set_written(work.ticket);
        let is_due = match shared.policy {
            SyncPolicy::Each => shared.sync_wanted(),
            SyncPolicy::Interval => {
                !shared.is_synced() && self.synced_at.elapsed() >= SYNC_INTERVAL
            }
        };
        if is_due || ends {
            #[cfg(test)]
            shared.fail_sync_if_told()?;
            tables.sync()?;
            shared.set_synced(work.ticket);
            self.synced_at = Instant::now();
        }
        if ends { Ok(()) } else { self.sweep(tables) }
    }

    /// One write per row: those of one batch have no order.
    fn last_of_each(&mut self, writes: Vec<Write>) -> impl Iterator<Item = Write> + use<> {
        let mut last: HashMap<(Table, Slice), Option<Slice>> = HashMap::with_capacity(writes.len());
        for Write { table, key, value } in writes {
            if table == Table::Meta && value.is_some() {
                self.dropped.extend(Meta::Dropped.number(&key));
            }
            last.insert((table, key), value);
        }
        last.into_iter().map(|((table, key), value)| Write { table, key, value })
    }

    /// Removes some rows of a stream or bucket that was deleted.
    fn sweep(&mut self, tables: &Tables) -> fjall::Result<()> {
        let Some(&number) = self.dropped.last() else { return Ok(()) };
        let prefix = number.to_be_bytes();
        for table in Table::OWNED {
            let keys = tables.rows(table, &prefix).take(SWEEP_ROWS);
            let keys =
                keys.map(|row| row.map(|(key, _)| key)).collect::<fjall::Result<Vec<_>>>()?;
            if !keys.is_empty() {
                let remove = |key| Write { table, key, value: None };
                return tables.write(keys.into_iter().map(remove));
            }
        }
        let key = Meta::Dropped.key(number);
        tables.write([Write { table: Table::Meta, key, value: None }])?;
        self.dropped.pop();
        Ok(())
    }
}

/// Reads one row of an open backend.
pub(super) fn read(shared: &Shared, table: Table, key: &[u8]) -> Result<Option<Slice>> {
    shared.with_tables(|tables| tables.get(table, key).map_err(|error| failed(&shared.path, error)))
}

/// A failure and what caused it, on one line.
fn chain(error: &fjall::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), std::error::Error::source(error));
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
