//! Consumers: declared, observed, moved, removed. A consumer is a consumer group, a topic for its
//! retries, and an entry of the catalog.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio_util::task::TaskTracker;

use super::catalog::Catalog;
use super::entry::{ConsumerEntry, Origin, StreamEntry, nanos};
use super::link::Link;
use super::member::Member;
use super::publisher::Publisher;
use super::shape::refusal;
use super::shared::Names;
use super::start::Beginning;
use super::topics::{self, Topic};
use super::{groups, retry, standing, streams};
use crate::config::{ConsumerConfig, ConsumerInfo, Start, StreamConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName, SubjectFilter};

/// Whoever made the retry topic writes the consumer's entry right after: so long that is waited
/// for. Finding the start may take it a scan of the stream.
const MAKER_LIMIT: Duration = Duration::from_secs(5);

const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The consumers of one connection, and its members of their groups.
pub(super) struct Consumers {
    pub(super) link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) catalog: Arc<Catalog>,
    members: Mutex<BTreeMap<(StreamName, ConsumerName), Weak<Member>>>,
    /// What the members do beside their threads.
    tasks: TaskTracker,
}

impl Consumers {
    pub(super) fn new(
        link: &Arc<Link>,
        publisher: &Arc<Publisher>,
        catalog: &Arc<Catalog>,
    ) -> Self {
        let (link, publisher, catalog) = (link.clone(), publisher.clone(), catalog.clone());
        let (members, tasks) = (Mutex::default(), TaskTracker::new());
        Self { link, publisher, catalog, members, tasks }
    }

    /// Waits for what the members had begun; their threads have ended.
    pub(super) async fn close(&self) {
        self.tasks.close();
        if tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("retries were still on their way when the bus was closed");
        }
    }

    /// See [`crate::driver::Driver::ensure_consumer`]. The start is looked up once, here, and kept
    /// in the catalog.
    pub(super) async fn ensure(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        let of = streams::fitting(&self.link, &self.catalog, stream).await?;
        check(config)?;
        self.catalog.refresh().await?;
        let has = match self.catalog.consumer(stream, &config.name) {
            Some(has) => has,
            None => self.create(&of, config).await?,
        };
        check_drift(&has.config, config)?;
        if has.config != *config {
            let changed = ConsumerEntry { config: config.clone(), ..(*has).clone() };
            self.catalog.put_consumer(stream, &changed).await?;
        }
        self.info(stream, &config.name).await
    }

    async fn create(
        &self,
        stream: &StreamEntry,
        config: &ConsumerConfig,
    ) -> Result<Arc<ConsumerEntry>> {
        let (name, limit) = (&stream.config.name, stream.config.max_consumers as usize);
        if self.catalog.consumers(name).len() >= limit {
            let what = format!("stream {name} has {limit} consumers and takes no more: remove one");
            return Err(Error::new(ErrorKind::Full, what));
        }
        let topic = retry_topic(stream, &config.name);
        let made = topics::ensure_exists(&self.link, &topic).await?;
        if !made && let Some(entry) = self.made_by_another(name, &config.name).await {
            return Ok(entry);
        }
        let (origins, at_least) = self.find(stream, &config.filters, config.start).await?;
        let plain = format!("{name}.{}", config.name);
        let topics = [name.to_string(), topic.name.clone()];
        let partitions = stream.config.partitions;
        let used = groups::has_committed(&self.link, &plain, &topics, partitions).await?;
        let now = nanos(SystemTime::now());
        // What an earlier consumer of this name left behind is none of this one's.
        let fresh = made && !used;
        let (group, epoch) = if fresh { (plain, 0) } else { (format!("{plain}.{now:x}"), now) };
        let mut entry = ConsumerEntry {
            config: config.clone(),
            created: SystemTime::now(),
            paused_until: None,
            group,
            epoch,
            placed: false,
            origins,
            at_least,
            moves: 0,
        };
        entry.placed = self.publish_origins(stream, &entry).await;
        self.catalog.put_consumer(name, &entry).await?;
        self.entry(name, &config.name)
    }

    /// Looks up a start, once and for all.
    async fn find(
        &self,
        stream: &StreamEntry,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<(Vec<Origin>, u64)> {
        let (stream, filters) = (stream.clone(), filters.to_vec());
        let stop = self.link.threads.stop().clone();
        let find = self.link.with_client(move |client| {
            Beginning::find(client, &stream, &filters, start, &stop)?.origins(&stream.config)
        });
        find.await
    }

    /// Two create a consumer at once, and one makes its topic: the other takes what that declared.
    async fn made_by_another(
        &self,
        stream: &StreamName,
        name: &ConsumerName,
    ) -> Option<Arc<ConsumerEntry>> {
        let mut changes = self.catalog.watch();
        let known = changes.wait_for(|_| self.catalog.consumer(stream, name).is_some());
        let _ = tokio::time::timeout(MAKER_LIMIT, known).await;
        self.catalog.consumer(stream, name)
    }

    /// Commits where the group begins, for those who measure lag from outside, and so that a
    /// position that is lost later is missed. Members read the beginning in the catalog: a failure,
    /// which is false, does no other harm.
    async fn publish_origins(&self, stream: &StreamEntry, entry: &ConsumerEntry) -> bool {
        let name = stream.config.name.as_str();
        let placed = groups::commit(&self.link, &entry.group, name, &entry.origins).await;
        if let Err(error) = &placed {
            tracing::warn!(group = entry.group, %error, "the group's beginning is not committed");
        }
        placed.is_ok()
    }

    /// See [`crate::driver::Driver::consumer_info`].
    pub(super) async fn info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        let of = streams::fitting(&self.link, &self.catalog, stream).await?;
        self.catalog.refresh().await?;
        let entry = self.fitting(&of, consumer)?;
        let member = self.member(stream, consumer);
        standing::info(&self.link, &of, &entry, member.as_deref(), false).await
    }

    /// See [`crate::driver::Driver::consumers`].
    pub(super) async fn list(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        let of = streams::fitting(&self.link, &self.catalog, stream).await?;
        self.catalog.refresh().await?;
        let mut infos = Vec::new();
        for entry in self.catalog.consumers(stream) {
            let member = self.member(stream, &entry.config.name);
            // One that has lost its positions does not hide the others.
            let info = standing::info(&self.link, &of, &entry, member.as_deref(), true).await?;
            infos.push(info);
        }
        Ok(infos)
    }

    /// See [`crate::driver::Driver::delete_consumer`]. Its members in other processes end when
    /// they read of it; until then the group stays behind, of no use to anyone.
    pub(super) async fn delete(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        self.catalog.refresh().await?;
        let entry = self.entry(stream, consumer)?;
        self.catalog.remove_consumer(stream, consumer).await?;
        if let Some(member) = self.member(stream, consumer) {
            member.ended().await;
        }
        groups::delete(&self.link, &entry.group).await;
        let topic = retry::topic(stream.as_str(), consumer.as_str());
        match topics::delete(&self.link, &topic).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes what the stream's consumers have beside the stream.
    pub(super) async fn delete_all(&self, stream: &StreamName) -> Result<()> {
        self.catalog.refresh().await?;
        for entry in self.catalog.consumers(stream) {
            match self.delete(stream, &entry.config.name).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// See [`crate::driver::Driver::pause_consumer`].
    pub(super) async fn pause(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        self.catalog.refresh().await?;
        let mut entry = (*self.entry(stream, consumer)?).clone();
        entry.paused_until = until;
        self.catalog.put_consumer(stream, &entry).await?;
        self.wake(stream, consumer);
        Ok(())
    }

    /// See [`crate::driver::Driver::seek_consumer`]. The consumer goes on as another group, so that
    /// no member of the one before it can undo the move.
    pub(super) async fn seek(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        let of = streams::fitting(&self.link, &self.catalog, stream).await?;
        self.catalog.refresh().await?;
        let before = self.entry(stream, consumer)?;
        let (origins, at_least) = self.find(&of, &before.config.filters, to).await?;
        let epoch = nanos(SystemTime::now()).max(before.epoch + 1);
        let group = format!("{stream}.{consumer}.{epoch:x}");
        let moves = before.moves + 1;
        let mut entry =
            ConsumerEntry { group, epoch, origins, at_least, moves, ..(*before).clone() };
        entry.placed = self.publish_origins(&of, &entry).await;
        self.catalog.put_consumer(stream, &entry).await?;
        if let Some(member) = self.member(stream, consumer) {
            member.fence();
        }
        // Its members are still leaving it.
        let (link, group) = (self.link.clone(), before.group.clone());
        self.tasks.spawn(async move { groups::delete(&link, &group).await });
        Ok(())
    }

    /// See [`crate::driver::Driver::bind`]. All who bind a consumer through one connection share
    /// one member of its group.
    pub(super) async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<Arc<Member>> {
        let of = streams::fitting(&self.link, &self.catalog, stream).await?;
        self.catalog.refresh().await?;
        let entry = self.fitting(&of, consumer)?;
        let mut members = self.members();
        let key = (stream.clone(), consumer.clone());
        if let Some(member) = members.get(&key).and_then(Weak::upgrade).filter(|m| m.is_alive()) {
            return Ok(member);
        }
        members.retain(|_, member| member.strong_count() > 0);
        let topics = [stream.to_string(), retry::topic(stream.as_str(), consumer.as_str())];
        let (stream, consumer) = key.clone();
        let names = Names { stream, consumer, topics, declared: of };
        let Self { link, publisher, catalog, tasks, .. } = self;
        let member = Member::join(link, publisher, catalog, names, &entry, tasks)?;
        members.insert(key, Arc::downgrade(&member));
        Ok(member)
    }

    /// This connection's member, if the consumer is bound.
    pub(super) fn member(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Option<Arc<Member>> {
        self.members().get(&(stream.clone(), consumer.clone())).and_then(Weak::upgrade)
    }

    /// The consumer of a stream that counts with the partitions it had when the consumer was made.
    fn fitting(&self, of: &StreamEntry, consumer: &ConsumerName) -> Result<Arc<ConsumerEntry>> {
        let StreamConfig { name, partitions, .. } = &of.config;
        let entry = self.entry(name, consumer)?;
        match u32::try_from(entry.origins.len()) {
            Ok(counted) if counted != *partitions => Err(refusal(name, counted, *partitions)),
            _ => Ok(entry),
        }
    }

    fn entry(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<Arc<ConsumerEntry>> {
        self.catalog.consumer(stream, consumer).ok_or_else(|| {
            Error::not_found(format!("there is no consumer {consumer} on stream {stream}"))
        })
    }

    fn wake(&self, stream: &StreamName, consumer: &ConsumerName) {
        if let Some(member) = self.member(stream, consumer) {
            member.wake();
        }
    }

    fn members(
        &self,
    ) -> std::sync::MutexGuard<'_, BTreeMap<(StreamName, ConsumerName), Weak<Member>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Retries are kept until they are settled, however long that takes, on as many partitions as the
/// stream has.
fn retry_topic(stream: &StreamEntry, consumer: &ConsumerName) -> Topic {
    let stream = &stream.config;
    let bytes = stream.max_message_bytes.saturating_add(super::settings::RECORD_OVERHEAD);
    let bytes = bytes.max(super::settings::BATCH_BYTES);
    let config = [
        ("cleanup.policy", String::from("delete")),
        ("retention.ms", String::from("-1")),
        ("retention.bytes", String::from("-1")),
        ("max.message.bytes", bytes.to_string()),
    ];
    Topic {
        name: retry::topic(stream.name.as_str(), consumer.as_str()),
        partitions: stream.partitions,
        replicas: Some(stream.replicas),
        config: config.into(),
    }
}

fn check(config: &ConsumerConfig) -> Result<()> {
    let name = &config.name;
    for (at, filter) in config.filters.iter().enumerate() {
        if let Some(other) = config.filters.iter().skip(at + 1).find(|o| o.overlaps(filter)) {
            return Err(Error::invalid(format!(
                "filters {filter} and {other} of consumer {name} overlap: keep the wider one"
            )));
        }
    }
    Ok(())
}

/// What cannot be changed on a consumer that exists.
fn check_drift(has: &ConsumerConfig, wanted: &ConsumerConfig) -> Result<()> {
    let name = &wanted.name;
    let differs = |field: &str, has: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
        let what = format!("consumer {name} has {field} {has:?} and cannot get {wanted:?}");
        Err(Error::new(ErrorKind::Mismatch, format!("{what}: remove it first, or keep it")))
    };
    if has.start != wanted.start {
        return differs("start", &has.start, &wanted.start);
    }
    if has.filters != wanted.filters {
        return differs("filters", &has.filters, &wanted.filters);
    }
    Ok(())
}
