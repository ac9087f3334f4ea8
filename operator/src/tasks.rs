//! The prefill tasks that this process holds, under leases that are extended until each is settled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bus::Received;
use bus::{Backoff, Bus, Error, ErrorKind, FromMessage, HandlerError, Json, KeyValue, Outcome};
use lockgate_model::{Incarnation, Prefill, Subscription, Task, names as bus_names};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::names;

const CONSUMER: &str = "operator";
/// The tasks of an operator that was killed come again after this long.
pub const LEASE: Duration = Duration::from_secs(30);

/// What is held. Cheap to clone.
#[derive(Clone, Default)]
pub struct Held {
    tasks: Arc<Mutex<BTreeMap<String, Entry>>>,
    changed: Arc<Notify>,
}

struct Entry {
    of: Incarnation,
    order: u64,
    /// One for each delivery of its message: the one before may not know yet that its lease is over.
    waiting: Vec<oneshot::Sender<()>>,
}

/// A task that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldTask {
    /// Whose prefill.
    pub of: Incarnation,
    /// Its place in the work queue.
    pub order: u64,
}

impl Held {
    /// Every task that is held, by the name of its Job.
    pub fn tasks(&self) -> BTreeMap<String, HeldTask> {
        let mut tasks = self.lock();
        // Whoever has let go of it, its lease over, has it come again.
        tasks.retain(|_, entry| {
            entry.waiting.retain(|waiting| !waiting.is_closed());
            !entry.waiting.is_empty()
        });
        let held = |entry: &Entry| HeldTask { of: entry.of.clone(), order: entry.order };
        tasks.iter().map(|(name, entry)| (name.clone(), held(entry))).collect()
    }

    /// Resolves when a task has come since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Settles the message that asks for this Job: it is done and reported.
    pub fn settle(&self, job: &str) {
        for waiting in self.lock().remove(job).into_iter().flat_map(|entry| entry.waiting) {
            // One that is gone comes again, and is found done.
            if waiting.send(()).is_err() {
                tracing::debug!(job, "a task was let go of before it was done, it comes again");
            }
        }
    }

    /// Holds a task until it is settled. `None` where an older message asks for the same prefill and
    /// is held: that one is enough, it is not settled before the prefill is done.
    fn hold(&self, of: Incarnation, order: u64) -> Option<oneshot::Receiver<()>> {
        let (done, waiting) = oneshot::channel();
        let mut tasks = self.lock();
        let entry = Entry { of: of.clone(), order, waiting: Vec::new() };
        let entry = tasks.entry(names::prefill_job(&of)).or_insert(entry);
        if entry.order < order && entry.waiting.iter().any(|waiting| !waiting.is_closed()) {
            return None;
        }
        entry.order = order;
        entry.waiting.push(done);
        drop(tasks);
        self.changed.notify_one();
        Some(waiting)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes tasks and holds at most `at_most` of them, each until it is settled, until `shutdown`; then
/// the others are given back at once. Each is under a lease of this length, which is extended. A task whose prefill nobody waits for is done.
pub async fn take(
    bus: &Bus,
    held: Held,
    at_most: usize,
    lease: Duration,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let records = bus.kv(bus_names::SUBSCRIPTIONS_BUCKET).await?;
    let stop = shutdown.clone();
    bus.consumer(bus_names::TASKS_STREAM, CONSUMER)
        .filter(bus_names::KUBERNETES_TASK_SUBJECT)
        .ack_wait(lease)
        .max_in_flight(at_most)
        .retry(Backoff::exponential(Duration::from_millis(500)).cap(Duration::from_secs(10)))
        .run(shutdown, move |received: Received| {
            let (records, held, stop) = (records.clone(), held.clone(), stop.clone());
            async move { handle(received, &records, &held, &stop).await.map_err(HandlerError::from) }
        })
        .await
}

async fn handle(
    received: Received,
    records: &KeyValue,
    held: &Held,
    stop: &CancellationToken,
) -> Result<Outcome, Error> {
    let order = received.message.sequence;
    let of = match Json::<Task>::from_message(received) {
        Ok(Json(task)) => task.of,
        // It would be none the next time either; what is pending is requested again.
        Err(malformed) => return Ok(Outcome::Reject(malformed.to_string())),
    };
    if !is_pending(records, &of).await? {
        return Ok(Outcome::Ack);
    }
    let Some(settled) = held.hold(of, order) else { return Ok(Outcome::Ack) };
    tokio::select! { biased;
        done = settled => Ok(match done {
            Ok(()) => Outcome::Ack,
            Err(_) => Outcome::Retry(Duration::ZERO),
        }),
        () = stop.cancelled() => Ok(Outcome::Retry(Duration::ZERO)),
    }
}

/// Whether the record still waits for this very prefill. One that cannot be read is none to wait for:
/// when it is mended the prefill is requested again.
async fn is_pending(records: &KeyValue, of: &Incarnation) -> Result<bool, Error> {
    let Some(entry) = records.get(of.name.as_str()).await? else { return Ok(false) };
    match serde_json::from_slice::<Subscription>(&entry.value) {
        Ok(kept) => Ok(kept.incarnation == *of && kept.prefill == Prefill::Pending),
        Err(error) => {
            let kind = ErrorKind::Corrupt;
            tracing::error!(subscription = %of.name, %error, ?kind, "the record cannot be read");
            Ok(false)
        }
    }
}
