//! A life of a route into the log: joins the group, reads, and ends at the first thing that is wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bus::Stream;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::Message as _;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::batch::Item;
use super::context::{Context, Held, NO_ID};
use crate::bridge::{Bridge, life, log_of};
use crate::config::Route;
use crate::failure::Failure;
use crate::kafka::{self, REQUEST};
use crate::mapping::{Record, ToLog};
use crate::names;
use crate::status::Gauge;

/// Room for records that are read and not stored, in [`UNIT`]s, over all partitions of a route.
const ROOM: usize = (32 << 20) / UNIT;
const UNIT: usize = 256;
/// What a record takes beside its bytes, in units.
const EACH: usize = 2;
/// Batches on their way at once, of all partitions.
const BATCHES: usize = 8;
/// How long the topic's id is waited for: old brokers have none.
const TOPIC_ID: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(100);

/// What the parts of an attempt share.
pub(super) struct Attempt {
    pub(super) route: Route,
    pub(super) log: Stream,
    pub(super) ends: ToLog,
    /// The largest message that the log takes.
    pub(super) limit: usize,
    pub(super) gauge: Arc<Gauge>,
    /// What is stored, by partition: told to Kafka for whoever looks at its groups.
    pub(super) stored: watch::Sender<BTreeMap<i32, i64>>,
    /// Cancelled when the attempt ends, for whatever reason.
    pub(super) over: CancellationToken,
    /// A server keeps only so many batches of a stream open.
    pub(super) batches: Semaphore,
    room: Arc<Semaphore>,
    why: Mutex<Option<Failure>>,
}

impl Attempt {
    /// Ends the attempt; the first reason counts.
    pub(super) fn fail(&self, failure: Failure) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        self.over.cancel();
    }

    fn room_for(&self, record: &Record) -> Option<OwnedSemaphorePermit> {
        let units = (record.size() / UNIT + EACH).min(ROOM);
        self.room.clone().try_acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).ok()
    }

    fn has_room(&self) -> bool {
        self.room.available_permits() >= ROOM / 2
    }
}

/// Carries until `stop` is cancelled, or something is wrong.
pub(crate) async fn run(
    bridge: &Bridge,
    route: &Route,
    gauge: &Arc<Gauge>,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let log = log_of(bridge, route).await?;
    let limit = log.info().await?.config.max_message_bytes as usize;
    let ends = ToLog { cluster: bridge.cluster_id().await?, life: life(&log).await? };
    let attempt = Arc::new(Attempt {
        route: route.clone(),
        log,
        ends,
        limit,
        gauge: gauge.clone(),
        stored: watch::Sender::default(),
        over: stop.child_token(),
        batches: Semaphore::new(BATCHES),
        room: Arc::new(Semaphore::new(ROOM)),
        why: Mutex::default(),
    });
    let mut config = kafka::consumer(&bridge.bridges.kafka, &names::kafka_id(&route.name))?;
    config.set("enable.auto.commit", "true").set("auto.commit.interval.ms", "1000");
    config.set("statistics.interval.ms", "2000");
    // The id of a topic is told there and nowhere else.
    config.set("debug", "metadata").set_log_level(RDKafkaLogLevel::Debug);
    let (of, runtime) = (attempt.clone(), Handle::current());
    let polled = tokio::task::spawn_blocking(move || {
        let context = Context::new(of.clone(), runtime);
        let consumer: BaseConsumer<Context> =
            config.create_with_context(context).map_err(Failure::kafka("start a consumer"))?;
        let topic = of.route.kafka_topic.as_str();
        learn_topic_id(&consumer, &of)?;
        consumer.subscribe(&[topic]).map_err(Failure::kafka(format!("subscribe to {topic}")))?;
        Poll { attempt: &of, consumer: &consumer, paused: Vec::new() }.run();
        consumer.context().leave_all();
        // Leaves the group; blocks for a moment.
        drop(consumer);
        Ok::<_, Failure>(())
    });
    // Also when this future is dropped: nothing else ends the thread.
    let over = attempt.over.clone().drop_guard();
    let ended = polled.await;
    drop(over);
    ended.map_err(|error| Failure::Again(format!("the reading thread ended: {error}")))??;
    let why = attempt.why.lock().unwrap_or_else(PoisonError::into_inner).take();
    why.map_or(Ok(()), Err)
}

/// Waits until the id of the topic is known: positions are held against it.
fn learn_topic_id(consumer: &BaseConsumer<Context>, attempt: &Attempt) -> Result<(), Failure> {
    let topic = attempt.route.kafka_topic.as_str();
    let found = consumer
        .fetch_metadata(Some(topic), REQUEST)
        .map_err(Failure::kafka(format!("look at topic {topic}")))?;
    let exists = found.topics().iter().any(|topic| !topic.partitions().is_empty());
    if !exists {
        return Err(Failure::Again(format!("topic {topic} does not exist: make it")));
    }
    let deadline = Instant::now() + TOPIC_ID;
    while consumer.context().topic_id() == NO_ID
        && Instant::now() < deadline
        && !attempt.over.is_cancelled()
    {
        // Nothing is subscribed to yet: what comes is told in passing.
        if let Some(Err(error)) = consumer.poll(POLL) {
            tracing::debug!(%error, "while the topic's id is looked for");
        }
    }
    Ok(())
}

/// The thread that polls: records to their partitions' tasks, as far as there is room.
struct Poll<'a> {
    attempt: &'a Arc<Attempt>,
    consumer: &'a BaseConsumer<Context>,
    /// Partitions that are not read until there is.
    paused: Vec<i32>,
}

impl Poll<'_> {
    fn run(&mut self) {
        let mut stored = self.attempt.stored.subscribe();
        while !self.attempt.over.is_cancelled() {
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    let record = Record::of(&message);
                    self.take(message.partition(), message.offset(), record);
                }
                Some(Err(error)) => self.judge(error),
            }
            if let Err(error) = self.go_on() {
                self.attempt
                    .fail(Failure::Kafka { doing: "pause or resume".into(), source: error });
            }
            if stored.has_changed().unwrap_or(false) {
                for (partition, next) in stored.borrow_and_update().iter() {
                    // Not of this process any more: the next one tells it.
                    let topic = &self.attempt.route.kafka_topic;
                    let _ = self.consumer.store_offset(topic, *partition, next - 1);
                }
            }
        }
    }

    fn take(&mut self, partition: i32, offset: i64, record: Record) {
        let context = self.consumer.context();
        if context.held().is_empty()
            && let Some(room) = self.attempt.room_for(&record)
        {
            return context.hand_over(partition, Item { record, offset, _room: room });
        }
        context.held().push_back(Held { partition, offset, record });
    }

    /// Stops reading while something is held, and begins again when there is room.
    fn go_on(&mut self) -> Result<(), KafkaError> {
        let context = self.consumer.context();
        if !context.held().is_empty() && self.paused.is_empty() {
            let assigned = self.consumer.assignment()?;
            self.consumer.pause(&assigned)?;
            self.paused = assigned.elements().iter().map(|part| part.partition()).collect();
        }
        if self.paused.is_empty() || !self.attempt.has_room() {
            return Ok(());
        }
        loop {
            let mut held = context.held();
            let Some(first) = held.front() else { break };
            let Some(room) = self.attempt.room_for(&first.record) else { return Ok(()) };
            if let Some(Held { partition, offset, record }) = held.pop_front() {
                context.hand_over(partition, Item { record, offset, _room: room });
            }
        }
        let assigned = self.consumer.assignment()?;
        let mut again = TopicPartitionList::new();
        let paused = std::mem::take(&mut self.paused);
        for part in assigned.elements().iter().filter(|part| paused.contains(&part.partition())) {
            again.add_partition(part.topic(), part.partition());
        }
        self.consumer.resume(&again)
    }

    /// What is told in passing is passed over; what stops a partition ends the attempt.
    fn judge(&self, error: KafkaError) {
        let topic = &self.attempt.route.kafka_topic;
        match error.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                self.attempt.fail(Failure::Again(format!("topic {topic} does not go on: {error}")));
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                self.attempt.gauge.waiting(format!("topic {topic} does not exist: make it"));
            }
            Some(Code::PollExceeded) => {
                self.attempt.fail(Failure::Again("the group went on without this process".into()));
            }
            _ => self.attempt.gauge.waiting(format!("kafka: {error}")),
        }
    }
}
