//! Topics: made, looked at, changed, emptied, removed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::failure::{failed, refused};
use super::link::{Client, Link, metadata, watermarks};
use crate::error::{Error, ErrorKind, Result};

/// How long a change may take until every broker knows of it.
const SPREAD_LIMIT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A topic to make.
pub(super) struct Topic {
    pub(super) name: String,
    pub(super) partitions: u32,
    /// The cluster's default where none is given.
    pub(super) replicas: Option<u8>,
    pub(super) config: BTreeMap<&'static str, String>,
}

impl Topic {
    /// One partition that keeps the last record of each key.
    pub(super) fn compacted(name: &str, replicas: Option<u8>) -> Self {
        let config = [
            ("cleanup.policy", "compact"),
            ("message.timestamp.type", "LogAppendTime"),
            // A small segment is compacted soon: opening a table reads all that is left.
            ("segment.bytes", "16777216"),
            ("min.cleanable.dirty.ratio", "0.3"),
        ];
        let config = config.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
        Self { name: name.to_owned(), partitions: 1, replicas, config }
    }
}

/// A topic as the cluster has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) partitions: u32,
    pub(super) replicas: u8,
}

/// Makes the topic unless there is one of its name, and returns when it can be used. True if this
/// call made it: of several at once exactly one does.
pub(super) async fn ensure_exists(link: &Arc<Link>, topic: &Topic) -> Result<bool> {
    let doing = || format!("create topic {}", topic.name);
    let partitions = i32::try_from(topic.partitions).unwrap_or(i32::MAX);
    let replicas = topic.replicas.map_or(-1, i32::from);
    let mut new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(replicas));
    for (name, value) in &topic.config {
        new = new.set(name, value);
    }
    let results = link.admin.create_topics([&new], &link.admin_options()).await;
    let made = match first(results).map_err(|e| failed(doing(), e))? {
        Ok(_) => true,
        Err((_, Code::TopicAlreadyExists)) => false,
        Err((_, code)) => return Err(refused(doing(), code)),
    };
    let deadline = Instant::now() + SPREAD_LIMIT;
    while look(link, &topic.name).await?.is_none() {
        if Instant::now() >= deadline {
            let what = format!("topic {} was made, and has no leader yet: try again", topic.name);
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(made)
}

/// The topic, if there is one and each of its partitions has a leader.
pub(super) async fn look(link: &Arc<Link>, topic: &str) -> Result<Option<Shape>> {
    let name = topic.to_owned();
    link.with_client(move |client| {
        let metadata = metadata(client, Some(&name))?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        let Some(found) = found.filter(|found| found.error().is_none()) else { return Ok(None) };
        let partitions = found.partitions();
        if partitions.is_empty() || partitions.iter().any(|partition| partition.leader() < 0) {
            return Ok(None);
        }
        let replicas = partitions.iter().map(|partition| partition.replicas().len()).min();
        Ok(Some(Shape {
            partitions: u32::try_from(partitions.len()).unwrap_or(u32::MAX),
            replicas: replicas.and_then(|count| u8::try_from(count).ok()).unwrap_or(u8::MAX),
        }))
    })
    .await
}

/// The settings that the topic has of its own, or inherits.
pub(super) async fn config(link: &Link, topic: &str) -> Result<BTreeMap<String, Setting>> {
    let doing = || format!("look at the settings of topic {topic}");
    let asked = [ResourceSpecifier::Topic(topic)];
    let results = link.admin.describe_configs(&asked, &link.admin_options()).await;
    let resource = first(results).map_err(|e| failed(doing(), e))?;
    let resource = resource.map_err(|code| refused(doing(), code))?;
    let settings = resource.entries.into_iter().filter_map(|entry| {
        let own = entry.source == ConfigSource::DynamicTopic;
        Some((entry.name, Setting { value: entry.value?, own }))
    });
    Ok(settings.collect())
}

/// One setting of a topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) value: String,
    /// True where it was set on the topic itself.
    own: bool,
}

/// Sets these settings, keeps those that others set, and returns when they hold.
pub(super) async fn configure(
    link: &Link,
    topic: &str,
    wanted: &BTreeMap<&'static str, String>,
) -> Result<()> {
    let doing = || format!("change the settings of topic {topic}");
    let holds = |now: &BTreeMap<String, Setting>| {
        wanted.iter().all(|(name, value)| now.get(*name).is_some_and(|has| has.value == *value))
    };
    let now = config(link, topic).await?;
    if holds(&now) {
        return Ok(());
    }
    // The request replaces all of the topic's own settings.
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
    let kept = now.iter().filter(|(name, has)| has.own && !wanted.contains_key(name.as_str()));
    for (name, has) in kept {
        alter = alter.set(name, &has.value);
    }
    for (name, value) in wanted {
        alter = alter.set(name, value);
    }
    let altered = link.admin.alter_configs([&alter], &link.admin_options()).await;
    altered.map_err(|e| failed(doing(), e))?;
    // The client library does not tell a refusal: the settings do.
    let deadline = Instant::now() + SPREAD_LIMIT;
    while !holds(&config(link, topic).await?) {
        if Instant::now() >= deadline {
            let what = format!("{}: the broker did not take them", doing());
            return Err(Error::new(ErrorKind::Backend, what));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Removes the topic; a missing one is `NotFound`. Returns when it is not listed any more.
pub(super) async fn delete(link: &Arc<Link>, topic: &str) -> Result<()> {
    let doing = || format!("delete topic {topic}");
    let results = link.admin.delete_topics(&[topic], &link.admin_options()).await;
    let deleted = first(results).map_err(|e| failed(doing(), e))?;
    deleted.map_err(|(_, code)| refused(doing(), code))?;
    let deadline = Instant::now() + SPREAD_LIMIT;
    while look(link, topic).await?.is_some() && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Removes every record that the topic holds now.
pub(super) async fn empty(link: &Link, topic: &str, ends: &[(i32, i64)]) -> Result<()> {
    let doing = || format!("empty topic {topic}");
    let mut before = TopicPartitionList::with_capacity(ends.len());
    for (partition, end) in ends {
        before
            .add_partition_offset(topic, *partition, Offset::Offset(*end))
            .map_err(|e| failed(doing(), e))?;
    }
    let deleted = link.admin.delete_records(&before, &link.admin_options()).await;
    let deleted = deleted.map_err(|e| failed(doing(), e))?;
    for partition in deleted.elements() {
        partition.error().map_err(|e| failed(doing(), e))?;
    }
    Ok(())
}

/// First offset and end of each partition.
pub(super) fn all_watermarks(
    client: &Client,
    topic: &str,
    partitions: u32,
) -> Result<Vec<(i64, i64)>> {
    let numbers = 0..i32::try_from(partitions).unwrap_or(i32::MAX);
    numbers.map(|partition| watermarks(client, topic, partition)).collect()
}

fn first<T>(results: Result<Vec<T>, KafkaError>) -> Result<T, KafkaError> {
    results?.into_iter().next().ok_or(KafkaError::NoMessageReceived)
}
