//! What routes say of themselves: each process writes it to a bucket, from which it vanishes with
//! the process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::{BucketConfig, BucketName, Bus, KeyValue};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::config::{Bridges, Route};
use crate::failure::Failure;
use crate::logs::Logs;
use crate::names;

/// How often a route tells.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// What was not told again for this long is gone.
const KEPT: Duration = Duration::from_secs(60);
/// A process that tells nothing for this long has died, or its clock is elsewhere.
const SILENT: Duration = Duration::from_secs(15);
/// Rates are of this long, at least.
const WINDOW: Duration = Duration::from_secs(10);
/// Notes that are kept of a route.
const NOTES: usize = 8;

/// How a route is, as one process tells it, or several together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The route's name.
    pub route: String,
    /// Where it leads, as text.
    pub path: String,
    /// What is promised.
    pub guarantee: String,
    /// `running`, `waiting`, `starting`, `standby` while another process carries it, `silent` where
    /// the last that told anything has not for a while, or `none` where no process tells.
    pub state: String,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Carried since the processes began.
    pub carried: u64,
    /// Carried per second lately.
    pub rate: f64,
    /// Records or events behind the end of the source; `None` where it is not known.
    pub lag: Option<u64>,
    /// Parked and not redriven.
    pub parked: u64,
    /// Left out because they have been at their target before.
    pub looped: u64,
    /// Processes that tell.
    pub processes: u32,
    /// Partitions that are read; one with the number -1 is the log.
    #[serde(default)]
    pub partitions: Vec<PartitionStatus>,
    /// What happened that somebody should know: a topic that was made anew, records that were gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// When it was told, milliseconds since 1970.
    pub updated_ms: u64,
}

/// How far a route is in a part of its source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The partition; -1 for the log.
    pub partition: i32,
    /// The next offset or sequence.
    pub next: i64,
    /// How many are behind it.
    pub lag: Option<u64>,
}

/// What a route at work counts.
pub(crate) struct Gauge {
    state: Mutex<State>,
}

struct State {
    status: RouteStatus,
    partitions: BTreeMap<i32, PartitionStatus>,
    since: Instant,
    then: u64,
}

impl Gauge {
    pub(crate) fn new(route: &Route) -> Self {
        let status = RouteStatus {
            route: route.name.clone(),
            path: route.to_string(),
            guarantee: route.guarantee().to_owned(),
            state: "starting".to_owned(),
            processes: 1,
            ..RouteStatus::default()
        };
        let (since, then) = (Instant::now(), 0);
        Self { state: Mutex::new(State { status, partitions: BTreeMap::new(), since, then }) }
    }

    /// Something was carried, and the source's part stands at `next`.
    pub(crate) fn carried(&self, partition: i32, next: i64, carried: u64, looped: u64) {
        let mut state = self.lock();
        state.status.carried += carried;
        state.status.looped += looped;
        state.running();
        state.partitions.entry(partition).or_default().next = next;
    }

    /// A part of the source is read, or not any more.
    pub(crate) fn reads(&self, partition: i32, next: Option<i64>) {
        let mut state = self.lock();
        match next {
            Some(next) => {
                state.running();
                let status = PartitionStatus { partition, next, lag: None };
                state.partitions.insert(partition, status);
            }
            None => drop(state.partitions.remove(&partition)),
        }
    }

    pub(crate) fn lag(&self, partition: i32, end: i64) {
        let mut state = self.lock();
        if let Some(part) = state.partitions.get_mut(&partition) {
            part.lag = u64::try_from(end.saturating_sub(part.next)).ok().or(Some(0));
        }
    }

    pub(crate) fn waiting(&self, why: impl Into<String>) {
        let why = why.into();
        let mut state = self.lock();
        if state.status.why.as_ref() != Some(&why) {
            tracing::warn!(route = %state.status.route, "waiting: {why}");
        }
        state.status.state = "waiting".to_owned();
        state.status.why = Some(why);
    }

    /// Another process carries it.
    pub(crate) fn standing_by(&self) {
        let mut state = self.lock();
        (state.status.state, state.status.why) = ("standby".to_owned(), None);
    }

    pub(crate) fn running(&self) {
        self.lock().running();
    }

    /// So many are parked and not redriven.
    pub(crate) fn parked(&self, parked: u64) {
        self.lock().status.parked = parked;
    }

    /// Ends a wait for Kafka.
    pub(crate) fn kafka_is_there(&self) {
        let mut state = self.lock();
        if state.status.why.as_ref().is_some_and(|why| why.starts_with("kafka: ")) {
            state.running();
        }
    }

    pub(crate) fn note(&self, note: impl Into<String>) {
        let (note, mut state) = (note.into(), self.lock());
        tracing::warn!(route = %state.status.route, "{note}");
        state.status.notes.push(note);
        if state.status.notes.len() > NOTES {
            state.status.notes.remove(0);
        }
    }

    /// As it is now.
    pub(crate) fn told(&self) -> RouteStatus {
        let mut state = self.lock();
        let elapsed = state.since.elapsed();
        let carried = state.status.carried;
        if elapsed >= WINDOW {
            state.status.rate = (carried - state.then) as f64 / elapsed.as_secs_f64();
            (state.since, state.then) = (Instant::now(), carried);
        }
        let parts: Vec<_> = state
            .partitions
            .iter()
            .map(|(partition, part)| PartitionStatus { partition: *partition, ..*part })
            .collect();
        RouteStatus {
            lag: sum(parts.iter().map(|part| part.lag)),
            partitions: parts,
            updated_ms: now_ms(),
            ..state.status.clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the routes of one process count. Cheap to clone.
#[derive(Clone)]
pub struct Figures(Arc<[Arc<Gauge>]>);

impl Figures {
    pub(crate) fn new(gauges: Vec<Arc<Gauge>>) -> Self {
        Self(gauges.into())
    }

    /// How each route is here and now, by the order of the file; never waits. What is parked was
    /// counted within the last minute; everything else counts from the start of this process.
    pub fn now(&self) -> Vec<RouteStatus> {
        self.0.iter().map(|gauge| gauge.told()).collect()
    }
}

impl State {
    fn running(&mut self) {
        if self.status.state != "running" {
            self.status.state = "running".to_owned();
            self.status.why = None;
        }
    }
}

fn sum(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    parts.fold(None, |sum, lag| match (sum, lag) {
        (sum, None) => sum,
        (sum, Some(lag)) => Some(sum.unwrap_or(0) + lag),
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The bucket of leases and statuses, made where it is missing.
pub(crate) async fn bucket(logs: &dyn Logs) -> Result<KeyValue, bus::Error> {
    let named = BucketConfig::new(BucketName::new(names::BUCKET)?);
    let config = BucketConfig { max_age: Some(KEPT), replicas: logs.replicas(), ..named };
    Ok(logs.bus().create_kv_if_missing(&config).await?.handle)
}

/// The key under which a process tells of a route.
pub(crate) fn key(route: &str, instance: &str) -> String {
    format!("status.{route}.{instance}")
}

/// How each route of a file is, whoever carries it: what its processes told within the last minute,
/// together, and what is parked in the log now.
pub async fn statuses(logs: &dyn Logs, bridges: &Bridges) -> Result<Vec<RouteStatus>, Failure> {
    let bucket = match logs.bus().kv_for(names::BUCKET, &[]).await {
        Ok(bucket) => Some(bucket),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::with_capacity(bridges.routes.len());
    for route in &bridges.routes {
        let told = match &bucket {
            Some(bucket) => bucket.entries(&format!("status.{}.*", route.name)).await?,
            None => Vec::new(),
        };
        let told = told.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok());
        let mut status = together(route, told, now_ms());
        status.parked = parked(logs.bus(), route).await?;
        all.push(status);
    }
    Ok(all)
}

/// How many a route has parked; none where there is no log yet.
pub(crate) async fn parked(bus: &Bus, route: &Route) -> Result<u64, bus::Error> {
    let log = match bus.stream(names::log_stream(&route.realm)).await {
        Err(error) if error.is_not_found() => return Ok(0),
        log => log?,
    };
    Ok(log.subjects(&names::parked_filter(&route.realm, &route.name)?).await?.len() as u64)
}

/// Of several processes, how the route is.
fn rank(state: &str) -> u8 {
    match state {
        "running" => 5,
        "waiting" => 4,
        "starting" => 3,
        "standby" => 2,
        "silent" => 1,
        _ => 0,
    }
}

/// What is known of a process that tells nothing any more: its counts, and not how it is.
fn heard(one: RouteStatus, now_ms: u64) -> RouteStatus {
    let since = Duration::from_millis(now_ms.saturating_sub(one.updated_ms));
    if since <= SILENT {
        return one;
    }
    RouteStatus {
        state: "silent".to_owned(),
        why: Some(format!("no word of its process for {} s", since.as_secs())),
        lag: None,
        rate: 0.0,
        processes: 0,
        partitions: Vec::new(),
        ..one
    }
}

fn together(route: &Route, told: impl Iterator<Item = RouteStatus>, now_ms: u64) -> RouteStatus {
    let mut all = RouteStatus {
        route: route.name.clone(),
        path: route.to_string(),
        guarantee: route.guarantee().to_owned(),
        state: "none".to_owned(),
        ..RouteStatus::default()
    };
    for one in told.map(|one| heard(one, now_ms)) {
        if rank(&one.state) > rank(&all.state) {
            all.state = one.state;
            all.why = one.why;
        }
        all.carried += one.carried;
        all.rate += one.rate;
        all.looped += one.looped;
        all.processes += one.processes;
        all.lag = sum([all.lag, one.lag].into_iter());
        all.partitions.extend(one.partitions);
        all.notes.extend(one.notes);
        all.updated_ms = all.updated_ms.max(one.updated_ms);
    }
    all.partitions.sort_by_key(|part| part.partition);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Bridges;

    #[test]
    fn a_process_that_died_is_not_said_to_be_running() {
        let file = "[kafka]\nbrokers = \"a:1\"\n[[route]]\nname = \"r\"\nfrom = \"kafka:a\"\nto = \"s.t\"\n";
        let route = Bridges::parse(file).unwrap().routes.remove(0);
        let gauge = Gauge::new(&route);
        gauge.reads(0, Some(7));
        gauge.carried(0, 9, 2, 0);
        gauge.lag(0, 10);
        let told = |ms| RouteStatus { updated_ms: ms, ..gauge.told() };
        let alone = together(&route, [told(1000)].into_iter(), 4000);
        assert_eq!((alone.state.as_str(), alone.lag, alone.processes), ("running", Some(1), 1));
        let dead = together(&route, [told(1000)].into_iter(), 31_000);
        assert_eq!((dead.state.as_str(), dead.lag, dead.processes), ("silent", None, 0));
        assert_eq!(dead.why.as_deref(), Some("no word of its process for 30 s"));
        let both = together(&route, [told(1000), told(31_000)].into_iter(), 31_000);
        assert_eq!((both.state.as_str(), both.lag, both.processes), ("running", Some(1), 1));
        assert_eq!((both.carried, both.why), (4, None), "what it carried, it has carried");
    }
}
