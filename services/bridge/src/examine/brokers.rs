//! Whether brokers answer; blocks.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::{Finding, Listening, PATIENCE};
use crate::config::KafkaCluster;
use crate::kafka;

/// Who answered.
pub(super) struct Cluster {
    /// The brokers' ids.
    pub(super) brokers: Vec<i32>,
    /// How many copies each topic has; of the partition that has the fewest.
    pub(super) topics: BTreeMap<String, usize>,
}

/// Asks each broker that the file names, by itself; the cluster as the first that answers tells it.
pub(super) fn look(kafka: &KafkaCluster) -> (Vec<Finding>, Option<Cluster>) {
    let (mut found, mut cluster) = (Vec::new(), None);
    for broker in kafka.brokers.split(',') {
        let alone = KafkaCluster { brokers: broker.to_owned(), ..kafka.clone() };
        let what = format!("kafka {broker}");
        match ask(&alone) {
            Ok((told, id)) => {
                let count = told.brokers.len();
                let brokers = if count == 1 { "broker" } else { "brokers" };
                found.push(Finding::ok(what, format!("answers: cluster {id}, {count} {brokers}")));
                cluster.get_or_insert(told);
            }
            Err(why) => {
                let change = "start it, or correct brokers and the credentials in the file";
                found.push(Finding::fail(what, format!("does not answer: {why}"), change));
            }
        }
    }
    if cluster.is_some() {
        // One that answers is enough to begin with.
        for silent in found.iter_mut().filter(|one| one.change.is_some()) {
            silent.level = super::Level::Warn;
        }
    }
    (found, cluster)
}

fn ask(kafka: &KafkaCluster) -> Result<(Cluster, String), String> {
    let text = |error: crate::Failure| error.to_string();
    let config = kafka::consumer(kafka, "lockgate-bridge").map_err(text)?;
    let consumer: BaseConsumer<Listening> =
        config.create_with_context(Listening::default()).map_err(|error| error.to_string())?;
    let told = consumer.fetch_metadata(None, PATIENCE).map_err(|error| {
        // The reason comes as an event, which is read by polling.
        let _ = consumer.poll(std::time::Duration::from_millis(200));
        consumer.context().reason().unwrap_or_else(|| error.to_string())
    })?;
    let id = consumer.client().fetch_cluster_id(PATIENCE).unwrap_or_else(|| "without an id".into());
    let topics = told.topics().iter().map(|topic| {
        let copies = topic.partitions().iter().map(|part| part.replicas().len()).min();
        (topic.name().to_owned(), copies.unwrap_or(0))
    });
    let brokers = told.brokers().iter().map(|broker| broker.id()).collect();
    Ok((Cluster { brokers, topics: topics.collect() }, id))
}
