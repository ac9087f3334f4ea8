//! What was changed in memory and is not on disk yet, and how far the disk is.
//!
//! Steps hand on their writes under the lock of what they changed, so that writes stand here in
//! the order of the changes.
//!
//! ```text
//!  a step (any task)                 the committer (one thread)          the folder
//!
//!  room ──► change in memory ──► queue ──take all──► one atomic batch ──► written
//!   ▲ 16 MiB  and push its writes,                                          │ who waits for it, or
//!   │ at most  under the same lock                                          │ 50 ms (sync=interval)
//!   │                                                                       ▼
//!   └─ answer ◄── until_written (deliveries, reads) ─────────────────── written
//!      answer ◄── until_kept (receipts, settlements) ──── fdatasync ──── synced
//!
//!  a write or a sync fails, or the thread panics: everyone who waits and every later step gets
//!  `Failed`; the folder stays closed to this process
//! ```
//!
//! The committer takes all there is and writes it as one. A step's
//! **ticket** is the number of the last step that was handed on when it ended: once the disk has
//! that, everything the step saw or did is there.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::tables::{Tables, Write};
use super::{SyncPolicy, backend};
use crate::embedded::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// Steps wait while this many bytes are on their way to the disk.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// What the committer and everyone else share.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) policy: SyncPolicy,
    pub(super) clock: Clock,
    /// Taken away when the backend is closed.
    pub(super) tables: RwLock<Option<Tables>>,
    /// The next number of a stream, consumer or bucket.
    pub(super) next_number: AtomicU64,
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Held while the queue is taken, and by whoever hands on what must not be taken apart.
    taking: Mutex<()>,
    queued_bytes: AtomicUsize,
    pushed: AtomicU64,
    written: AtomicU64,
    synced: AtomicU64,
    /// The highest ticket that someone waits to be synced.
    wanted: AtomicU64,
    end: OnceLock<End>,
    has_failed: AtomicBool,
    /// The next sync fails, as on a disk that is broken.
    #[cfg(test)]
    fails_to_sync: AtomicBool,
    /// Something above moved on.
    moved: Notify,
}

/// Why nothing more is taken.
#[derive(Debug)]
enum End {
    /// This process closed it.
    Closed(String),
    /// The disk failed, or whoever writes to it.
    Failed(String),
}

#[derive(Debug, Default)]
struct Queue {
    writes: Vec<Write>,
    stop: Option<Stop>,
}

/// How the committer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Once everything is written and synced.
    Drained,
    /// Now, as in a crash.
    Now,
}

/// What the committer has to do next.
pub(super) struct Work {
    pub(super) writes: Vec<Write>,
    /// What is written once `writes` are.
    pub(super) ticket: u64,
    pub(super) stop: Option<Stop>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        path: PathBuf,
        policy: SyncPolicy,
        clock: Clock,
        tables: Tables,
        next: u64,
    ) -> Self {
        Self {
            path,
            policy,
            clock,
            tables: RwLock::new(Some(tables)),
            next_number: AtomicU64::new(next),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            taking: Mutex::default(),
            queued_bytes: AtomicUsize::new(0),
            pushed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            end: OnceLock::new(),
            has_failed: AtomicBool::new(false),
            #[cfg(test)]
            fails_to_sync: AtomicBool::new(false),
            moved: Notify::new(),
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands on the writes of a step; returns its ticket.
    pub(super) fn push(&self, writes: &mut Vec<Write>) -> u64 {
        let size = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, |v| v.len());
        let bytes: usize = writes.iter().map(size).sum();
        let mut queue = self.queue();
        let ticket = self.pushed.fetch_add(1, Ordering::AcqRel) + 1;
        if self.has_failed() || queue.stop.is_some() {
            // Never written: whoever waits for the ticket gets the failure.
            writes.clear();
            return ticket;
        }
        queue.writes.append(writes);
        self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        drop(queue);
        self.arrived.notify_one();
        ticket
    }

    /// While this is held the committer takes nothing.
    pub(super) fn as_one(&self) -> MutexGuard<'_, ()> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the committer.
    pub(super) fn stop(&self, how: Stop) {
        self.queue().stop = Some(how);
        self.arrived.notify_one();
    }

    /// Takes what there is. Waits for something to do, at most `patience`.
    pub(super) fn take(&self, patience: Duration) -> Work {
        let deadline = Instant::now() + patience;
        loop {
            let as_one = self.as_one();
            let mut queue = self.queue();
            let waits = queue.writes.is_empty() && queue.stop.is_none() && !self.sync_wanted();
            let left = deadline.saturating_duration_since(Instant::now());
            if !waits || left.is_zero() {
                self.queued_bytes.store(0, Ordering::Release);
                return Work {
                    writes: std::mem::take(&mut queue.writes),
                    ticket: self.pushed.load(Ordering::Acquire),
                    stop: queue.stop,
                };
            }
            drop(as_one);
            let waited = self.arrived.wait_timeout(queue, left);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// True when someone waits for what is written and not synced.
    pub(super) fn sync_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire) > self.synced.load(Ordering::Acquire)
    }

    pub(super) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire) >= self.written()
    }

    pub(super) fn set_written(&self, ticket: u64) {
        self.written.fetch_max(ticket, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    pub(super) fn set_synced(&self, ticket: u64) {
        self.synced.fetch_max(ticket, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Everything from now on fails, because the disk did. What was written and not synced may be
    /// on the disk or not, whatever the operating system says of it later, so that nothing but the
    /// end of the process is an answer.
    pub(super) fn fail(&self, reason: String) {
        self.finish(End::Failed(reason));
    }

    /// Everything from now on fails, because this process closed the backend.
    pub(super) fn close(&self, reason: &str) {
        self.finish(End::Closed(reason.to_owned()));
    }

    fn finish(&self, end: End) {
        let _ = self.end.set(end);
        self.has_failed.store(true, Ordering::Release);
        self.moved.notify_waiters();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Why the disk failed, if it did.
    pub(super) fn disk_failure(&self) -> Option<String> {
        match self.end.get()? {
            End::Failed(reason) => Some(reason.clone()),
            End::Closed(_) => None,
        }
    }

    pub(super) fn failure(&self) -> Error {
        match self.end.get() {
            Some(End::Failed(reason)) => backend::failed(&self.path, reason),
            Some(End::Closed(reason)) => {
                let what = format!("{}: {reason}: open it anew", self.path.display());
                Error::new(ErrorKind::Closed, what)
            }
            None => {
                let what = format!("{}: it was closed: open it anew", self.path.display());
                Error::new(ErrorKind::Closed, what)
            }
        }
    }

    /// Waits until everything fails, and says why.
    pub(super) async fn failed(&self) -> Error {
        loop {
            let moved = self.moved.notified();
            if self.has_failed() {
                return self.failure();
            }
            moved.await;
        }
    }

    /// What `read` finds in the open database.
    pub(super) fn with_tables<T>(&self, read: impl FnOnce(&Tables) -> Result<T>) -> Result<T> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        match tables.as_ref() {
            Some(tables) => read(tables),
            None => Err(self.failure()),
        }
    }

    /// The ticket of everything that happened so far.
    pub(super) fn ticket(&self) -> u64 {
        self.pushed.load(Ordering::Acquire)
    }

    /// True when a step need not wait before it begins.
    pub(super) fn has_room(&self) -> bool {
        !self.has_failed() && self.queued_bytes.load(Ordering::Acquire) < MAX_QUEUED_BYTES
    }

    /// Waits until few enough bytes are on their way; fails where nothing more is taken.
    pub(super) async fn room(&self) -> Result<()> {
        if self.has_failed() {
            return Err(self.failure());
        }
        self.until(|| self.queued_bytes.load(Ordering::Acquire) < MAX_QUEUED_BYTES).await
    }

    /// Waits until a crash of this process does not undo what `ticket` stands for.
    pub(super) async fn until_written(&self, ticket: u64) -> Result<()> {
        self.until(|| self.written() >= ticket).await
    }

    /// Asks for what [`Shared::until_kept`] waits for.
    pub(super) fn want_kept(&self, ticket: u64) {
        if self.policy == SyncPolicy::Each && self.synced.load(Ordering::Acquire) < ticket {
            self.wanted.fetch_max(ticket, Ordering::AcqRel);
            // Under the lock, so that a committer about to sleep sees it.
            drop(self.queue());
            self.arrived.notify_one();
        }
    }

    /// Waits until `ticket` is kept as the policy says that a receipt stands for.
    pub(super) async fn until_kept(&self, ticket: u64) -> Result<()> {
        match self.policy {
            SyncPolicy::Each => {
                self.want_kept(ticket);
                self.until(|| self.synced.load(Ordering::Acquire) >= ticket).await
            }
            SyncPolicy::Interval => self.until_written(ticket).await,
        }
    }

    async fn until(&self, reached: impl Fn() -> bool) -> Result<()> {
        loop {
            let moved = self.moved.notified();
            if reached() {
                return Ok(());
            }
            if self.has_failed() {
                return Err(self.failure());
            }
            moved.await;
        }
    }

    /// Has the next sync fail.
    #[cfg(test)]
    pub(super) fn break_disk(&self) {
        self.fails_to_sync.store(true, Ordering::Release);
    }

    #[cfg(test)]
    pub(super) fn fail_sync_if_told(&self) -> fjall::Result<()> {
        // EIO, once, as the operating system reports it: what it could not write counts as written.
        match self.fails_to_sync.swap(false, Ordering::AcqRel) {
            true => Err(fjall::Error::Io(std::io::Error::from_raw_os_error(5))),
            false => Ok(()),
        }
    }
}
