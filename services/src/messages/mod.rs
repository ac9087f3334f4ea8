//! The messages role: serves a subscription its prefill and then its live events, as a stream
//! whose position the client keeps or as a queue whose position the server keeps.

mod api;
mod directory;
mod progress;
mod queue;
mod socket;
mod stream;
mod tasks;
mod tokens;
mod topics;
mod watched;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use api::{router, topics_router};
use directory::Directory;
use queue::QueueMode;
use stream::Feeds;
pub use stream::RingSize;
use tasks::Tasks;
use tokens::tickets::Tickets;
use tokens::{position, tickets, token};
use topics::Realms;

use crate::limits::MAX_STREAMS;
use crate::store::Store;

/// How the role serves.
#[derive(Debug, Clone, Copy)]
pub struct MessagesOptions {
    /// A stream is ended after about this long, so that connections spread over the replicas and
    /// no proxy ends them first; the client connects again and resumes.
    pub max_stream_age: Duration,
    /// How much of each realm's log is kept in memory for all streams.
    pub ring: RingSize,
}

impl Default for MessagesOptions {
    /// One hour; 4096 events or 8 MiB a realm.
    fn default() -> Self {
        Self { max_stream_age: Duration::from_secs(3600), ring: RingSize::default() }
    }
}

/// The messages role of one process. Cheap to clone; dropping the last clone aborts its tasks, as
/// a crash would.
#[derive(Clone)]
pub struct Messages(Arc<Inner>);

struct Inner {
    store: Store,
    options: MessagesOptions,
    directory: Directory,
    feeds: Feeds,
    /// Shared, because it is large and each open connection holds it.
    queue: Arc<QueueMode>,
    tickets: Tickets,
    realms: Realms,
    /// One permit for each open stream and WebSocket.
    streams: Arc<Semaphore>,
    tasks: Tasks,
    shutdown: CancellationToken,
}

impl Messages {
    /// Starts the role. When `shutdown` is cancelled, streams end and pulls are answered with what
    /// there is; [`Messages::join`] waits for the rest.
    pub async fn start(
        store: Store,
        options: MessagesOptions,
        shutdown: CancellationToken,
    ) -> Result<Self, bus::Error> {
        let tasks = Tasks::default();
        let directory = Directory::new(store.clone());
        tasks.spawner().spawn(directory.clone().run(shutdown.clone()));
        let feeds = Feeds::new(store.clone(), options.ring, tasks.spawner(), shutdown.clone());
        let queue = Arc::new(QueueMode::new(feeds.clone(), tasks.spawner(), shutdown.clone())?);
        let tickets = Tickets::new(store.clone());
        let realms = Realms::new(store.clone());
        tasks.spawner().spawn(realms.clone().run(shutdown.clone()));
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        let inner = Inner {
            store,
            options,
            directory,
            feeds,
            queue,
            tickets,
            realms,
            streams,
            tasks,
            shutdown,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Waits, after shutdown, until every session has given its deliveries and its lease back.
    pub async fn join(&self) {
        self.0.tasks.join().await;
    }
}
