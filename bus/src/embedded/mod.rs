//! The backend inside this process: a shared log with cursors, in memory.
//!
//! Every operation takes effect in one synchronous step under one short lock, so that a dropped
//! future leaves it done or not done. Nothing is spawned: leases, delays and ages are looked at
//! when someone asks, on tokio's clock, so that tests with paused time need not wait.
//!
//! With the feature `disk` the same is kept in a folder, `embedded:///path`: every change is noted
//! in a journal, which for a backend in memory nobody reads.
//!
//! A message whose attempts are used up is not delivered again. On a work queue it stays held,
//! because it was never settled.

mod bucket;
mod clock;
mod connection;
mod consumer;
mod count;
mod cursor;
mod delayed;
#[cfg(feature = "disk")]
pub mod disk;
pub(crate) mod driver;
mod entered;
mod ids;
mod intake;
#[cfg_attr(not(feature = "disk"), allow(dead_code, reason = "nobody keeps what is noted"))]
mod journal;
mod log;
mod position;
mod recent;
mod requests;
mod slots;
mod stream;
mod unit;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bucket::BucketCell;
use clock::Clock;
use connection::Connection;
use journal::{Journal, Storage};
use requests::Responders;
use stream::StreamCell;

use crate::config;
use crate::name::{BucketName, StreamName};

/// A connection to an embedded backend: `embedded:`.
///
/// The backend lives as long as one of its connections or something opened through one.
///
/// ```
/// use std::sync::Arc;
/// use std::time::SystemTime;
///
/// use bus::embedded::Embedded;
/// use bus::{Bus, Message, StreamConfig};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// // For a test: two services on one backend, and a wall clock that starts where the test says.
/// let backend = Embedded::starting_at(SystemTime::UNIX_EPOCH);
/// let till = Bus::with_driver(Arc::new(backend.another()));
/// let billing = Bus::with_driver(Arc::new(backend));
///
/// let orders = till.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// till.close().await?;
/// let first = billing.stream("orders").await?.get(1).await?.expect("kept by the other connection");
/// assert!(first.timestamp.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() < 60);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Embedded {
    broker: Arc<Broker>,
    connection: Connection,
}

/// What the connections share.
#[derive(Debug, Default)]
struct Broker {
    /// Locked before a stream's or bucket's own lock, never after.
    names: Mutex<Names>,
    responders: Arc<Responders>,
    /// What keeps streams and buckets that are declared to be on disk.
    storage: Option<Arc<dyn Storage>>,
}

impl Broker {
    /// Where a new stream or bucket notes its changes.
    fn journal(&self, kept: config::Storage) -> Journal {
        match (&self.storage, kept) {
            (Some(storage), config::Storage::File) => Journal::new(storage.record()),
            _ => Journal::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Names {
    streams: BTreeMap<StreamName, Arc<StreamCell>>,
    buckets: BTreeMap<BucketName, Arc<BucketCell>>,
    /// When the newest stream was made.
    newest: Option<SystemTime>,
}

impl Names {
    /// When a stream is made that is made now: no two are made at the same time, so that one is
    /// told from its successor even where the clock stands still.
    fn moment(&mut self, now: SystemTime) -> SystemTime {
        let after = self.newest.and_then(|newest| newest.checked_add(Duration::from_nanos(1)));
        let moment = after.map_or(now, |after| after.max(now));
        self.newest = Some(moment);
        moment
    }
}

impl Embedded {
    /// A new, empty backend whose wall clock starts at the time of day.
    pub fn new() -> Self {
        Self::starting_at(SystemTime::now())
    }

    /// A new, empty backend whose wall clock starts at `time` and goes on as tokio's clock does:
    /// with paused time every timestamp is the same on every run.
    pub fn starting_at(time: SystemTime) -> Self {
        let connection = Connection::new(Clock::starting_at(time));
        Self { broker: Arc::default(), connection }
    }

    /// A second connection to the same backend; closing one leaves the other open.
    pub fn another(&self) -> Self {
        Self { broker: self.broker.clone(), connection: self.connection.another() }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.broker.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Embedded {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
