//! A compacted topic of one partition as a table in memory: one tail keeps it in step, and a write
//! counts when it was read back.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rdkafka::message::{BorrowedMessage, Message};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use super::link::{Link, watermarks};
use super::record::time_of;
use super::sequence::Place;
use super::tail::{self, Sink};
use crate::error::{Error, ErrorKind, Result};

/// How long opening a table, or reading back a write, may take.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// What a table keeps of its records.
pub(super) trait Rows: Send + Sync + 'static {
    /// The record at `offset` says that `key` has this value now, or none.
    fn apply(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>, at: SystemTime);
}

/// How far a table is.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// The offset after the last record that was applied, or after markers behind it.
    pub(super) next: i64,
    /// True when what was there at the opening has been applied.
    synced: bool,
    /// Why the table ended.
    over: Option<(ErrorKind, Arc<str>)>,
}

/// A table; its tail ends when it is dropped.
pub(super) struct Table<R> {
    link: Arc<Link>,
    topic: String,
    rows: Arc<RwLock<R>>,
    progress: watch::Receiver<Progress>,
    _stop: DropGuard,
}

impl<R: Rows> Table<R> {
    /// Returns when everything that the topic held is in `rows`.
    pub(super) async fn open(link: &Arc<Link>, topic: &str, rows: R) -> Result<Self> {
        let name = topic.to_owned();
        let (low, high) = link.with_client(move |client| watermarks(client, &name, 0)).await?;
        let rows = Arc::new(RwLock::new(rows));
        let synced = low == high;
        let (sender, progress) = watch::channel(Progress { next: low, synced, over: None });
        let stop = link.threads.stop().child_token();
        let filler = Filler { rows: rows.clone(), next: low, high, synced, progress: sender };
        let from = Vec::from([Place { partition: 0, offset: low }]);
        tail::spawn(link, topic, from, stop.clone(), filler)?;
        let (link, topic, _stop) = (link.clone(), topic.to_owned(), stop.drop_guard());
        let table = Self { link, topic, rows, progress, _stop };
        table.wait(|progress| progress.synced).await?;
        Ok(table)
    }

    /// Looks at the rows. Keep it short: the tail waits.
    pub(super) fn read<T>(&self, look: impl FnOnce(&R) -> T) -> T {
        look(&self.rows.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the rows beside the topic.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut R) -> T) -> T {
        change(&mut self.rows.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells each step of the table.
    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until the record at `offset` was applied.
    pub(super) async fn applied(&self, offset: i64) -> Result<()> {
        self.wait(|progress| progress.next > offset).await
    }

    /// Waits until everything that anyone had written when this was called was applied.
    pub(super) async fn refresh(&self) -> Result<()> {
        let topic = self.topic.clone();
        let look = self.link.with_client(move |client| watermarks(client, &topic, 0));
        let (low, high) = look.await?;
        // When all of it is gone, there is nothing to wait for.
        if low == high { Ok(()) } else { self.applied(high - 1).await }
    }

    async fn wait(&self, mut done: impl FnMut(&Progress) -> bool) -> Result<()> {
        let mut progress = self.progress.clone();
        let step = progress.wait_for(|progress| done(progress) || progress.over.is_some());
        match tokio::time::timeout(STEP_LIMIT, step).await {
            Ok(Ok(progress)) => progress.check(&self.topic),
            Ok(Err(_)) => Err(super::threads::closed()),
            Err(_) => {
                let (topic, limit) = (&self.topic, STEP_LIMIT.as_secs());
                let what = format!("topic {topic} was not read to its end within {limit} s");
                Err(Error::new(ErrorKind::Timeout, what))
            }
        }
    }
}

impl Progress {
    /// The error that ended the table, if one did.
    pub(super) fn check(&self, topic: &str) -> Result<()> {
        match &self.over {
            None => Ok(()),
            Some((kind, why)) => Err(Error::new(*kind, format!("topic {topic}: {why}"))),
        }
    }
}

/// Applies records, in the tail's thread.
struct Filler<R> {
    rows: Arc<RwLock<R>>,
    next: i64,
    /// The end when the table was opened.
    high: i64,
    synced: bool,
    progress: watch::Sender<Progress>,
}

impl<R: Rows> Sink for Filler<R> {
    fn record(&mut self, record: &BorrowedMessage<'_>) -> bool {
        self.next = record.offset() + 1;
        self.synced |= self.next >= self.high;
        // A record without a key is none of a compacted topic's.
        if let Some(key) = record.key() {
            let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
            rows.apply(record.offset(), key, record.payload(), time_of(record));
        }
        false
    }

    fn end(&mut self, _partition: i32, next: i64) {
        // Where a transaction is open this is not the end of what was there at the opening.
        self.next = self.next.max(next);
        self.synced |= self.next >= self.high;
    }

    fn step(&mut self) -> ControlFlow<()> {
        let (next, synced) = (self.next, self.synced);
        self.progress.send_if_modified(|progress| {
            let moved = progress.next != next || progress.synced != synced;
            (progress.next, progress.synced) = (next, synced);
            moved
        });
        // Whoever holds the table stops the tail when it goes.
        ControlFlow::Continue(())
    }

    fn away(&mut self, error: Error) -> ControlFlow<()> {
        tracing::warn!(%error, "a table stands still");
        ControlFlow::Continue(())
    }

    fn over(&mut self, error: Error) {
        tracing::warn!(%error, "a table has ended");
        let over = Some((error.kind(), Arc::from(error.to_string())));
        self.progress.send_modify(|progress| progress.over = over);
    }
}
