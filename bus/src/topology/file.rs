//! A topology as a TOML file writes it down.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, de};

use super::Topology;
use crate::config::{
    BucketConfig, ConsumerConfig, Placement, Retention, Start, Storage, StreamConfig, WhenFull,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ConsumerName, StreamName, SubjectFilter};

/// See [`Topology::parse`].
pub(super) fn parse(text: &str) -> Result<Topology> {
    let file: File = toml::from_str(text).map_err(|source| {
        let what = format!("the topology cannot be read: {}", source.to_string().trim_end());
        Error::with_source(ErrorKind::Invalid, what, source)
    })?;
    let mut topology = Topology::default();
    for (name, section) in file.streams {
        let name = StreamName::new(name)?;
        let inside = |error: Error| error.context(format!("stream {name}"));
        for (consumer, section) in &section.consumers {
            let consumer = section.config(consumer).map_err(inside)?;
            topology.consumers.push((name.clone(), consumer));
        }
        topology.streams.push(section.config(&name, &file.defaults).map_err(inside)?);
    }
    for (name, section) in file.buckets {
        topology.buckets.push(section.config(&name, &file.defaults)?);
    }
    Ok(topology)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    streams: BTreeMap<String, StreamSection>,
    #[serde(default)]
    buckets: BTreeMap<String, BucketSection>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    replicas: Option<u8>,
    storage: Option<StorageWord>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct StreamSection {
    subjects: Vec<String>,
    retention: Option<RetentionWord>,
    when_full: Option<WhenFullWord>,
    max_bytes: Option<ByteSize>,
    max_messages: Option<u64>,
    max_age: Option<Span>,
    max_message_bytes: Option<ByteSize>,
    duplicate_window: Option<Span>,
    max_consumers: Option<u32>,
    replicas: Option<u8>,
    storage: Option<StorageWord>,
    placement: Option<PlacementSection>,
    partitions: Option<u32>,
    #[serde(default)]
    delayed: bool,
    #[serde(default)]
    consumers: BTreeMap<String, ConsumerSection>,
}

impl StreamSection {
    fn config(self, name: &StreamName, defaults: &Defaults) -> Result<StreamConfig> {
        let subjects = filters(&self.subjects)?;
        let base = StreamConfig::new(name.clone(), subjects);
        let max_message_bytes = match self.max_message_bytes {
            Some(size) => u32::try_from(size.as_u64())
                .map_err(|_| Error::invalid(format!("max-message-bytes of {size} is too much")))?,
            None => base.max_message_bytes,
        };
        Ok(StreamConfig {
            retention: self.retention.map_or(base.retention, RetentionWord::meaning),
            when_full: self.when_full.map_or(base.when_full, WhenFullWord::meaning),
            max_bytes: self.max_bytes.map(|size| size.as_u64()),
            max_messages: self.max_messages,
            max_age: self.max_age.map(|span| span.0),
            max_message_bytes,
            duplicate_window: self.duplicate_window.map_or(base.duplicate_window, |span| span.0),
            max_consumers: self.max_consumers.unwrap_or(base.max_consumers),
            replicas: self.replicas.or(defaults.replicas).unwrap_or(base.replicas),
            storage: storage(self.storage, defaults),
            placement: self.placement.map(PlacementSection::meaning).unwrap_or_default(),
            partitions: self.partitions.unwrap_or(base.partitions),
            delayed: self.delayed,
            ..base
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ConsumerSection {
    #[serde(default)]
    filters: Vec<String>,
    start: Option<StartWord>,
    ack_wait: Option<Span>,
    max_unsettled: Option<u32>,
    max_attempts: Option<u32>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

impl ConsumerSection {
    fn config(&self, name: &str) -> Result<ConsumerConfig> {
        let base = ConsumerConfig::new(ConsumerName::new(name)?);
        Ok(ConsumerConfig {
            filters: filters(&self.filters)?,
            start: self.start.map_or(base.start, StartWord::meaning),
            ack_wait: self.ack_wait.map_or(base.ack_wait, |span| span.0),
            max_unsettled: self.max_unsettled.unwrap_or(base.max_unsettled),
            max_attempts: self.max_attempts,
            metadata: self.metadata.clone(),
            ..base
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct BucketSection {
    max_age: Option<Span>,
    max_bytes: Option<ByteSize>,
    replicas: Option<u8>,
    storage: Option<StorageWord>,
    placement: Option<PlacementSection>,
}

impl BucketSection {
    fn config(self, name: &str, defaults: &Defaults) -> Result<BucketConfig> {
        let base = BucketConfig::new(BucketName::new(name)?);
        Ok(BucketConfig {
            max_age: self.max_age.map(|span| span.0),
            max_bytes: self.max_bytes.map(|size| size.as_u64()),
            replicas: self.replicas.or(defaults.replicas).unwrap_or(base.replicas),
            storage: storage(self.storage, defaults),
            placement: self.placement.map(PlacementSection::meaning).unwrap_or_default(),
            ..base
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PlacementSection {
    cluster: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
}

impl PlacementSection {
    fn meaning(self) -> Placement {
        let Self { cluster, tags } = self;
        Placement { cluster, tags }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StorageWord {
    File,
    Memory,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RetentionWord {
    Limits,
    WorkQueue,
}

impl RetentionWord {
    fn meaning(self) -> Retention {
        match self {
            Self::Limits => Retention::Limits,
            Self::WorkQueue => Retention::WorkQueue,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WhenFullWord {
    DropOldest,
    Refuse,
}

impl WhenFullWord {
    fn meaning(self) -> WhenFull {
        match self {
            Self::DropOldest => WhenFull::DropOldest,
            Self::Refuse => WhenFull::Refuse,
        }
    }
}

/// `"new"`, or `{ sequence = 7 }`.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StartWord {
    Beginning,
    New,
    LastPerSubject,
    Sequence(u64),
    #[serde(deserialize_with = "moment")]
    Time(SystemTime),
}

impl StartWord {
    fn meaning(self) -> Start {
        match self {
            Self::Beginning => Start::Beginning,
            Self::New => Start::New,
            Self::LastPerSubject => Start::LastPerSubject,
            Self::Sequence(sequence) => Start::Sequence(sequence),
            Self::Time(time) => Start::Time(time),
        }
    }
}

/// A duration in words.
#[derive(Clone, Copy)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|source| {
            de::Error::custom(format!("{text:?} is no duration such as \"30s\": {source}"))
        })
    }
}

fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_rfc3339_weak(&text)
        .map_err(|source| de::Error::custom(format!("{text:?} is no time in RFC 3339: {source}")))
}

fn filters(texts: &[String]) -> Result<Vec<SubjectFilter>> {
    texts.iter().map(SubjectFilter::new).collect()
}

fn storage(own: Option<StorageWord>, defaults: &Defaults) -> Storage {
    match own.or(defaults.storage) {
        Some(StorageWord::Memory) => Storage::Memory,
        Some(StorageWord::File) | None => Storage::File,
    }
}
