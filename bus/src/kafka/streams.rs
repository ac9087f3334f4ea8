//! Streams: declared, observed, emptied, removed. A stream is a topic of the same name, and an
//! entry of the catalog; a topic without an entry is a foreign one, and its declaration is read
//! off the topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::NAME;
use super::catalog::Catalog;
use super::consumers::Consumers;
use super::entry::{StreamEntry, nanos};
use super::link::Link;
use super::sequence::Place;
use super::settings::{BATCH_BYTES, LARGEST_MESSAGE, RECORD_OVERHEAD};
use super::topics::{self, Shape, Topic};
use crate::capability::Capability;
use crate::config::{Retention, Storage, StreamConfig, StreamInfo, WhenFull};
use crate::creation::Creation;
use crate::error::unsupported;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{StreamName, Subject, SubjectFilter};

/// See [`crate::driver::Driver::create_stream`].
pub(super) async fn create(
    link: &Arc<Link>,
    catalog: &Catalog,
    consumers: &Consumers,
    config: &StreamConfig,
) -> Result<Creation<StreamInfo>> {
    let config = &StreamConfig { replicas: config.replicas.max(1), ..config.clone() };
    check(config)?;
    catalog.refresh().await?;
    let name = &config.name;
    if topics::look(link, name.as_str()).await?.is_none()
        && make(link, catalog, consumers, config).await?
    {
        return info(link, catalog, name).await.map(Creation::Created);
    }
    // Whoever made it declares it right after; a foreign one is read off its topic.
    catalog.await_declared(|| catalog.stream(name)).await;
    info(link, catalog, name).await.map(Creation::Exists)
}

/// See [`crate::driver::Driver::ensure_stream`].
pub(super) async fn ensure(
    link: &Arc<Link>,
    catalog: &Catalog,
    consumers: &Consumers,
    config: &StreamConfig,
) -> Result<StreamInfo> {
    let config = &StreamConfig { replicas: config.replicas.max(1), ..config.clone() };
    catalog.refresh().await?;
    if let Some(entry) = catalog.stream(&config.name) {
        check_drift(&entry.config, config)?;
    }
    check(config)?;
    let name = &config.name;
    if !make(link, catalog, consumers, config).await? {
        let shape = topics::look(link, name.as_str()).await?.ok_or_else(|| missing(name))?;
        check_shape(config, shape)?;
        adopt(link, catalog, config, &topic(config)).await?;
    }
    info(link, catalog, name).await
}

/// Makes the topic and its entry unless there is a topic of this name. True if this call did.
async fn make(
    link: &Arc<Link>,
    catalog: &Catalog,
    consumers: &Consumers,
    config: &StreamConfig,
) -> Result<bool> {
    for other in catalog.streams() {
        check_apart(config, &other.config)?;
    }
    if !topics::ensure_exists(link, &topic(config)).await? {
        return Ok(false);
    }
    link.shapes.forget(&config.name);
    // A topic of this name was removed by others, if it has an entry: this is another one, and
    // its messages are none of that one's consumers'.
    consumers.delete_all(&config.name).await?;
    let (generation, keyed) = (nanos(SystemTime::now()), config.subjects.clone());
    catalog.put_stream(&StreamEntry { config: config.clone(), generation, keyed }).await?;
    Ok(true)
}

/// Brings a topic that exists, and its entry, to what is declared.
async fn adopt(
    link: &Arc<Link>,
    catalog: &Catalog,
    config: &StreamConfig,
    topic: &Topic,
) -> Result<()> {
    let name = &config.name;
    let entry = catalog.await_declared(|| catalog.stream(name)).await;
    let generation = entry.as_ref().map_or_else(|| nanos(SystemTime::now()), |e| e.generation);
    let keyed = entry.as_ref().map_or_else(Vec::new, |entry| entry.keyed.clone());
    if let Some(entry) = &entry {
        check_drift(&entry.config, config)?;
        if entry.config == *config {
            return Ok(());
        }
    }
    topics::configure(link, &topic.name, &topic.config).await?;
    catalog.put_stream(&StreamEntry { config: config.clone(), generation, keyed }).await
}

/// The stream's declaration, read off the topic where it is a foreign one; `NotFound` without
/// either.
pub(super) async fn entry(
    link: &Arc<Link>,
    catalog: &Catalog,
    name: &StreamName,
) -> Result<Arc<StreamEntry>> {
    if let Some(entry) = catalog.stream(name) {
        return Ok(entry);
    }
    catalog.refresh().await?;
    if let Some(entry) = catalog.stream(name) {
        return Ok(entry);
    }
    let shape = topics::look(link, name.as_str()).await?.ok_or_else(|| missing(name))?;
    let settings = topics::config(link, name.as_str()).await?;
    let number = |setting: &str| settings.get(setting).and_then(|has| has.value.parse().ok());
    let config = StreamConfig {
        max_age: number("retention.ms").map(Duration::from_millis),
        max_bytes: number("retention.bytes")
            .map(|each: u64| each.saturating_mul(shape.partitions.into())),
        when_full: WhenFull::DropOldest,
        max_message_bytes: number("max.message.bytes")
            .and_then(|bytes| u32::try_from(bytes).ok())
            .unwrap_or(LARGEST_MESSAGE),
        replicas: shape.replicas,
        partitions: shape.partitions,
        ..StreamConfig::new(
            name.clone(),
            Vec::from([SubjectFilter::from(&Subject::received(name.as_str()))]),
        )
    };
    Ok(Arc::new(StreamEntry { config, generation: 0, keyed: Vec::new() }))
}

/// The same; a mismatch where the topic has got other partitions since.
pub(super) async fn fitting(
    link: &Arc<Link>,
    catalog: &Catalog,
    name: &StreamName,
) -> Result<Arc<StreamEntry>> {
    let entry = entry(link, catalog, name).await?;
    link.shapes.check(link, &entry).await?;
    Ok(entry)
}

/// See [`crate::driver::Driver::stream_info`].
///
/// `messages` counts offsets: records that compaction or a transaction took out are counted too.
/// `bytes` is 0, because the client library cannot ask for it.
pub(super) async fn info(
    link: &Arc<Link>,
    catalog: &Catalog,
    name: &StreamName,
) -> Result<StreamInfo> {
    catalog.refresh().await?;
    let entry = fitting(link, catalog, name).await?;
    let marks = marks(link, &entry.config).await?;
    let partitions = entry.config.partitions;
    let places = |(partition, (low, high)): (usize, &(i64, i64))| {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        let at = move |offset| Place { partition, offset }.sequence(partitions);
        let (first, last) = ((low < high).then(|| at(*low)), (*high > 0).then(|| at(*high - 1)));
        (first, last)
    };
    let (firsts, lasts): (Vec<_>, Vec<_>) = marks.iter().enumerate().map(places).unzip();
    let last_sequence = lasts.into_iter().flatten().max().unwrap_or(0);
    let held = marks.iter().map(|(low, high)| (high - low).max(0).unsigned_abs());
    Ok(StreamInfo {
        first_sequence: firsts.into_iter().flatten().min().unwrap_or(last_sequence + 1),
        last_sequence,
        messages: held.sum(),
        bytes: 0,
        consumers: catalog.consumers(name).len() as u64,
        created: (entry.generation > 0)
            .then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(entry.generation)),
        config: entry.config.clone(),
    })
}

/// First offset and end of each partition of the stream.
pub(super) async fn marks(link: &Arc<Link>, config: &StreamConfig) -> Result<Vec<(i64, i64)>> {
    let (topic, partitions) = (config.name.to_string(), config.partitions);
    let look =
        link.with_client(move |client| topics::all_watermarks(client, &topic, partitions)).await;
    look.map_err(|error| if error.is_not_found() { missing(&config.name) } else { error })
}

/// See [`crate::driver::Driver::delete_stream`].
pub(super) async fn delete(link: &Arc<Link>, catalog: &Catalog, name: &StreamName) -> Result<()> {
    catalog.refresh().await?;
    let deleted = topics::delete(link, name.as_str()).await;
    link.shapes.forget(name);
    let known = catalog.stream(name).is_some();
    match deleted {
        // The entry of a topic that others removed goes all the same.
        Err(error) if error.is_not_found() && !known => return Err(missing(name)),
        Err(error) if !error.is_not_found() => return Err(error),
        _ => {}
    }
    for consumer in catalog.consumers(name) {
        catalog.remove_consumer(name, &consumer.config.name).await?;
    }
    if known { catalog.remove_stream(name).await } else { Ok(()) }
}

/// See [`crate::driver::Driver::purge`].
pub(super) async fn purge(
    link: &Arc<Link>,
    catalog: &Catalog,
    name: &StreamName,
    filter: &SubjectFilter,
) -> Result<u64> {
    if *filter != SubjectFilter::all() {
        let asked = format!("purging {filter} of stream {name}");
        return Err(unsupported(NAME, Capability::SelectivePurge, asked));
    }
    let entry = fitting(link, catalog, name).await?;
    let marks = marks(link, &entry.config).await?;
    let held = marks.iter().map(|(low, high)| (high - low).max(0).unsigned_abs()).sum();
    let ends: Vec<_> = (0..).zip(marks.into_iter().map(|(_, high)| high)).collect();
    topics::empty(link, name.as_str(), &ends).await?;
    Ok(held)
}

pub(super) fn missing(name: &StreamName) -> Error {
    Error::not_found(format!("stream {name} does not exist: create it first"))
}

/// What a stream's topic looks like.
fn topic(config: &StreamConfig) -> Topic {
    let partitions = config.partitions;
    let each = config.max_bytes.map(|bytes| bytes.div_ceil(u64::from(partitions)));
    let limit = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |n| n.to_string());
    let max_age_ms = config.max_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    // Half of three copies may be gone without a promise being broken.
    let in_sync = if config.replicas >= 3 { 2 } else { 1 };
    let largest = config.max_message_bytes.max(BATCH_BYTES) + RECORD_OVERHEAD;
    let settings = BTreeMap::from([
        ("cleanup.policy", "delete".to_owned()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
        ("min.insync.replicas", in_sync.to_string()),
        ("max.message.bytes", largest.to_string()),
        ("retention.ms", limit(max_age_ms)),
        ("retention.bytes", limit(each)),
    ]);
    let replicas = Some(config.replicas);
    Topic { name: config.name.to_string(), partitions, replicas, config: settings }
}

/// Refuses what can never be, before anything is attempted.
fn check(config: &StreamConfig) -> Result<()> {
    let name = &config.name;
    if config.subjects.is_empty() {
        return Err(Error::invalid(format!("stream {name} captures nothing: give it a subject")));
    }
    for (at, one) in config.subjects.iter().enumerate() {
        if let Some(other) = config.subjects.iter().skip(at + 1).find(|other| one.overlaps(other)) {
            return Err(Error::invalid(format!(
                "subjects {one} and {other} of stream {name} overlap: keep the wider one"
            )));
        }
    }
    if config.storage == Storage::Memory {
        let what = format!("stream {name} is to be kept in memory");
        return Err(Error::invalid(format!("{what}: kafka:// keeps every stream on disk")));
    }
    let refuse = |capability| Err(unsupported(NAME, capability, format!("stream {name}")));
    if config.retention == Retention::WorkQueue {
        return refuse(Capability::WorkQueue);
    }
    let refuses_bytes = config.max_bytes.is_some() && config.when_full == WhenFull::Refuse;
    if config.max_messages.is_some() || refuses_bytes {
        return refuse(Capability::ExactLimits);
    }
    if config.max_message_bytes > LARGEST_MESSAGE {
        let what = format!("stream {name} asks for messages of {} bytes", config.max_message_bytes);
        return Err(Error::invalid(format!("{what}: kafka:// takes up to {LARGEST_MESSAGE}")));
    }
    Ok(())
}

fn check_apart(config: &StreamConfig, other: &StreamConfig) -> Result<()> {
    if other.name == config.name {
        return Ok(());
    }
    for wanted in &config.subjects {
        if let Some(taken) = other.subjects.iter().find(|taken| taken.overlaps(wanted)) {
            return Err(Error::invalid(format!(
                "subject {wanted} of stream {} overlaps with {taken} of stream {}: \
                 a subject belongs to one stream",
                config.name, other.name
            )));
        }
    }
    Ok(())
}

/// What cannot be changed on a stream that exists.
fn check_drift(has: &StreamConfig, wanted: &StreamConfig) -> Result<()> {
    let name = &wanted.name;
    let differs = |field: &str, has: &dyn std::fmt::Debug, wanted: &dyn std::fmt::Debug| {
        let what = format!("stream {name} has {field} {has:?} and cannot get {wanted:?}");
        Err(Error::new(ErrorKind::Mismatch, format!("{what}: remove it first, or keep it")))
    };
    if has.partitions != wanted.partitions {
        return differs("partitions", &has.partitions, &wanted.partitions);
    }
    if has.retention != wanted.retention {
        return differs("retention", &has.retention, &wanted.retention);
    }
    if has.replicas != wanted.replicas {
        return differs("replicas", &has.replicas, &wanted.replicas);
    }
    if has.storage != wanted.storage {
        return differs("storage", &has.storage, &wanted.storage);
    }
    if has.max_consumers != wanted.max_consumers {
        return differs("max_consumers", &has.max_consumers, &wanted.max_consumers);
    }
    if has.delayed && !wanted.delayed {
        return differs("delayed", &has.delayed, &wanted.delayed);
    }
    Ok(())
}

/// A topic that exists has the partitions and copies that it has.
fn check_shape(config: &StreamConfig, shape: Shape) -> Result<()> {
    let differs = |field: &str, has: u32, wanted: u32| {
        let what = format!("topic {} has {has} {field}, not {wanted}", config.name);
        Err(Error::new(ErrorKind::Mismatch, what))
    };
    if shape.partitions != config.partitions {
        return differs("partitions", shape.partitions, config.partitions);
    }
    if shape.replicas != config.replicas {
        return differs("replicas", shape.replicas.into(), config.replicas.into());
    }
    Ok(())
}
