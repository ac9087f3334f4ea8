//! How far a route is in the log: kept in a compacted topic of its own, written with the records.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::config::{KafkaCluster, Route};
use crate::failure::Failure;
use crate::{kafka, names};

/// How long the position may take to be read.
const LIMIT: Duration = Duration::from_secs(60);

/// A position as it is kept. Keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The sequence of the last event that is in Kafka, or was passed over.
    pub(super) sequence: u64,
    /// Which log of its name that is of.
    pub(super) life: u64,
}

/// The position that was committed last; blocks. Whoever wrote before must be fenced by now.
pub(super) fn read(cluster: &KafkaCluster, route: &Route) -> Result<Option<Kept>, Failure> {
    let topic = names::position_topic(&route.name);
    let doing = || format!("read the position in {topic}");
    let mut config = kafka::consumer(cluster, &names::kafka_id(&route.name))?;
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().map_err(Failure::kafka(doing()))?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic, 0, Offset::Beginning).map_err(Failure::kafka(doing()))?;
    consumer.assign(&from).map_err(Failure::kafka(doing()))?;
    let (mut last, deadline) = (None, Instant::now() + LIMIT);
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                let kept = message.payload().and_then(|kept| serde_json::from_slice(kept).ok());
                last = kept.or(last);
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(last),
            Some(Err(source)) => return Err(Failure::Kafka { doing: doing(), source }),
        }
    }
    Err(Failure::Again(format!("kafka: {}: no end of it within {LIMIT:?}", doing())))
}
