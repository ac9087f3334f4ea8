//! The embedded backend on disk: `embedded:///path`.
//!
//! It is the backend in memory with one difference: every change is also written to a database in
//! the folder, by one thread that takes all that waits and writes it as one atomic batch. No
//! answer leaves the backend before what it tells of has reached the operating system, so that a
//! crash of the process at any point, `kill -9` too, undoes nothing that anyone was told: receipts,
//! deliveries, attempts, settlements, values and revisions stand, and no sequence or revision that
//! was seen is given to anything else. Leases and delays end by the wall clock, as they would have.
//! A wall clock that was set back makes none of them longer: the backend's time goes on from the
//! last that is on disk, so that times in a log never run backwards.
//!
//! What survives the loss of power, or a crash of the whole machine, is the [`SyncPolicy`]:
//!
//! | | `embedded:///path` or `?sync=each` | `embedded:///path?sync=interval` |
//! |---|---|---|
//! | a receipt, a confirmed settlement, a KV write, a declaration, a unit | yes: answered after an `fdatasync`, which all that came together share | after 50 ms |
//! | that a delivery was handed out, and its attempt | with the next of the above | after 50 ms |
//! | a plain ack | with the next of the above | after 50 ms |
//!
//! A plain ack is written a moment after it returns, and so may be lost to a crash of the process
//! too: then the message comes again, as [`crate::Delivery::ack`] says. Requests and their answers
//! are in memory, and so are streams and buckets with [`crate::Storage::Memory`]: they are gone
//! with the process.
//!
//! In memory are the subjects, times and sizes of all messages (about 80 bytes each), the newest
//! MiB of each stream, and all values of buckets. Other bodies are read from disk when they are
//! asked for. What is settled, dropped, purged or deleted is removed from disk too, and its space
//! is reclaimed by compaction as more is written.
//!
//! One process has a folder open at a time; another one is told so. Inside a process every
//! [`crate::Bus::connect`] to the same folder shares one backend, which ends when the last of its
//! handles is dropped: that drop waits until everything is on disk.
//!
//! When a write or a sync fails, because the disk is full or broken, the folder is closed for the
//! rest of the process: after a failed `fdatasync` the operating system may show what never reached
//! the disk, so that opening it anew would promise what is not there. Every call from then on fails
//! with [`crate::ErrorKind::Failed`], which says so, those that wait too, and opening the folder
//! again does. [`crate::Bus::failed`] tells the program, which ends itself: what was not answered is
//! repeated against the next process, with the same ids. On opening everything that is there is
//! synced before anything is told of it.

mod backend;
mod bytes;
mod committer;
mod declared;
mod driver;
mod handles;
mod keys;
mod location;
mod queue;
mod record;
mod recover;
mod rows;
mod tables;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use backend::Backend;

use super::connection::Connection;
use crate::error::Result;

/// When what is written goes from the operating system to the disk.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::ErrorKind;
/// use bus::embedded::disk::{Disk, SyncPolicy};
///
/// let folder = tempfile::tempdir().unwrap();
/// let _open = Disk::open(folder.path(), SyncPolicy::Interval).await?;
/// // One folder has one policy at a time.
/// let other = Disk::open(folder.path(), SyncPolicy::Each).await;
/// assert_eq!(other.err().map(|error| error.kind()), Some(ErrorKind::Mismatch));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Before each answer that promises durability; those that come together share one sync.
    #[default]
    Each,
    /// At most 50 ms after it was written, and after the answer.
    Interval,
}

/// A connection to an embedded backend on disk.
///
/// ```
/// use std::sync::Arc;
///
/// use bus::embedded::disk::{Disk, SyncPolicy};
/// use bus::{Bus, Message, StreamConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// let folder = tempfile::tempdir().unwrap();
/// let disk = Disk::open(folder.path(), SyncPolicy::Each).await?;
/// let bus = Bus::with_driver(Arc::new(disk.another()));
/// let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
///
/// disk.crash().await?; // as if the process had died
/// let again = Bus::with_driver(Arc::new(Disk::open(folder.path(), SyncPolicy::Each).await?));
/// assert!(again.stream("orders").await?.get(1).await?.is_some(), "what has a receipt is on disk");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Disk {
    backend: Arc<Backend>,
    connection: Connection,
}

impl Disk {
    /// Opens the backend in the folder `path`, which is made where it is missing, or shares the
    /// one that this process has open there.
    ///
    /// [`crate::ErrorKind::Unavailable`] when another process has it open or the folder cannot be
    /// used, [`crate::ErrorKind::Mismatch`] when this process has it open with another policy, and
    /// [`crate::ErrorKind::Corrupt`] when what is there cannot be read.
    pub async fn open(path: impl Into<PathBuf>, policy: SyncPolicy) -> Result<Self> {
        Self::open_at(path, policy, SystemTime::now()).await
    }

    /// The same on a machine whose wall clock shows `time`, from where it goes on as tokio's clock
    /// does. For tests of what a clock that was set back does.
    pub async fn open_at(
        path: impl Into<PathBuf>,
        policy: SyncPolicy,
        time: SystemTime,
    ) -> Result<Self> {
        let backend = Backend::open(path.into(), policy, time).await?;
        let connection = Connection::new(backend.clock());
        Ok(Self { backend, connection })
    }

    /// The same by URL: `embedded:///path`, with `?sync=each` or `?sync=interval`.
    pub async fn connect(url: &str) -> Result<Self> {
        let location::Location { path, policy } = location::Location::parse(url)?;
        Self::open(path, policy).await
    }

    /// A second connection to the same backend; closing one leaves the other open.
    pub fn another(&self) -> Self {
        Self { backend: self.backend.clone(), connection: self.connection.another() }
    }

    /// Closes the database as a crash of the process would, forgetting what is not written: for
    /// tests of recovery. When it returns the folder can be opened again; everything that was opened
    /// through this backend, by others in this process too, fails with
    /// [`crate::ErrorKind::Closed`] from then on.
    pub async fn crash(&self) -> Result<()> {
        self.backend.crash().await
    }
}
