//! One backend per folder and process: opened, shared, closed, and closed for good where the disk
//! failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::SyncPolicy;
use super::committer::Committer;
use super::queue::{Shared, Stop};
use super::recover::Recovery;
use super::tables::Tables;
use crate::embedded::clock::Clock;
use crate::embedded::connection::Connection;
use crate::embedded::{Broker, Embedded};
use crate::error::{Error, ErrorKind, Result};

/// The folders of this process.
static OPEN: Mutex<BTreeMap<PathBuf, Place>> = Mutex::new(BTreeMap::new());

/// How long the end of an earlier user of the folder is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// What this process has in a folder.
#[derive(Debug)]
enum Place {
    /// A backend; one that is being closed is still here.
    Open(Weak<Backend>),
    /// Its disk failed, for this reason: this process opens it no more. What the operating system
    /// then shows of the folder need not be what the disk has.
    Failed(String),
}

/// The backend of one folder.
#[derive(Debug)]
pub(super) struct Backend {
    path: PathBuf,
    policy: SyncPolicy,
    clock: Clock,
    broker: Arc<Broker>,
    pub(super) shared: Arc<Shared>,
    committer: Committer,
}

impl Backend {
    /// Opens the folder at the time `base` of the machine, or shares what this process has open
    /// there.
    pub(super) async fn open(
        path: PathBuf,
        policy: SyncPolicy,
        base: SystemTime,
    ) -> Result<Arc<Self>> {
        let name = path.display().to_string();
        // Begun before the folder is waited for: its time would lag behind by that wait.
        let clock = Clock::starting_at(base);
        blocking(&name, move || Self::open_now(&path, policy, &clock)).await
    }

    fn open_now(path: &Path, policy: SyncPolicy, clock: &Clock) -> Result<Arc<Self>> {
        let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let path = made.map_err(|source| {
            let what = format!("{} is no folder that can be used: mind its rights", path.display());
            Error::with_source(ErrorKind::Unavailable, what, source)
        })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut open = registry();
            let backend = match open.get(&path) {
                Some(Place::Failed(reason)) => return Err(failed(&path, reason)),
                Some(Place::Open(backend)) => Some(backend.upgrade()),
                None => None,
            };
            match backend {
                Some(Some(backend)) => {
                    // First, because the backend's end needs it, and this may be the last handle.
                    drop(open);
                    return backend.shared_with(policy);
                }
                // Its last handle is gone, and its end is not over yet.
                Some(None) if Instant::now() < deadline => {
                    drop(open);
                    std::thread::sleep(PAUSE);
                }
                Some(None) | None => {
                    let backend = Arc::new(Self::start(&path, policy, clock.clone())?);
                    open.insert(path, Place::Open(Arc::downgrade(&backend)));
                    return Ok(backend);
                }
            }
        }
    }

    fn shared_with(self: Arc<Self>, policy: SyncPolicy) -> Result<Arc<Self>> {
        if self.shared.has_failed() {
            return Err(self.shared.failure());
        }
        if self.policy == policy {
            return Ok(self);
        }
        Err(Error::new(
            ErrorKind::Mismatch,
            format!(
                "{} is open in this process with another sync policy: use the same",
                self.path.display()
            ),
        ))
    }

    fn start(path: &Path, policy: SyncPolicy, clock: Clock) -> Result<Self> {
        let tables = open_tables(path)?;
        clock.go_on_from(tables.clock(path)?);
        let inventory = Recovery { path, tables: &tables }.inventory()?;
        let next = inventory.highest + 1;
        let shared = Arc::new(Shared::new(path.to_owned(), policy, clock.clone(), tables, next));
        let names = shared.with_tables(|tables| {
            Recovery { path, tables }.names(&inventory, &shared, clock.now())
        })?;
        let broker = Arc::new(Broker {
            names: Mutex::new(names),
            responders: Arc::default(),
            storage: Some(Arc::new(shared.clone())),
        });
        let committer = Committer::start(shared.clone(), inventory.dropped)?;
        Ok(Self { path: path.to_owned(), policy, clock, broker, shared, committer })
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// See [`super::Disk::crash`].
    pub(super) async fn crash(self: &Arc<Self>) -> Result<()> {
        let (backend, name) = (self.clone(), self.path.display().to_string());
        blocking(&name, move || {
            backend.committer.stop(Stop::Now, "it was closed as a crash would close it");
            backend.leave();
            Ok(())
        })
        .await
    }

    /// Lets others open the folder, unless its disk failed.
    fn leave(&self) {
        let mut open = registry();
        let is_own = |place: &Place| match place {
            Place::Open(backend) => std::ptr::eq(backend.as_ptr(), self),
            Place::Failed(_) => false,
        };
        if open.get(&self.path).is_some_and(is_own) {
            match self.shared.disk_failure() {
                Some(reason) => open.insert(self.path.clone(), Place::Failed(reason)),
                None => open.remove(&self.path),
            };
        }
    }

    /// The backend in memory, seen through `connection`.
    pub(super) fn seen_through(&self, connection: &Connection) -> Embedded {
        Embedded { broker: self.broker.clone(), connection: connection.clone() }
    }

    /// `told`, once a crash of the process does not undo what it tells of.
    pub(super) async fn told<T>(&self, told: Result<T>) -> Result<T> {
        self.shared.until_written(self.shared.ticket()).await?;
        told
    }

    /// `done`, once it is kept as the policy says.
    pub(super) async fn kept<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Ok(done) => {
                self.shared.until_kept(self.shared.ticket()).await?;
                Ok(done)
            }
            refused => self.told(refused).await,
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.committer.stop(Stop::Drained, "it was closed");
        self.leave();
    }
}

/// The error of everything in a folder whose disk failed.
pub(super) fn failed(path: &Path, reason: &str) -> Error {
    Error::new(
        ErrorKind::Failed,
        format!(
            "{}: {reason}: this process reads and writes nothing more there, and what it has not \
             answered may be stored or not: free or mend the disk, then start the process anew and \
             repeat with the same ids",
            path.display()
        ),
    )
}

/// Opens the database, waiting a little for an earlier user to let go of it.
fn open_tables(path: &Path) -> Result<Tables> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match Tables::open(path) {
            Err(error) if error.is_retryable() && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            opened => return opened,
        }
    }
}

fn registry() -> MutexGuard<'static, BTreeMap<PathBuf, Place>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    path: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|source| {
        let what = format!("opening {path} ended in a panic: put back a copy of the folder");
        Err(Error::with_source(ErrorKind::Corrupt, what, source))
    })
}
