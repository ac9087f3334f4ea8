//! A life of a route out of the log.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bus::{Lease, Message, Reader, Start as From, StoredMessage, Stream};
use tokio_util::sync::CancellationToken;

use super::position::{self, Found, Kept};
use super::producer::{Producer, Refused};
use crate::bridge::{Bridge, life, log_of};
use crate::config::{KafkaCluster, Route, Start};
use crate::failure::Failure;
use crate::mapping::{Place, Record, to_record};
use crate::parked::ParkedRecord;
use crate::status::{self, Gauge};
use crate::{kafka, names};

/// The part of the source, in a status.
const LOG: i32 = -1;
/// Events of one transaction.
const EVENTS: usize = 5000;
/// Their bytes; the one that fills it is the last.
const BYTES: usize = 4 << 20;
/// How long who died keeps the route.
const LEASE: Duration = Duration::from_secs(10);
/// How long events are waited for before something else is looked at.
const WAIT: Duration = Duration::from_secs(1);

struct Attempt<'a> {
    route: &'a Route,
    log: Stream,
    life: u64,
    cluster_id: String,
    gauge: &'a Gauge,
    producer: Arc<Producer>,
    position: Kept,
}

/// Carries until `stop` is cancelled, or something is wrong.
pub(crate) async fn run(
    bridge: &Bridge,
    route: &Route,
    gauge: &Arc<Gauge>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let bucket = status::bucket(bridge.logs.as_ref()).await?;
    let key = format!("lease.{}", route.name);
    let mut contender = Lease::contend(&bucket, key, bridge.instance.clone(), LEASE)?;
    gauge.standing_by();
    let lease = tokio::select! { biased;
        () = stop.cancelled() => return Ok(()),
        lease = contender.take() => lease?,
    };
    let held = async {
        lease.lost().await;
        Err(Failure::Fenced(format!("route {}", route.name)))
    };
    let carried = tokio::select! { biased;
        lost = held => lost,
        carried = carry(bridge, route, gauge, stop) => carried,
    };
    gauge.reads(LOG, None);
    lease.release().await;
    carried
}

async fn carry(
    bridge: &Bridge,
    route: &Route,
    gauge: &Gauge,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let cluster = &bridge.bridges.kafka;
    let log = log_of(bridge, route).await?;
    let cluster_id = bridge.cluster_id().await?;
    kafka::ensure_compacted(cluster, &names::position_topic(&route.name)).await?;
    let life = life(&log).await?;
    let (of, to) = (cluster.clone(), route.clone());
    let started = blocking(move || {
        let producer = Producer::start(&of, &to)?;
        // Behind the fence, so that nobody writes another one.
        Ok((producer, position::read(&of, &to, life)?))
    });
    let (producer, found) = started.await?;
    let producer = Arc::new(producer);
    let position = Kept { sequence: 0, life };
    let mut attempt = Attempt { route, log, life, cluster_id, gauge, producer, position };
    let carried = async {
        attempt.position.sequence = attempt.begin(found).await?;
        attempt.all(stop).await
    };
    let carried = carried.await;
    // Letting it go waits for its threads.
    let producer = attempt.producer;
    blocking(move || {
        drop(producer);
        Ok(())
    })
    .await?;
    carried
}

impl Attempt<'_> {
    /// Where to go on: the last sequence that need not be read.
    async fn begin(&self, found: Found) -> Result<u64, Failure> {
        let (info, name) = (self.log.info().await?, self.log.name());
        if found.here.is_none() && found.elsewhere {
            self.gauge.note(format!(
                "log {name} is another than before, made again or on another bus: it is read from \
                 its beginning"
            ));
            return Ok(0);
        }
        let Some(kept) = found.here else {
            let sequence = match self.route.start {
                Start::Earliest => return Ok(0),
                Start::Latest => info.last_sequence,
            };
            // Kept before anything is passed over, so that a crash does not move it.
            self.store(Arc::default(), 0..0, Kept { sequence, life: self.life })
                .await
                .map_err(all)?;
            return Ok(sequence);
        };
        if kept.sequence > info.last_sequence {
            let (was, end) = (kept.sequence, info.last_sequence);
            self.gauge.note(format!("log {name} ends at {end}, and was carried up to {was}"));
            return Ok(end);
        }
        if kept.sequence + 1 < info.first_sequence {
            let (from, to) = (kept.sequence + 1, info.first_sequence);
            self.gauge
                .note(format!("log {name} was purged from {from} to {to} before it was carried"));
        }
        Ok(kept.sequence)
    }

    async fn all(&mut self, stop: &CancellationToken) -> Result<(), Failure> {
        let filter = names::topic_filter(&self.route.realm, &self.route.topic)?;
        let from = From::Sequence(self.position.sequence + 1);
        let mut reader = self.log.reader(&[filter], from).await?;
        self.gauge.reads(LOG, Some(self.next()));
        let mut events = next(&mut reader, stop).await?;
        while !stop.is_cancelled() {
            if events.is_empty() {
                self.measure().await;
                events = next(&mut reader, stop).await?;
                continue;
            }
            // What comes next is read while this is stored.
            let (stored, read) = tokio::join!(self.carry(&events), next(&mut reader, stop));
            stored?;
            events = read?;
        }
        Ok(())
    }

    /// Stores a batch: whole, or by halves down to the record that Kafka refuses, which is parked.
    async fn carry(&mut self, events: &[StoredMessage]) -> Result<(), Failure> {
        let Some(last) = events.last() else { return Ok(()) };
        let record = |event: &StoredMessage| {
            let record = to_record(self.route, &self.cluster_id, self.life, event)?;
            Some((event.sequence, record))
        };
        let records: Arc<Vec<_>> = Arc::new(events.iter().filter_map(record).collect());
        let mut looped = (events.len() - records.len()) as u64;
        let mut todo: Vec<Range<usize>> = std::iter::once(0..records.len()).collect();
        while let Some(part) = todo.pop() {
            let behind = records.get(part.end.wrapping_sub(1)).filter(|_| !todo.is_empty());
            let sequence = behind.map_or(last.sequence, |(sequence, _)| *sequence);
            let to = Kept { sequence, life: self.life };
            match self.store(records.clone(), part.clone(), to).await {
                Ok(()) => {
                    self.position = to;
                    self.gauge.carried(LOG, self.next(), part.len() as u64, looped);
                    looped = 0;
                }
                Err(Refused::All(failure)) => return Err(failure),
                Err(Refused::One(why)) if part.len() <= 1 => {
                    let refused = records.get(part.start);
                    let (sequence, record) = refused.ok_or_else(|| again(&why))?;
                    self.park(*sequence, record, &why).await?;
                    // The position goes past it.
                    todo.push(part.end..part.end);
                }
                Err(Refused::One(_)) => {
                    let middle = part.start + part.len() / 2;
                    todo.extend([middle..part.end, part.start..middle]);
                }
            }
        }
        Ok(())
    }

    async fn store(
        &self,
        records: Arc<Vec<(u64, Record)>>,
        part: Range<usize>,
        to: Kept,
    ) -> Result<(), Refused> {
        let producer = self.producer.clone();
        let stored = tokio::task::spawn_blocking(move || {
            let part = records.get(part).unwrap_or_default();
            producer.store(part.iter().map(|(_, record)| record), &to)
        });
        stored.await.unwrap_or_else(|error| Err(again(&error.to_string()).into()))
    }

    /// Keeps in the log that an event is not in Kafka: before the position passes it, and once.
    async fn park(&self, sequence: u64, record: &Record, why: &str) -> Result<(), Failure> {
        if self.route.bad == crate::config::Bad::Stop {
            return Err(Failure::Again(format!("event {sequence} is bad: {why}")));
        }
        let subject = names::parked(&self.route.realm, &self.route.name, "log", sequence)?;
        let offset = i64::try_from(sequence).unwrap_or(i64::MAX);
        let topic = format!("{}.{}", self.route.realm, self.route.topic);
        let place = Place { topic, topic_id: String::new(), partition: LOG, offset };
        let mut parked = ParkedRecord::new(&place, None, why);
        parked.timestamp = record.timestamp;
        let message = Message::json(subject.as_str(), &parked)?.expect_last(0);
        match self.log.publish(message).await {
            Err(error) if !error.is_conflict() => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn measure(&self) {
        let filter = names::topic_filter(&self.route.realm, &self.route.topic);
        let Ok(filter) = filter else { return };
        if let Ok(behind) = self.log.count(&[filter], self.position.sequence).await {
            self.gauge.running();
            self.gauge.lag(LOG, self.next() + i64::try_from(behind).unwrap_or(0));
        }
    }

    fn next(&self) -> i64 {
        i64::try_from(self.position.sequence + 1).unwrap_or(i64::MAX)
    }
}

fn all(refused: Refused) -> Failure {
    match refused {
        Refused::All(failure) => failure,
        Refused::One(why) => again(&why),
    }
}

fn again(why: &str) -> Failure {
    Failure::Again(format!("kafka: {why}"))
}

async fn next(
    reader: &mut Reader,
    stop: &CancellationToken,
) -> Result<Vec<StoredMessage>, Failure> {
    tokio::select! { biased;
        () = stop.cancelled() => Ok(Vec::new()),
        read = reader.next_within(EVENTS, BYTES, WAIT) => Ok(read?),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Failure::Again(format!("a thread ended: {error}")))?
}

/// Sends one event outside of a route's transactions, and waits until it is there.
pub(crate) async fn send_once(
    cluster: &KafkaCluster,
    route: &Route,
    log: &Stream,
    event: &StoredMessage,
) -> Result<(), Failure> {
    let (life, cluster_id) = (life(log).await?, kafka::cluster_id(cluster).await?);
    let Some(record) = to_record(route, &cluster_id, life, event) else { return Ok(()) };
    // Not the route's own id: that would fence the process that carries it.
    let route = Route { mode: crate::config::Mode::Idempotent, ..route.clone() };
    let cluster = cluster.clone();
    blocking(move || {
        let producer = Producer::start(&cluster, &route)?;
        producer.send_all([&record]).map_err(all)
    })
    .await
}
