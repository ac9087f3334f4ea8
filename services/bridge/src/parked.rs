//! What could not be carried: kept beside the events of its realm, listed, and tried again.
//!
//! A record is parked in the batch that passes it, so that it is neither lost nor parked twice. Tried
//! again it becomes an event in one step with the removal of what was kept: behind the newer events of
//! its key, which is why nothing is tried again by itself.

use bus::{Message, Stream};
use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::config::{Bridges, Direction, Route};
use crate::failure::Failure;
use crate::kafka;
use crate::logs::Logs;
use crate::mapping::{Place, Record, ToLog, to_event};
use crate::names;

/// What is parked, in its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parked {
    /// The route.
    pub route: String,
    /// By which it is named in [`redrive`] and [`discard`].
    pub id: String,
    /// Where it is in the log.
    #[serde(skip)]
    sequence: u64,
    #[serde(skip)]
    subject: String,
    /// What is kept of it.
    #[serde(flatten)]
    pub record: ParkedRecord,
}

/// What is kept of something that is parked. Keep stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParkedRecord {
    /// Why.
    pub reason: String,
    /// Where it was: a Kafka topic, or the log's topic.
    pub topic: String,
    /// The id of the Kafka topic.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic_id: String,
    /// The partition; -1 for the log.
    pub partition: i32,
    /// The offset, or the log's sequence.
    pub offset: i64,
    /// Its timestamp, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
    /// The key, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The headers, values in base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, Option<String>)>,
    /// False where it was too large to be kept: it is read from its place again.
    pub whole: bool,
}

impl ParkedRecord {
    pub(crate) fn new(place: &Place, record: Option<&Record>, reason: &str) -> Self {
        let text = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| BASE64.encode(bytes));
        Self {
            reason: reason.to_owned(),
            topic: place.topic.clone(),
            topic_id: place.topic_id.clone(),
            partition: place.partition,
            offset: place.offset,
            timestamp: record.and_then(|record| record.timestamp),
            key: record.and_then(|record| text(&record.key)),
            value: record.and_then(|record| text(&record.value)),
            headers: record.map_or_else(Vec::new, |record| {
                record.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect()
            }),
            whole: record.is_some(),
        }
    }

    fn place(&self) -> Place {
        let (topic, topic_id) = (self.topic.clone(), self.topic_id.clone());
        Place { topic, topic_id, partition: self.partition, offset: self.offset }
    }

    fn record(&self) -> Option<Record> {
        let bytes = |text: &Option<String>| match text {
            Some(text) => Some(Some(Bytes::from(BASE64.decode(text.as_bytes()).ok()?))),
            None => Some(None),
        };
        let headers = self.headers.iter().map(|(name, value)| Some((name.clone(), bytes(value)?)));
        Some(Record {
            key: bytes(&self.key)?,
            value: bytes(&self.value)?,
            headers: headers.collect::<Option<_>>()?,
            timestamp: self.timestamp,
        })
        .filter(|_| self.whole)
    }
}

/// Everything that the routes of a file have parked, route by route, at most `most` of each.
pub async fn list(logs: &dyn Logs, routes: &[Route], most: usize) -> Result<Vec<Parked>, Failure> {
    let mut all = Vec::new();
    for route in routes {
        let log = match logs.log(&route.realm).await {
            // Nothing ran yet.
            Err(error) if error.is_not_found() => continue,
            log => log?,
        };
        let mut subjects = log.subjects(&names::parked_filter(&route.realm, &route.name)?).await?;
        subjects.truncate(most);
        let held = log.last_at(&subjects, u64::MAX).await?;
        for message in held.iter().filter(|message| !message.is_tombstone()) {
            let subject = message.subject.to_string();
            let id = subject.split_once(".parked.").map_or("", |(_, id)| id).to_owned();
            let (route, sequence) = (route.name.clone(), message.sequence);
            all.push(Parked { route, id, sequence, subject, record: message.json()? });
        }
    }
    Ok(all)
}

/// Carries something that is parked now, and removes it from where it is kept: for a route into the
/// log in one step, so that it becomes one event however often this is done; out of the log with
/// the producer's confirmation before, so that a crash in between repeats it.
///
/// What still cannot be carried stays, with an error that says why.
pub async fn redrive(logs: &dyn Logs, bridges: &Bridges, parked: &Parked) -> Result<(), Failure> {
    let named = |route: &&Route| route.name == parked.route;
    let route = bridges.routes.iter().find(named).ok_or_else(|| {
        Failure::Again(format!("route {:?} is not in the file any more", parked.route))
    })?;
    let log = logs.log(&route.realm).await?;
    if route.direction == Direction::Out {
        let sequence = u64::try_from(parked.record.offset).unwrap_or(0);
        let event = log.get(sequence).await?.ok_or_else(|| {
            Failure::Again(format!("event {sequence} is not in the log any more: discard it"))
        })?;
        crate::outbound::send_once(&bridges.kafka, route, &log, &event).await?;
        return discard(logs, bridges, parked).await;
    }
    let record = match parked.record.record() {
        Some(record) => record,
        None => reread(bridges, route, &parked.record).await?,
    };
    let cluster = kafka::cluster_id(&bridges.kafka).await?;
    let ends = ToLog { cluster, life: crate::bridge::life(&log).await? };
    let event = to_event(route, &ends, &record, &parked.record.place())
        .map_err(|unfit| Failure::Again(format!("it is still no event: {unfit}")))?;
    let mut batch: Vec<Message> = event.into_iter().collect();
    batch.push(removal(parked)?);
    log.publish_atomic(batch).await?;
    sweep(&log, parked).await
}

/// Gives up something that is parked: it is removed and carried nowhere.
pub async fn discard(logs: &dyn Logs, bridges: &Bridges, parked: &Parked) -> Result<(), Failure> {
    let route = bridges.routes.iter().find(|route| route.name == parked.route);
    let route = route.ok_or_else(|| {
        Failure::Again(format!("route {:?} is not in the file any more", parked.route))
    })?;
    let log = logs.log(&route.realm).await?;
    log.publish(removal(parked)?).await?;
    sweep(&log, parked).await
}

/// What takes the place of something parked: whoever comes second is refused.
fn removal(parked: &Parked) -> Result<Message, bus::Error> {
    Ok(Message::tombstone(&parked.subject)?.rollup().expect_last(parked.sequence))
}

/// Takes the mark of a removal away too.
async fn sweep(log: &Stream, parked: &Parked) -> Result<(), Failure> {
    log.purge(&bus::SubjectFilter::new(&parked.subject)?).await?;
    Ok(())
}

/// Reads a record that was too large to be kept from its topic again.
async fn reread(bridges: &Bridges, route: &Route, of: &ParkedRecord) -> Result<Record, Failure> {
    let (cluster, place) = (bridges.kafka.clone(), of.place());
    let group = names::kafka_id(&route.name);
    let read = tokio::task::spawn_blocking(move || kafka::read_one(&cluster, &group, &place));
    read.await.map_err(|error| Failure::Again(format!("reading it again ended: {error}")))?
}
