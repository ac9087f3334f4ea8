//! Whether the topics of a route are there and may be used; blocks.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::{Finding, PATIENCE};
use crate::config::{Direction, KafkaCluster, Route};
use crate::kafka::{self, Quiet};
use crate::names;

/// Between two questions to a coordinator that is on its way.
const AGAIN: Duration = Duration::from_millis(200);

/// What to say of a route's side in Kafka.
pub(super) fn look(kafka: &KafkaCluster, route: &Route) -> Vec<Finding> {
    let what = format!("route {}", route.name);
    let (topic, group) = (&route.kafka_topic, names::kafka_id(&route.name));
    let consumer = match consumer(kafka, &group) {
        Ok(consumer) => consumer,
        Err(why) => return vec![Finding::fail(what, why, "correct [kafka] in the file")],
    };
    let partitions = match partitions(&consumer, topic) {
        Ok(0) => {
            let change =
                format!("make it: kafka-topics.sh --create --topic {topic} --partitions N");
            return vec![Finding::fail(what, format!("topic {topic} does not exist"), change)];
        }
        Ok(partitions) => partitions,
        Err(error) => return vec![refused(what, topic, "Describe", &error)],
    };
    let read = match route.direction {
        Direction::In => may_read(&consumer, topic, &group),
        Direction::Out => may_keep_position(kafka, &names::position_topic(&route.name)),
    };
    match read {
        Ok(()) => {
            let way = if route.direction == Direction::In { "read" } else { "written, not tried" };
            vec![Finding::ok(
                what,
                format!("topic {topic} with {partitions} partitions can be {way}"),
            )]
        }
        Err((of, right, error)) => vec![refused(what, &of, right, &error)],
    }
}

/// Of what, which right, and what Kafka says.
type Denied = (String, &'static str, KafkaError);

fn refused(what: String, of: &str, right: &str, error: &KafkaError) -> Finding {
    let change = format!("allow {right} on {of}, if it is that, and look at the brokers' log");
    Finding::fail(what, format!("{of}: {error}"), change)
}

fn consumer(kafka: &KafkaCluster, group: &str) -> Result<BaseConsumer<Quiet>, String> {
    let mut config = kafka::consumer(kafka, group).map_err(|error| error.to_string())?;
    config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
    config.create_with_context(Quiet).map_err(|error| error.to_string())
}

fn partitions(consumer: &BaseConsumer<Quiet>, topic: &str) -> Result<usize, KafkaError> {
    let told = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    match told.topics().first() {
        Some(told) => match told.error().map(Code::from) {
            None | Some(Code::UnknownTopicOrPartition) => Ok(told.partitions().len()),
            Some(code) => Err(KafkaError::MetadataFetch(code)),
        },
        None => Ok(0),
    }
}

/// What a broker says for a moment when it has just started, or when a group has moved.
fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::NotCoordinator | Code::CoordinatorNotAvailable | Code::CoordinatorLoadInProgress
        )
    )
}

/// The group's offsets may be seen, and the end of a partition be read up to.
fn may_read(consumer: &BaseConsumer<Quiet>, topic: &str, group: &str) -> Result<(), Denied> {
    let part = |offset| {
        let mut part = TopicPartitionList::new();
        part.add_partition_offset(topic, 0, offset)?;
        Ok(part)
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = part(Offset::Invalid).and_then(|p| consumer.committed_offsets(p, PATIENCE));
        match seen {
            Ok(_) => break,
            Err(error) if is_passing(&error) && Instant::now() < deadline => {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err((format!("group {group}"), "Read", error)),
        }
    }
    let read = part(Offset::End).and_then(|part| consumer.assign(&part));
    read.map_err(|error| (topic.to_owned(), "Read", error))?;
    match consumer.poll(PATIENCE) {
        Some(Err(KafkaError::PartitionEOF(_)) | Ok(_)) | None => Ok(()),
        Some(Err(error)) => Err((topic.to_owned(), "Read", error)),
    }
}

/// The topic of positions is there, or could be made.
fn may_keep_position(kafka: &KafkaCluster, topic: &str) -> Result<(), Denied> {
    let denied = |error| (topic.to_owned(), "Create, Read and Write", error);
    let config = kafka::common(kafka).map_err(|_| denied(KafkaError::Canceled))?;
    let admin: AdminClient<Quiet> = config.create_with_context(Quiet).map_err(denied)?;
    let options = AdminOptions::new().request_timeout(Some(PATIENCE)).validate_only(true);
    let wanted =
        NewTopic::new(topic, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
    let asked = admin.create_topics([&wanted], &options);
    let told = tokio::runtime::Handle::current().block_on(asked).map_err(denied)?;
    match told.into_iter().next() {
        None | Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(denied(KafkaError::AdminOp(code))),
    }
}
