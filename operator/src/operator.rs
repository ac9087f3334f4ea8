//! The loops: one that takes tasks, one that looks at their Jobs, one for each further queue.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Error, ErrorKind};
use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::{Config, PrefillJobs};
use crate::health::Health;
use crate::metrics::{Metrics, of};
use crate::names::PREFILL;
use crate::prefills::{LookError, Prefills, pause_after};
use crate::queues::Queue;
use crate::tasks::{self, Held};

/// Every prefill Job is looked at at least this often, whatever the watch says or misses.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// A backlog is asked for this often: it has no watch.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// The least time between two looks, so that many changes at once are one look.
const LOOK_APART: Duration = Duration::from_millis(200);
/// How often is looked whether what Lockgate keeps on the bus is there yet.
const NOT_YET: Duration = Duration::from_secs(2);

/// The operator at work.
pub struct Operator {
    /// Its namespace.
    pub cluster: Cluster,
    /// The bus that Lockgate is on.
    pub bus: Bus,
    /// What it launches.
    pub config: Config,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// How its looks went.
    pub health: Health,
    /// How long the lease on a task is, which is extended: the tasks of one that was killed come
    /// again after it.
    pub lease: Duration,
}

impl Operator {
    /// For this configuration; nothing is asked or made yet.
    pub fn new(cluster: Cluster, bus: Bus, config: Config) -> Self {
        let prefill = config.prefill.is_some().then_some(PREFILL);
        let queues = config.queues.iter().map(|queue| queue.name.as_str());
        let health = Health::of(prefill.into_iter().chain(queues));
        Self { cluster, bus, config, metrics: Arc::default(), health, lease: tasks::LEASE }
    }

    /// Launches Jobs until `shutdown`, then gives every task back that it holds: its Job goes on, and
    /// the next operator concludes it. An error means that it cannot go on at all.
    ///
    /// It may be killed at any point. What it did is in the cluster, what it was to do is in the
    /// work queue, and the next one goes on from there. Two at once make no Job twice, and may have
    /// more at work than one alone would.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { cluster, bus, config, metrics, health, lease } = self;
        let mut loops: JoinSet<Result<(), Error>> = JoinSet::new();
        let stop = shutdown.child_token();
        if let Some(settings) = config.prefill {
            let held = Held::default();
            loops.spawn(take(bus.clone(), held.clone(), settings.waiting, lease, stop.clone()));
            let watched = Watched {
                changes: cluster.changes().boxed(),
                health: health.clone(),
                metrics: metrics.clone(),
                stop: stop.clone(),
            };
            let (cluster, bus, metrics) = (cluster.clone(), bus.clone(), metrics.clone());
            loops.spawn(run_prefills(cluster, bus, settings, held, metrics, watched));
        }
        for settings in config.queues {
            let queue = Queue::new(cluster.clone(), bus.clone(), settings, metrics.clone());
            loops.spawn(run_queue(queue, health.clone(), metrics.clone(), stop.clone()));
        }
        loops.spawn({
            let (bus, stop) = (bus.clone(), stop.clone());
            async move {
                tokio::select! { biased;
                    () = stop.cancelled() => Ok(()),
                    failed = bus.failed() => Err(failed),
                }
            }
        });
        let mut ended = Ok(());
        while let Some(joined) = loops.join_next().await {
            let how = joined.unwrap_or_else(|panicked| {
                Err(Error::new(ErrorKind::Backend, format!("a loop ended early: {panicked}")))
            });
            stop.cancel();
            ended = ended.and(how);
        }
        ended
    }
}

/// Takes tasks as soon as there is somewhere to take them from.
async fn take(
    bus: Bus,
    held: Held,
    at_most: usize,
    lease: Duration,
    stop: CancellationToken,
) -> Result<(), Error> {
    loop {
        match tasks::take(&bus, held.clone(), at_most, lease, stop.clone()).await {
            Err(error) if error.is_not_found() || error.is_retryable() => {
                tracing::warn!(%error, "no tasks yet: is Lockgate running on this bus?");
            }
            ended => return ended,
        }
        if !pause(NOT_YET, &stop).await {
            return Ok(());
        }
    }
}

/// What makes a look due, and who is told how it went.
struct Watched {
    changes: BoxStream<'static, ()>,
    health: Health,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

async fn run_prefills(
    cluster: Cluster,
    bus: Bus,
    settings: PrefillJobs,
    held: Held,
    metrics: Arc<Metrics>,
    mut watched: Watched,
) -> Result<(), Error> {
    let prefills = loop {
        let (cluster, held) = (cluster.clone(), held.clone());
        match Prefills::new(cluster, &bus, held, settings.clone(), metrics.clone()).await {
            Ok(prefills) => break prefills,
            Err(error) if error.is_not_found() || error.is_retryable() => {
                watched.health.looked(PREFILL, Err(error.to_string()));
            }
            Err(error) => return Err(error),
        }
        if !pause(NOT_YET, &watched.stop).await {
            return Ok(());
        }
    };
    let mut failures = 0;
    while !watched.stop.is_cancelled() {
        let looked = until(&watched.stop, prefills.look()).await;
        let Some(looked) = looked else { return Ok(()) };
        let acted = matches!(looked, Ok(true));
        let Watched { health, metrics, .. } = &watched;
        let next = note(PREFILL, looked.map(drop), &mut failures, health, metrics);
        let due = Instant::now() + next.unwrap_or(if acted { LOOK_APART } else { LOOK_EVERY });
        tokio::select! { biased;
            () = watched.stop.cancelled() => {}
            () = sleep_until(due) => {}
            // After a failure the pause is kept.
            () = held.changed(), if next.is_none() => sleep(LOOK_APART).await,
            _ = watched.changes.next(), if next.is_none() => {
                sleep(LOOK_APART).await;
                // Many changes are one reason to look.
                while watched.changes.next().now_or_never().is_some() {}
            }
        }
    }
    Ok(())
}

async fn run_queue(
    queue: Queue,
    health: Health,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut failures = 0;
    loop {
        let Some(looked) = until(&stop, queue.look()).await else { return Ok(()) };
        let pausing = note(queue.name(), looked.map(drop), &mut failures, &health, &metrics);
        if !pause(pausing.unwrap_or(ASK_EVERY), &stop).await {
            return Ok(());
        }
    }
}

/// Tells how a look went. After one that failed, how long to wait.
fn note(
    queue: &str,
    looked: Result<(), LookError>,
    failures: &mut u32,
    health: &Health,
    metrics: &Metrics,
) -> Option<Duration> {
    match looked {
        Ok(()) => {
            *failures = 0;
            health.looked(queue, Ok(()));
            None
        }
        Err(error) => {
            *failures = failures.saturating_add(1);
            tracing::warn!(queue, %error, "nothing more is done until a look succeeds");
            metrics.failed_looks.get_or_create(&of(queue)).inc();
            health.looked(queue, Err(error.to_string()));
            Some(pause_after(*failures))
        }
    }
}

/// `None` when it was told to stop first: what it was at is cut off, and safe to be.
async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! { biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

/// False when it was told to stop.
async fn pause(time: Duration, stop: &CancellationToken) -> bool {
    until(stop, sleep(time)).await.is_some()
}
