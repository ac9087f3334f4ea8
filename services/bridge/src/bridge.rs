//! All routes of a process: each at work until it is told to stop, begun again when something was
//! wrong, and told of.

use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, KeyValue, Stream};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Bridges, Direction, Route};
use crate::failure::Failure;
use crate::logs::Logs;
use crate::status::{self, Figures, Gauge};
use crate::{inbound, kafka, names, outbound};

/// What is parked is counted once in so many tellings: that asks the log.
const COUNTED: u32 = 15;
/// Between two attempts of a route.
const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);

/// What the routes of a process share.
pub struct Bridge {
    pub(crate) bridges: Bridges,
    pub(crate) logs: Arc<dyn Logs>,
    /// By which this process is known among others.
    pub(crate) instance: String,
    cluster: OnceCell<String>,
    /// By the order of the routes.
    gauges: Vec<Arc<Gauge>>,
}

impl Bridge {
    /// The routes of a file on these logs. `instance` tells this process from others: 1 to 64
    /// characters of `A-Z a-z 0-9 _ -`. Nothing is connected to before [`run`].
    pub fn new(bridges: Bridges, logs: Arc<dyn Logs>, instance: impl Into<String>) -> Self {
        let gauges = bridges.routes.iter().map(|route| Arc::new(Gauge::new(route))).collect();
        Self { bridges, logs, instance: instance.into(), cluster: OnceCell::new(), gauges }
    }

    /// What the routes of this process count, to be read beside [`run`].
    pub fn figures(&self) -> Figures {
        Figures::new(self.gauges.clone())
    }

    pub(crate) fn bus(&self) -> &Bus {
        self.logs.bus()
    }

    pub(crate) async fn cluster_id(&self) -> Result<String, Failure> {
        let asked = self.cluster.get_or_try_init(|| kafka::cluster_id(&self.bridges.kafka));
        asked.await.cloned()
    }
}

/// Carries all routes until `stop` is cancelled, and returns when what was on its way is stored or
/// given up: at the latest after some ten seconds, which is how long a batch may take.
///
/// Routes are independent of each other. One that fails says why and begins again, from its
/// position, for ever: nothing that a broker or a log does ends a bridge. Several processes may run
/// the same file: partitions are shared out, a route out of the log is carried by one of them.
pub async fn run(bridge: Bridge, stop: CancellationToken) -> Result<(), Failure> {
    let bridge = Arc::new(bridge);
    let mut tasks = JoinSet::new();
    for (route, gauge) in bridge.bridges.routes.iter().zip(&bridge.gauges) {
        let (of, to, told, until) = (bridge.clone(), route.clone(), gauge.clone(), stop.clone());
        tasks.spawn(async move { carry(&of, &to, &told, &until).await });
        let (of, to, told, until) = (bridge.clone(), route.clone(), gauge.clone(), stop.clone());
        tasks.spawn(async move { tell(&of, &to, &told, &until).await });
    }
    let mut panicked = None;
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            stop.cancel();
            panicked.get_or_insert(Failure::Again(format!("a route of the bridge: {error}")));
        }
    }
    panicked.map_or(Ok(()), Err)
}

/// Attempt after attempt.
async fn carry(bridge: &Bridge, route: &Route, gauge: &Arc<Gauge>, stop: &CancellationToken) {
    let mut pause = FIRST;
    while !stop.is_cancelled() {
        let begun = tokio::time::Instant::now();
        let attempt = async {
            match route.direction {
                Direction::In => inbound::run(bridge, route, gauge, stop).await,
                Direction::Out => outbound::run(bridge, route, gauge, stop).await,
            }
        };
        let Err(failure) = attempt.await else { continue };
        gauge.waiting(failure.to_string());
        pause = if begun.elapsed() > LONGEST { FIRST } else { LONGEST.min(2 * pause) };
        tokio::select! { biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Tells how a route is, again and again.
async fn tell(bridge: &Bridge, route: &Route, gauge: &Gauge, stop: &CancellationToken) {
    let key = status::key(&route.name, &bridge.instance);
    let mut bucket: Option<KeyValue> = None;
    for round in 0_u32.. {
        tokio::select! { biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(status::EVERY) => {}
        }
        let told = async {
            let to = match &bucket {
                Some(bucket) => bucket.clone(),
                None => bucket.insert(status::bucket(bridge.logs.as_ref()).await?).clone(),
            };
            if round % COUNTED == 0 {
                gauge.parked(status::parked(bridge.bus(), route).await?);
            }
            to.put_json(&key, &gauge.told()).await
        };
        if let Err(error) = told.await {
            tracing::debug!(route = %route.name, %error, "the status was not told");
        }
    }
    if let Some(bucket) = bucket {
        // It vanishes by itself within a minute.
        let _ = tokio::time::timeout(Duration::from_secs(1), bucket.delete(&key, None)).await;
    }
}

/// The log of a route, if it can hold what a bridge keeps there.
pub(crate) async fn log_of(bridge: &Bridge, route: &Route) -> Result<Stream, Failure> {
    let log = bridge.logs.log(&route.realm).await?;
    let reserved = names::reserved_filter(&route.realm)?;
    let info = log.info().await?;
    if info.config.subjects.iter().any(|captured| captured.covers(&reserved)) {
        return Ok(log);
    }
    Err(Failure::Again(format!(
        "log {} does not capture {reserved}, where a bridge keeps its positions: add it with \
         lockgate topology show and apply",
        log.name()
    )))
}

/// Which log of its name a log is: when it was made, in nanoseconds since 1970.
pub(crate) async fn life(log: &Stream) -> Result<u64, bus::Error> {
    let created = log.info().await?.created;
    let since = created.and_then(|created| created.duration_since(std::time::UNIX_EPOCH).ok());
    Ok(since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}
