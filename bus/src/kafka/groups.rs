//! Groups from outside, through a client that is in none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::desk::Part;
use super::entry::Origin;
use super::failure::{failed, is_passing};
use super::link::{Link, REQUEST_LIMIT};
use super::settings::Logged;
use super::watermark::Watermark;
use crate::error::Result;

/// How often, and how far apart, it is tried to remove a group that its members are leaving.
const DELETE_ATTEMPTS: u32 = 10;
const DELETE_PAUSE: Duration = Duration::from_millis(100);
const COMMIT_PAUSE: Duration = Duration::from_millis(50);

/// What the group has committed of each partition of two topics, where it has.
pub(super) async fn committed(
    link: &Arc<Link>,
    group: &str,
    topics: &[String; 2],
    partitions: u32,
) -> Result<Vec<(Part, Watermark)>> {
    let (topics, group) = (topics.clone(), group.to_owned());
    let of = link.clone();
    let asked = link.apart(move || {
        let client = client(&of, &group)?;
        let mut list = TopicPartitionList::new();
        for topic in &topics {
            let last = i32::try_from(partitions).unwrap_or(i32::MAX) - 1;
            list.add_partition_range(topic, 0, last);
        }
        let doing = || format!("look at group {group}");
        let found =
            client.committed_offsets(list, REQUEST_LIMIT).map_err(|e| failed(doing(), e))?;
        let mut committed = Vec::new();
        for partition in found.elements() {
            partition.error().map_err(|e| failed(doing(), e))?;
            if let Offset::Offset(offset) = partition.offset() {
                let part = (partition.topic() != topics[0], partition.partition());
                committed.push((part, Watermark::restore(offset, partition.metadata())));
            }
        }
        Ok(committed)
    });
    asked.await
}

/// True when a group of this name has been used for these topics.
pub(super) async fn has_committed(
    link: &Arc<Link>,
    group: &str,
    topics: &[String; 2],
    partitions: u32,
) -> Result<bool> {
    Ok(!committed(link, group, topics, partitions).await?.is_empty())
}

/// Commits for a group that has no members.
pub(super) async fn commit(
    link: &Arc<Link>,
    group: &str,
    topic: &str,
    origins: &[Origin],
) -> Result<()> {
    let (of, group) = (link.clone(), group.to_owned());
    let (topic, origins) = (topic.to_owned(), origins.to_vec());
    let committed = link.apart(move || {
        let client = client(&of, &group)?;
        let deadline = Instant::now() + REQUEST_LIMIT;
        loop {
            let list = list(&topic, &origins);
            match list.and_then(|list| client.commit(&list, CommitMode::Sync)) {
                Ok(()) => return Ok(()),
                // A group that is new has to find its broker first.
                Err(error) if is_passing(&error) && Instant::now() < deadline => {
                    std::thread::sleep(COMMIT_PAUSE);
                }
                Err(error) => return Err(failed(format!("commit for group {group}"), error)),
            }
        }
    });
    committed.await
}

/// A client that speaks for the group without joining it.
fn client(link: &Link, group: &str) -> Result<BaseConsumer<Logged>> {
    BaseConsumer::from_config_and_context(&link.settings.consumer(group), Logged)
        .map_err(|e| failed(format!("ask about group {group}"), e))
}

fn list(topic: &str, origins: &[Origin]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(origins.len());
    for (partition, origin) in (0..).zip(origins) {
        let mut partition = list.add_partition(topic, partition);
        partition.set_offset(Offset::Offset(origin.offset))?;
        if !origin.metadata.is_empty() {
            partition.set_metadata(&origin.metadata);
        }
    }
    Ok(list)
}

/// Removes a group that nobody needs any more. One whose members are still leaving stays behind;
/// the broker forgets it in time.
pub(super) async fn delete(link: &Link, group: &str) {
    for _ in 0..DELETE_ATTEMPTS {
        let deleted = link.admin.delete_groups(&[group], &link.admin_options()).await;
        match deleted.as_deref() {
            Ok([Ok(_)]) => return,
            Ok([Err((_, Code::GroupIdNotFound))]) => return,
            other => tracing::debug!(group, ?other, "the group is not removed yet"),
        }
        tokio::time::sleep(DELETE_PAUSE).await;
    }
}
