//! One backend per folder and process: opened, shared, opened anew after a failure, closed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::OwnedMutexGuard;

use super::SyncPolicy;
use super::committer::Committer;
use super::queue::{Shared, Stop};
use super::recover::Recovery;
use super::tables::Tables;
use crate::embedded::clock::Clock;
use crate::embedded::connection::Connection;
use crate::embedded::requests::Responders;
use crate::embedded::{Broker, Embedded, Names};
use crate::error::{Error, ErrorKind, Result};

/// The backends of this process by folder. One that is being closed is still in it.
static OPEN: Mutex<BTreeMap<PathBuf, Weak<Backend>>> = Mutex::new(BTreeMap::new());

/// How long the end of an earlier user of the folder is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);
/// A backend that failed is opened anew at most this often.
const HEAL_INTERVAL: Duration = Duration::from_secs(1);

/// The backend of one folder.
#[derive(Debug)]
pub(super) struct Backend {
    path: PathBuf,
    policy: SyncPolicy,
    clock: Clock,
    current: RwLock<Arc<Life>>,
    /// Held while the folder is opened anew; when that was tried last.
    healing: Arc<tokio::sync::Mutex<Option<Instant>>>,
}

/// The backend from one opening of the folder to the next.
#[derive(Debug)]
pub(super) struct Life {
    /// How many there were before.
    pub(super) count: u64,
    pub(super) broker: Arc<Broker>,
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
        blocking(&name, move || Self::open_now(&path, policy, base)).await
    }

    fn open_now(path: &Path, policy: SyncPolicy, base: SystemTime) -> Result<Arc<Self>> {
        let made = std::fs::create_dir_all(path).and_then(|()| path.canonicalize());
        let path = made.map_err(|source| {
            let what = format!("{} is no folder that can be used: mind its rights", path.display());
            Error::with_source(ErrorKind::Unavailable, what, source)
        })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut open = registry();
            match open.get(&path).map(Weak::upgrade) {
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
                    let backend = Arc::new(Self::start(&path, policy, base)?);
                    open.insert(path, Arc::downgrade(&backend));
                    return Ok(backend);
                }
            }
        }
    }

    fn shared_with(self: Arc<Self>, policy: SyncPolicy) -> Result<Arc<Self>> {
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

    fn start(path: &Path, policy: SyncPolicy, base: SystemTime) -> Result<Self> {
        let clock = Clock::starting_at(base);
        let life = Life::begin(path, policy, &clock, None)?;
        Ok(Self {
            path: path.to_owned(),
            policy,
            clock,
            current: RwLock::new(Arc::new(life)),
            healing: Arc::default(),
        })
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The backend as it is now; perhaps one that has failed.
    pub(super) fn current(&self) -> Arc<Life> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The backend, opened anew where it had failed, with room for more.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<Arc<Life>> {
        let mut life = self.current();
        if life.shared.has_failed() {
            let failed = life.count;
            let mut tried = self.healing.clone().lock_owned().await;
            // Someone else may have been faster.
            if self.current().count == failed {
                if tried.is_some_and(|at| at.elapsed() < HEAL_INTERVAL) {
                    return Err(life.shared.failure());
                }
                *tried = Some(Instant::now());
                self.open_anew(tried).await?;
            }
            life = self.current();
        }
        life.shared.room().await?;
        Ok(life)
    }

    /// See [`super::Disk::crash`].
    pub(super) async fn crash(self: &Arc<Self>) -> Result<()> {
        let healing = self.healing.clone().lock_owned().await;
        self.open_anew(healing).await
    }

    /// Runs to its end even where the future is dropped: the guard goes along.
    async fn open_anew(self: &Arc<Self>, healing: OwnedMutexGuard<Option<Instant>>) -> Result<()> {
        let (backend, name) = (self.clone(), self.path.display().to_string());
        blocking(&name, move || {
            let _healing = healing;
            backend.open_anew_now()
        })
        .await
    }

    fn open_anew_now(&self) -> Result<()> {
        let before = self.current();
        before.committer.stop(Stop::Now, "it is being opened anew");
        let life = Life::begin(&self.path, self.policy, &self.clock, Some(&before))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(life);
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.current().committer.stop(Stop::Drained, "it was closed");
        let mut open = registry();
        if open.get(&self.path).is_some_and(|entry| std::ptr::eq(entry.as_ptr(), self)) {
            open.remove(&self.path);
        }
    }
}

impl Life {
    /// Opens the folder; what is in memory only is taken over from `before`.
    fn begin(
        path: &Path,
        policy: SyncPolicy,
        clock: &Clock,
        before: Option<&Self>,
    ) -> Result<Self> {
        let memory = before.map(Self::end).unwrap_or_default();
        let tables = open_tables(path)?;
        clock.go_on_from(tables.clock(path)?);
        let inventory = Recovery { path, tables: &tables }.inventory()?;
        let next = inventory.highest + 1;
        let shared = Arc::new(Shared::new(path.to_owned(), policy, clock.clone(), tables, next));
        let mut names = {
            let tables = shared.tables.read().unwrap_or_else(PoisonError::into_inner);
            match tables.as_ref() {
                Some(tables) => {
                    Recovery { path, tables }.names(&inventory, &shared, clock.now())?
                }
                None => Names::default(),
            }
        };
        if let Some(before) = before {
            take_over(&mut names, memory, &before.broker);
        }
        let broker = Arc::new(Broker {
            names: Mutex::new(names),
            responders: before
                .map_or_else(Arc::<Responders>::default, |before| before.broker.responders.clone()),
            storage: Some(Arc::new(shared.clone())),
        });
        let committer = Committer::start(shared.clone(), inventory.dropped)?;
        Ok(Self { count: before.map_or(0, |before| before.count + 1), broker, shared, committer })
    }

    /// Has everyone look for what comes after; returns what is in memory only.
    fn end(&self) -> Names {
        let names = self.broker.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = Names::default();
        for (name, cell) in names.streams.iter().filter(|(_, cell)| !cell.close()) {
            memory.streams.insert(name.clone(), cell.clone());
        }
        for (name, cell) in names.buckets.iter().filter(|(_, cell)| !cell.close()) {
            memory.buckets.insert(name.clone(), cell.clone());
        }
        memory
    }

    /// This life as a backend in memory, seen through `connection`.
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

/// Takes over what is in memory only, and the watches on what is not.
fn take_over(names: &mut Names, memory: Names, before: &Broker) {
    let before = before.names.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, cell) in &names.buckets {
        if let Some(before) = before.buckets.get(name) {
            cell.take_over(before);
        }
    }
    names.streams.extend(memory.streams);
    names.buckets.extend(memory.buckets);
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

fn registry() -> MutexGuard<'static, BTreeMap<PathBuf, Weak<Backend>>> {
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
