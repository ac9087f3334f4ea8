//! How far a route is in the log: kept in a compacted topic of its own, written with the records.
//!
//! Each log that a route was ever run on has its own record there: whoever starts it once on another
//! bus does not take the position of this one away.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use crate::config::{KafkaCluster, Route};
use crate::failure::Failure;
use crate::kafka::Quiet;
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

/// What was found of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The position in this log.
    pub(super) here: Option<Kept>,
    /// Whether there is one in another log, which was deleted or is on another bus.
    pub(super) elsewhere: bool,
}

impl Kept {
    /// The key of the record that keeps it. Keep stable; at first it was the route's name alone.
    pub(super) fn key(&self, route: &Route) -> String {
        format!("{}@{:x}", route.name, self.life)
    }
}

/// The position that was committed last for the log of this life; blocks. Whoever wrote before must
/// be fenced by now.
pub(super) fn read(cluster: &KafkaCluster, route: &Route, life: u64) -> Result<Found, Failure> {
    let topic = names::position_topic(&route.name);
    let doing = || format!("read the position in {topic}");
    let mut config = kafka::consumer(cluster, &names::kafka_id(&route.name))?;
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    let consumer: BaseConsumer<Quiet> =
        config.create_with_context(Quiet).map_err(Failure::kafka(doing()))?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&topic, 0, Offset::Beginning).map_err(Failure::kafka(doing()))?;
    consumer.assign(&from).map_err(Failure::kafka(doing()))?;
    let (mut found, deadline) = (Found::default(), Instant::now() + LIMIT);
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => {
                let kept = message.payload().and_then(|kept| serde_json::from_slice(kept).ok());
                match kept {
                    Some(kept @ Kept { .. }) if kept.life == life => found.here = Some(kept),
                    Some(_) => found.elsewhere = true,
                    None => {}
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
            Some(Err(source)) => return Err(Failure::Kafka { doing: doing(), source }),
        }
    }
    Err(Failure::Again(format!("kafka: {}: no end of it within {LIMIT:?}", doing())))
}
