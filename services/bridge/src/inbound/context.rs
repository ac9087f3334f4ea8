//! What the client tells: which partitions are this process', and which topic has its name now. Runs
//! in the thread that polls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::attempt::Attempt;
use super::batch::Item;
use super::partition::Partition;
use super::position::{self, Begin, Kept, Position};
use crate::config::Start;
use crate::failure::Failure;
use crate::kafka::{self, REQUEST};
use crate::mapping::Record;

/// The id of a topic where the broker has none.
pub(super) const NO_ID: &str = "-";
/// How long a batch that is on its way may take when its partition leaves.
const LEAVE: Duration = Duration::from_secs(10);
/// Between two tries to read the positions of partitions that came.
const AGAIN: Duration = Duration::from_millis(500);

/// The client's way to the attempt.
pub(super) struct Context {
    pub(super) attempt: Arc<Attempt>,
    runtime: Handle,
    topic_id: Arc<TopicId>,
    lanes: Mutex<BTreeMap<i32, Lane>>,
    held: Mutex<VecDeque<Held>>,
}

/// A record that came when there was no room.
pub(super) struct Held {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) record: Record,
}

/// The way of a partition's records to the task that stores them.
struct Lane {
    /// Bounded by the room that each item holds.
    records: UnboundedSender<Item>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The id of the topic that has the name now. The client tells it in its log alone, whose lines come
/// when it is polled: what is polled later was fetched from that topic.
#[derive(Default)]
pub(super) struct TopicId(Mutex<Option<String>>);

impl TopicId {
    pub(super) fn now(&self) -> String {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone().unwrap_or_else(|| NO_ID.to_owned())
    }

    fn read(&self, line: &str, topic: &str) {
        if let Some(id) = changed_id(line, topic) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
        }
    }
}

/// The id in `Topic orders changed id from AAAA to BBBB`, as Kafka's own tools write it.
fn changed_id(line: &str, topic: &str) -> Option<String> {
    let (before, ids) = line.split_once(" changed id from ")?;
    before.ends_with(&format!("Topic {topic}")).then_some(())?;
    let id = ids.split_once(" to ")?.1.split_whitespace().next()?;
    Some(id.replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned())
}

impl ClientContext for Context {
    fn log(&self, level: Level, fac: &str, line: &str) {
        self.topic_id.read(line, &self.attempt.route.kafka_topic);
        kafka::note(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::note_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.values().any(|broker| broker.nodeid >= 0 && broker.state == "UP") {
            self.attempt.gauge.kafka_is_there();
        }
        let Some(topic) = statistics.topics.get(&self.attempt.route.kafka_topic) else { return };
        for (partition, told) in topic.partitions.iter().filter(|(_, told)| told.hi_offset >= 0) {
            // Behind the last record there may be marks of transactions, which nobody reads: then the
            // end is where the last one was handed over.
            let read_all = told.next_offset >= told.hi_offset && told.fetchq_cnt == 0;
            let end = if read_all { told.app_offset } else { told.hi_offset };
            self.attempt.gauge.lag(*partition, end);
        }
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        client: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(client, partitions),
            _ => self.revoke(client, partitions),
        };
        if let Err(failure) = done {
            self.attempt.fail(failure);
        }
    }
}

impl Context {
    pub(super) fn new(attempt: Arc<Attempt>, runtime: Handle) -> Self {
        Self {
            attempt,
            runtime,
            topic_id: Arc::default(),
            lanes: Mutex::default(),
            held: Mutex::default(),
        }
    }

    /// The id of the topic; [`NO_ID`] while it is not known.
    pub(super) fn topic_id(&self) -> String {
        self.topic_id.now()
    }

    fn assign(
        &self,
        client: &BaseConsumer<Self>,
        given: &TopicPartitionList,
    ) -> Result<(), Failure> {
        let topic = &self.attempt.route.kafka_topic;
        let mut from = TopicPartitionList::new();
        let mut lanes = self.lanes();
        for given in given.elements() {
            let partition = given.partition();
            let position = self.position(client, partition)?;
            let next = position.kept.next;
            from.add_partition_offset(topic, partition, Offset::Offset(next))
                .map_err(Failure::kafka(format!("read {topic} {partition} from {next}")))?;
            self.attempt.gauge.reads(partition, Some(next));
            let stop = self.attempt.over.child_token();
            let (records, arriving) = unbounded_channel();
            let task = Partition {
                attempt: self.attempt.clone(),
                topic_id: self.topic_id.clone(),
                partition,
                position,
                arriving,
                stop: stop.clone(),
            };
            let task = self.runtime.spawn(task.run());
            lanes.insert(partition, Lane { records, stop, task });
        }
        client.incremental_assign(&from).map_err(Failure::kafka(format!("begin to read {topic}")))
    }

    fn revoke(
        &self,
        client: &BaseConsumer<Self>,
        taken: &TopicPartitionList,
    ) -> Result<(), Failure> {
        let topic = &self.attempt.route.kafka_topic;
        let left = {
            // Whoever is given the partition reads them again, this process too.
            self.held().retain(|held| taken.find_partition(topic, held.partition).is_none());
            let mut lanes = self.lanes();
            taken
                .elements()
                .iter()
                .filter_map(|taken| {
                    self.attempt.gauge.reads(taken.partition(), None);
                    lanes.remove(&taken.partition())
                })
                .collect()
        };
        self.leave(left);
        client.incremental_unassign(taken).map_err(Failure::kafka(format!("leave {topic}")))
    }

    /// Ends the tasks of all partitions, and waits for them.
    pub(super) fn leave_all(&self) {
        let left = std::mem::take(&mut *self.lanes());
        for partition in left.keys() {
            self.attempt.gauge.reads(*partition, None);
        }
        self.leave(left.into_values().collect());
    }

    fn leave(&self, left: Vec<Lane>) {
        left.iter().for_each(|lane| lane.stop.cancel());
        for Lane { records, mut task, .. } in left {
            drop(records);
            self.runtime.block_on(async {
                if tokio::time::timeout(LEAVE, &mut task).await.is_err() {
                    // Its batch is stored or not: whoever comes next reads which.
                    task.abort();
                    let _ = task.await;
                }
            });
        }
    }

    /// Hands a record to its partition's task; nothing for one that left.
    pub(super) fn hand_over(&self, partition: i32, item: Item) {
        if let Some(lane) = self.lanes().get(&partition) {
            // A task that ended has said why.
            let _ = lane.records.send(item);
        }
    }

    /// Where a partition is read from. A log that is away is waited for.
    fn position(&self, client: &BaseConsumer<Self>, partition: i32) -> Result<Position, Failure> {
        let Attempt { route, log, gauge, over, .. } = &*self.attempt;
        let topic = &route.kafka_topic;
        let (low, high) = client
            .fetch_watermarks(topic, partition, REQUEST)
            .map_err(Failure::kafka(format!("look at {topic} {partition}")))?;
        let read = async {
            loop {
                match position::read(log, route, partition).await {
                    Err(error) if error.is_retryable() && !over.is_cancelled() => {
                        gauge.waiting(error.to_string());
                        tokio::time::sleep(AGAIN).await;
                    }
                    read => return read,
                }
            }
        };
        let topic_id = self.topic_id.now();
        let Some(Position { kept, sequence }) = self.runtime.block_on(read)? else {
            let begin = self.begin(client)?;
            let next = begin.offsets.get(&partition).copied().unwrap_or(low).max(low);
            return Ok(Position { kept: Kept { next, topic_id }, sequence: 0 });
        };
        let known = topic_id != NO_ID && kept.topic_id != NO_ID;
        let made_anew = known && kept.topic_id != topic_id || !known && kept.next > high;
        let next = if made_anew {
            gauge.note(format!(
                "topic {topic} was deleted and made again: it is read from its beginning"
            ));
            low
        } else if kept.next > high {
            let lost = kept.next - high;
            gauge.note(format!(
                "{topic} {partition} has lost its last {lost} records: going on at its end"
            ));
            high
        } else {
            if kept.next < low {
                let gone = low - kept.next;
                gauge.note(format!(
                    "{gone} records of {topic} {partition} were removed before they were carried"
                ));
            }
            kept.next.max(low)
        };
        Ok(Position { kept: Kept { next, topic_id }, sequence })
    }

    /// Where the route began, which is kept before anything else.
    fn begin(&self, client: &BaseConsumer<Self>) -> Result<Begin, Failure> {
        let Attempt { route, log, .. } = &*self.attempt;
        if let Some(begin) = self.runtime.block_on(position::begin(log, route))? {
            return Ok(begin);
        }
        let mut begin = Begin::default();
        if route.start == Start::Latest {
            let topic = &route.kafka_topic;
            let doing = || format!("look at topic {topic}");
            let found =
                client.fetch_metadata(Some(topic), REQUEST).map_err(Failure::kafka(doing()))?;
            let parts = found.topics().iter().flat_map(|topic| topic.partitions());
            for id in parts.map(|part| part.id()) {
                let (_, high) =
                    client.fetch_watermarks(topic, id, REQUEST).map_err(Failure::kafka(doing()))?;
                begin.offsets.insert(id, high);
            }
        }
        Ok(self.runtime.block_on(position::keep_begin(log, route, begin))?)
    }

    /// What came when there was no room, in the order in which it came.
    pub(super) fn held(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<i32, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_the_topic_is_read_from_the_log() {
        let line = "[thrd:main]: Topic orders changed id from AAAAAAAAAAAAAAAAAAAAAA to a+b/c==";
        assert_eq!(changed_id(line, "orders").as_deref(), Some("a-b_c"));
        assert_eq!(changed_id(line, "s"), None);
        let id = TopicId::default();
        assert_eq!(id.now(), NO_ID);
        id.read("[thrd:main]: something else", "orders");
        id.read(line, "orders");
        assert_eq!(id.now(), "a-b_c");
    }
}
