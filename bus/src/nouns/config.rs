//! Streams, consumers and buckets as data: what is declared, and what is read back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};

/// What a stream keeps.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{Retention, StreamConfig};
///
/// let tasks = StreamConfig { retention: Retention::WorkQueue, ..StreamConfig::parse("tasks", &["tasks"])? };
/// bus.ensure_stream(&tasks).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Everything, until a limit is reached.
    Limits,
    /// A message until it is settled once; consumers' filters must not overlap.
    WorkQueue,
}

/// What happens to a publish when a limit is reached.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{ErrorKind, Message, StreamConfig, WhenFull};
///
/// let config = StreamConfig { max_messages: Some(1), ..StreamConfig::parse("orders", &["orders.>"])? };
/// assert_eq!(config.when_full, WhenFull::Refuse, "nothing is lost in silence");
/// let orders = bus.ensure_stream(&config).await?;
/// orders.publish(Message::new("orders.created", "1")?).await?;
/// let refused = orders.publish(Message::new("orders.created", "2")?).await;
/// assert_eq!(refused.err().map(|error| error.kind()), Some(ErrorKind::Full));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest message makes room.
    DropOldest,
    /// The publish fails with [`crate::ErrorKind::Full`]: nothing that was accepted is lost.
    Refuse,
}

/// Where a stream or bucket is kept.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::{Storage, StreamConfig};
///
/// assert_eq!(StreamConfig::parse("orders", &["orders.>"])?.storage, Storage::File);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk; what survives is the server's fsync policy.
    File,
    /// In memory; gone with the server.
    Memory,
}

/// A stream, declared.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use std::time::Duration;
/// use bus::{StreamConfig, WhenFull};
///
/// let config = StreamConfig {
///     max_age: Some(Duration::from_secs(7 * 86_400)),
///     max_bytes: Some(1 << 30),
///     when_full: WhenFull::DropOldest,
///     ..StreamConfig::parse("orders", &["orders.>"])?
/// };
/// bus.ensure_stream(&config).await?;
/// bus.ensure_stream(&config).await?; // twice changes nothing
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StreamConfig {
    /// Its name.
    pub name: StreamName,
    /// What it captures; a subject belongs to at most one stream.
    pub subjects: Vec<SubjectFilter>,
    /// What it keeps.
    pub retention: Retention,
    /// What happens at a limit.
    pub when_full: WhenFull,
    /// At most this many bytes, if set.
    pub max_bytes: Option<u64>,
    /// At most this many messages, if set.
    pub max_messages: Option<u64>,
    /// Messages older than this are dropped, if set.
    pub max_age: Option<Duration>,
    /// A larger message is refused with [`crate::ErrorKind::TooLarge`].
    pub max_message_bytes: u32,
    /// How long an id is remembered.
    pub duplicate_window: Duration,
    /// At most this many consumers (a server default of 1000 would surprise: always set).
    pub max_consumers: u32,
    /// Copies of the stream in a cluster.
    pub replicas: u8,
    /// Where it is kept.
    pub storage: Storage,
    /// Which servers of a cluster may hold it.
    pub placement: Placement,
    /// How many ways it is split where the backend splits streams (Kafka). Order is then kept per
    /// key and not over the stream. A backend that keeps one order ignores it and reports 1.
    pub partitions: u32,
    /// True when it takes messages with [`crate::Message::not_before`]. Needs
    /// [`crate::Capability::DelayedDelivery`]; cannot be taken back.
    pub delayed: bool,
}

/// Which servers of a cluster may hold a stream or bucket; a backend without placement ignores it.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::{Placement, StreamConfig};
///
/// let near = Placement { cluster: Some("north".into()), tags: vec!["ssd".into()] };
/// let config = StreamConfig { replicas: 3, placement: near, ..StreamConfig::parse("orders", &["orders.>"])? };
/// # let _ = config;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// The cluster, by name; any where `None`.
    pub cluster: Option<String>,
    /// Tags that each of its servers has.
    pub tags: Vec<String>,
}

impl StreamConfig {
    /// A stream that captures `subjects`: file storage, one replica, one partition, no limit on
    /// bytes, messages or age, messages up to 1 MiB, ids remembered for two minutes, 100,000
    /// consumers, no delayed messages.
    pub fn new(name: StreamName, subjects: Vec<SubjectFilter>) -> Self {
        Self {
            name,
            subjects,
            retention: Retention::Limits,
            when_full: WhenFull::Refuse,
            max_bytes: None,
            max_messages: None,
            max_age: None,
            max_message_bytes: 1 << 20,
            duplicate_window: Duration::from_secs(120),
            max_consumers: 100_000,
            replicas: 1,
            storage: Storage::File,
            placement: Placement::default(),
            partitions: 1,
            delayed: false,
        }
    }

    /// The same from text, for programs and tests that write names down.
    pub fn parse(name: &str, subjects: &[&str]) -> Result<Self> {
        let subjects = subjects.iter().map(SubjectFilter::new).collect::<Result<_>>()?;
        Ok(Self::new(StreamName::new(name)?, subjects))
    }
}

/// A stream, observed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(bus::Message::new("orders.created", "1")?).await?;
/// let info = orders.info().await?;
/// assert_eq!((info.messages, info.last_sequence), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StreamInfo {
    /// As the backend has it.
    pub config: StreamConfig,
    /// When it was made, which tells it from an earlier or later stream of the same name; `None`
    /// where the backend does not keep it.
    pub created: Option<SystemTime>,
    /// The lowest sequence still held; `last_sequence + 1` when empty.
    pub first_sequence: u64,
    /// The highest sequence ever given; 0 before the first message.
    pub last_sequence: u64,
    /// Messages held.
    pub messages: u64,
    /// Bytes held, as the backend counts them.
    pub bytes: u64,
    /// Consumers that exist.
    pub consumers: u64,
}

/// Where a new consumer or reader begins.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::{Message, Start};
///
/// for body in ["1", "2", "3"] {
///     orders.publish(Message::new("orders.created", body)?).await?;
/// }
/// let late = bus.consumer("orders", "late").start(Start::Sequence(3)).open().await?;
/// assert_eq!(late.info().await?.pending, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message held.
    Beginning,
    /// After the newest message held now.
    New,
    /// At this sequence, or the next one held.
    Sequence(u64),
    /// At the first message taken at or after this time.
    Time(SystemTime),
    /// With the last message of each subject, then everything newer.
    LastPerSubject,
}

/// A durable consumer, declared.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::{ConsumerConfig, ConsumerName};
///
/// let config = ConsumerConfig { max_unsettled: 10, ..ConsumerConfig::new(ConsumerName::new("billing")?) };
/// bus.ensure_consumer("orders", &config).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerConfig {
    /// Its name.
    pub name: ConsumerName,
    /// What it gets; empty means everything. Filters must not overlap.
    pub filters: Vec<SubjectFilter>,
    /// Where it begins; fixed at creation.
    pub start: Start,
    /// A delivery that is not settled or extended for this long is delivered again.
    pub ack_wait: Duration,
    /// At most this many deliveries are out and unsettled.
    pub max_unsettled: u32,
    /// A message is delivered at most this many times; `None` for no limit.
    pub max_attempts: Option<u32>,
    /// Free text that is kept with the consumer, for people and for reconcilers.
    pub metadata: BTreeMap<String, String>,
}

impl ConsumerConfig {
    /// A consumer of everything from the beginning: leases of 30 seconds, 1000 unsettled, no
    /// limit on attempts.
    pub fn new(name: ConsumerName) -> Self {
        Self {
            name,
            filters: Vec::new(),
            start: Start::Beginning,
            ack_wait: Duration::from_secs(30),
            max_unsettled: 1000,
            max_attempts: None,
            metadata: BTreeMap::new(),
        }
    }
}

/// A durable consumer, observed.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # bus.consumer("orders", "billing").open().await?;
/// orders.publish(bus::Message::new("orders.created", "1")?).await?;
/// let info = bus.consumer_info("orders", "billing").await?;
/// assert_eq!((info.pending, info.unsettled, info.settled_sequence), (1, 0, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerInfo {
    /// As the backend has it.
    pub config: ConsumerConfig,
    /// When it was made.
    pub created: SystemTime,
    /// How often it was moved ([`crate::Bus::seek`]) since then. What it was given before a move
    /// may come again after it, as deliberately as the move was made.
    pub moves: u64,
    /// Matching messages that were never delivered.
    pub pending: u64,
    /// Deliveries that are out and unsettled, delayed retries included.
    pub unsettled: u64,
    /// The highest stream sequence that was delivered.
    pub delivered_sequence: u64,
    /// Every matching message at or below this stream sequence is settled.
    pub settled_sequence: u64,
    /// Nothing is delivered before this time, where it was paused.
    pub paused_until: Option<SystemTime>,
}

/// A key-value bucket, declared.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use std::time::Duration;
/// use bus::{BucketConfig, BucketName};
///
/// let config = BucketConfig { max_age: Some(Duration::from_secs(60)), ..BucketConfig::new(BucketName::new("tickets")?) };
/// let tickets = bus.ensure_kv(&config).await?;
/// tickets.create("a", "used").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BucketConfig {
    /// Its name.
    pub name: BucketName,
    /// Entries older than this vanish, if set.
    pub max_age: Option<Duration>,
    /// At most this many bytes, if set; then writes fail with [`crate::ErrorKind::Full`].
    pub max_bytes: Option<u64>,
    /// Copies in a cluster.
    pub replicas: u8,
    /// Where it is kept.
    pub storage: Storage,
    /// Which servers of a cluster may hold it.
    pub placement: Placement,
}

impl BucketConfig {
    /// A bucket on disk with one replica and no limits.
    pub fn new(name: BucketName) -> Self {
        Self {
            name,
            max_age: None,
            max_bytes: None,
            replicas: 1,
            storage: Storage::File,
            placement: Placement::default(),
        }
    }
}

/// A value and the revision it was written at.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let state = bus.ensure_kv(&bus::BucketConfig::new(bus::BucketName::new("state")?)).await?;
/// let revision = state.put("k", "v").await?;
/// let entry = state.get("k").await?.expect("just written");
/// assert_eq!((entry.key.as_str(), &entry.value[..], entry.revision), ("k", &b"v"[..], revision));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Subject,
    /// The value.
    pub value: bytes::Bytes,
    /// Grows with every write to the bucket; never repeats within a key.
    pub revision: u64,
    /// When it was written.
    pub created: SystemTime,
}

impl Entry {
    /// Reads the value as JSON; anything else is [`crate::ErrorKind::Invalid`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.value).map_err(|source| {
            let what = format!("the value of key {} is not the JSON that was expected", self.key);
            Error::with_source(ErrorKind::Invalid, what, source)
        })
    }
}
