//! From a message to a record on its way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::NAME;
use super::catalog::Catalog;
use super::entry::StreamEntry;
use super::link::Link;
use super::publisher::{Content, Publisher, To};
use super::record::{content_bytes, partition_of, written};
use super::streams;
use crate::capability::Capability;
use crate::config::StreamConfig;
use crate::error::unsupported;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::StreamName;
use crate::publish::PendingReceipt;

/// How long what was read off a foreign topic is taken for true.
const FOREIGN_FOR: Duration = Duration::from_secs(10);
/// More topics than a program publishes to.
const FOREIGN_TOPICS: usize = 1000;

/// Hands a message to the producer; see [`crate::driver::Driver::submit`].
pub(super) async fn submit(
    publisher: &Publisher,
    entry: &StreamEntry,
    message: &Message,
) -> Result<PendingReceipt> {
    let StreamEntry { config, keyed, .. } = entry;
    check(config, message)?;
    let partitions = config.partitions;
    let to = To {
        topic: config.name.as_str(),
        partition: partition_of(message, partitions),
        partitions,
        takes: entry.largest_batch(),
    };
    let (key, headers) = written(message, keyed)?;
    let content = Content { key, value: message.payload.as_deref(), headers };
    Ok(PendingReceipt::channel(publisher.submit(to, content).await?))
}

/// Refuses what the stream or Kafka cannot take, before anything is attempted.
pub(super) fn check(config: &StreamConfig, message: &Message) -> Result<()> {
    let (name, subject) = (&config.name, &message.subject);
    let asked = |what| format!("{what} of a message on {subject}");
    if message.id.is_some() {
        return Err(unsupported(NAME, Capability::Deduplication, asked("the id")));
    }
    if message.expect.is_some() {
        return Err(unsupported(NAME, Capability::ConditionalPublish, asked("the condition")));
    }
    if message.rollup {
        return Err(unsupported(NAME, Capability::Rollup, asked("the rollup")));
    }
    if !config.subjects.iter().any(|filter| filter.matches(subject.as_str())) {
        let what = format!("stream {name} does not capture {subject}: add it to the stream");
        return Err(Error::invalid(what));
    }
    if message.not_before.is_some() && !config.delayed {
        let what = format!("stream {name} takes no delayed messages: declare it as delayed");
        return Err(Error::invalid(what));
    }
    let (bytes, limit) = (content_bytes(message), config.max_message_bytes);
    if bytes > limit as usize {
        let what =
            format!("the message on {subject} has {bytes} bytes, stream {name} takes {limit}");
        return Err(Error::new(ErrorKind::TooLarge, what));
    }
    Ok(())
}

/// What is known of topics that the catalog does not list, so that not each message asks again.
#[derive(Default)]
pub(super) struct Foreign(Mutex<BTreeMap<StreamName, (Instant, Arc<StreamEntry>)>>);

impl Foreign {
    /// The stream's declaration, from the catalog or from the topic itself.
    pub(super) async fn entry(
        &self,
        link: &Arc<Link>,
        catalog: &Catalog,
        name: &StreamName,
    ) -> Result<Arc<StreamEntry>> {
        if let Some(entry) = catalog.stream(name).or_else(|| self.known(name)) {
            return Ok(entry);
        }
        let entry = streams::entry(link, catalog, name).await?;
        if entry.generation == 0 {
            let mut topics = self.topics();
            topics.retain(|_, (until, _)| *until > Instant::now());
            if topics.len() < FOREIGN_TOPICS {
                topics.insert(name.clone(), (Instant::now() + FOREIGN_FOR, entry.clone()));
            }
        }
        Ok(entry)
    }

    fn known(&self, name: &StreamName) -> Option<Arc<StreamEntry>> {
        let topics = self.topics();
        let (until, entry) = topics.get(name)?;
        (*until > Instant::now()).then(|| entry.clone())
    }

    fn topics(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<StreamName, (Instant, Arc<StreamEntry>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
