//! What the catalog stores, as JSON. **Keep stable**: every version of this crate that uses a
//! cluster reads what the others wrote. New fields get a default; none changes its meaning.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::{
    BucketConfig, ConsumerConfig, Placement, Retention, Start, StreamConfig, WhenFull,
};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, ConsumerName, StreamName, SubjectFilter};

/// A stream as it was declared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StreamEntry {
    pub(super) config: StreamConfig,
    /// When the topic was made, in nanoseconds since 1970. One that is made anew under the same
    /// name starts its offsets over, and has another generation. 0 for a foreign topic.
    pub(super) generation: u64,
    /// Of a topic that was made for the stream: the subjects that it was made for, which may stand
    /// in the key's place. It never changes, so that whoever reads what was stored once knows how,
    /// also when the stream takes other subjects by now.
    pub(super) keyed: Vec<SubjectFilter>,
}

impl StreamEntry {
    /// The largest batch that the topic takes, in bytes. A topic that was made for a stream, or taken
    /// over for one, takes the largest that is sent.
    pub(super) fn largest_batch(&self) -> u32 {
        if self.generation == 0 { self.config.max_message_bytes } else { u32::MAX }
    }
}

/// A consumer as it was declared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConsumerEntry {
    pub(super) config: ConsumerConfig,
    pub(super) created: SystemTime,
    pub(super) paused_until: Option<SystemTime>,
    /// The group that it is to the cluster.
    pub(super) group: String,
    /// Another one each time it is made or moved: retries of an earlier one are void.
    pub(super) epoch: u64,
    /// Its group has a position in each partition since it was made or moved: where one is missing
    /// it was lost. False where that could not be committed, and before it was written down.
    pub(super) placed: bool,
    /// Where it begins in each partition of which its group has committed nothing.
    pub(super) origins: Vec<Origin>,
    /// Messages of a lower sequence are left out: it may begin where nothing is yet.
    pub(super) at_least: u64,
    /// How often it was moved.
    pub(super) moves: u64,
}

/// Where a consumer begins in a partition, as a commit would say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) offset: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) metadata: String,
}

/// A bucket as it was declared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BucketEntry {
    pub(super) config: BucketConfig,
    /// As [`StreamEntry::generation`].
    pub(super) generation: u64,
}

/// Something that the catalog stores under a key.
pub(super) trait Stored: Sized {
    fn to_json(&self) -> Result<Vec<u8>>;
}

#[derive(Serialize, Deserialize)]
struct StreamJson {
    subjects: Vec<String>,
    max_bytes: Option<u64>,
    max_age_ms: Option<u64>,
    max_message_bytes: u32,
    duplicate_window_ms: u64,
    max_consumers: u32,
    replicas: u8,
    partitions: u32,
    #[serde(default)]
    drop_oldest: bool,
    #[serde(default)]
    delayed: bool,
    #[serde(default)]
    placement_cluster: Option<String>,
    #[serde(default)]
    placement_tags: Vec<String>,
    generation: u64,
    #[serde(default)]
    keyed: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ConsumerJson {
    filters: Vec<String>,
    start: StartJson,
    ack_wait_ms: u64,
    max_unsettled: u32,
    max_attempts: Option<u32>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    created_ms: u64,
    #[serde(default)]
    paused_until_ms: Option<u64>,
    group: String,
    epoch: u64,
    #[serde(default)]
    placed: bool,
    origins: Vec<Origin>,
    #[serde(default)]
    at_least: u64,
    #[serde(default)]
    moves: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartJson {
    Beginning,
    New,
    Sequence(u64),
    /// Nanoseconds since 1970.
    Time(u64),
    LastPerSubject,
}

#[derive(Serialize, Deserialize)]
struct BucketJson {
    max_age_ms: Option<u64>,
    replicas: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement_cluster: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    placement_tags: Vec<String>,
    generation: u64,
}

impl StreamEntry {
    pub(super) fn from_json(name: &str, json: &[u8]) -> Result<Self> {
        let stored: StreamJson = parse(json)?;
        let filters =
            |texts: &[String]| texts.iter().map(SubjectFilter::new).collect::<Result<Vec<_>>>();
        let (subjects, keyed) = (filters(&stored.subjects)?, filters(&stored.keyed)?);
        let config = StreamConfig {
            retention: Retention::Limits,
            when_full: if stored.drop_oldest { WhenFull::DropOldest } else { WhenFull::Refuse },
            max_bytes: stored.max_bytes,
            max_age: stored.max_age_ms.map(Duration::from_millis),
            max_message_bytes: stored.max_message_bytes,
            duplicate_window: Duration::from_millis(stored.duplicate_window_ms),
            max_consumers: stored.max_consumers,
            replicas: stored.replicas,
            placement: Placement { cluster: stored.placement_cluster, tags: stored.placement_tags },
            partitions: stored.partitions.max(1),
            delayed: stored.delayed,
            ..StreamConfig::new(StreamName::new(name)?, subjects)
        };
        Ok(Self { config, generation: stored.generation, keyed })
    }
}

impl Stored for StreamEntry {
    fn to_json(&self) -> Result<Vec<u8>> {
        let config = &self.config;
        write(&StreamJson {
            subjects: config.subjects.iter().map(SubjectFilter::to_string).collect(),
            max_bytes: config.max_bytes,
            max_age_ms: config.max_age.map(millis),
            max_message_bytes: config.max_message_bytes,
            duplicate_window_ms: millis(config.duplicate_window),
            max_consumers: config.max_consumers,
            replicas: config.replicas,
            partitions: config.partitions,
            drop_oldest: config.when_full == WhenFull::DropOldest,
            delayed: config.delayed,
            placement_cluster: config.placement.cluster.clone(),
            placement_tags: config.placement.tags.clone(),
            generation: self.generation,
            keyed: self.keyed.iter().map(SubjectFilter::to_string).collect(),
        })
    }
}

impl ConsumerEntry {
    pub(super) fn from_json(name: &str, json: &[u8]) -> Result<Self> {
        let stored: ConsumerJson = parse(json)?;
        let config = ConsumerConfig {
            name: ConsumerName::new(name)?,
            filters: stored.filters.iter().map(SubjectFilter::new).collect::<Result<_>>()?,
            start: match stored.start {
                StartJson::Beginning => Start::Beginning,
                StartJson::New => Start::New,
                StartJson::Sequence(sequence) => Start::Sequence(sequence),
                StartJson::Time(nanos) => Start::Time(UNIX_EPOCH + Duration::from_nanos(nanos)),
                StartJson::LastPerSubject => Start::LastPerSubject,
            },
            ack_wait: Duration::from_millis(stored.ack_wait_ms),
            max_unsettled: stored.max_unsettled,
            max_attempts: stored.max_attempts,
            metadata: stored.metadata,
        };
        let time = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let (created, paused_until) = (time(stored.created_ms), stored.paused_until_ms.map(time));
        let ConsumerJson { group, epoch, placed, origins, at_least, moves, .. } = stored;
        let entry =
            Self { config, created, paused_until, group, epoch, placed, origins, at_least, moves };
        Ok(entry)
    }
}

impl Stored for ConsumerEntry {
    fn to_json(&self) -> Result<Vec<u8>> {
        let config = &self.config;
        write(&ConsumerJson {
            filters: config.filters.iter().map(SubjectFilter::to_string).collect(),
            start: match config.start {
                Start::Beginning => StartJson::Beginning,
                Start::New => StartJson::New,
                Start::Sequence(sequence) => StartJson::Sequence(sequence),
                Start::Time(time) => StartJson::Time(nanos(time)),
                Start::LastPerSubject => StartJson::LastPerSubject,
            },
            ack_wait_ms: millis(config.ack_wait),
            max_unsettled: config.max_unsettled,
            max_attempts: config.max_attempts,
            metadata: config.metadata.clone(),
            created_ms: nanos(self.created) / 1_000_000,
            paused_until_ms: self.paused_until.map(|time| nanos(time).div_ceil(1_000_000)),
            group: self.group.clone(),
            epoch: self.epoch,
            placed: self.placed,
            origins: self.origins.clone(),
            at_least: self.at_least,
            moves: self.moves,
        })
    }
}

impl BucketEntry {
    pub(super) fn from_json(name: &str, json: &[u8]) -> Result<Self> {
        let stored: BucketJson = parse(json)?;
        let config = BucketConfig {
            max_age: stored.max_age_ms.map(Duration::from_millis),
            replicas: stored.replicas,
            placement: Placement { cluster: stored.placement_cluster, tags: stored.placement_tags },
            ..BucketConfig::new(BucketName::new(name)?)
        };
        Ok(Self { config, generation: stored.generation })
    }
}

impl Stored for BucketEntry {
    fn to_json(&self) -> Result<Vec<u8>> {
        let Self { config, generation } = self;
        write(&BucketJson {
            max_age_ms: config.max_age.map(millis),
            replicas: config.replicas,
            placement_cluster: config.placement.cluster.clone(),
            placement_tags: config.placement.tags.clone(),
            generation: *generation,
        })
    }
}

/// Nanoseconds since 1970; they fit until the year 2554.
pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|source| {
        let what = format!("an entry of the catalog cannot be read: {source}");
        Error::with_source(ErrorKind::Corrupt, what, source)
    })
}

fn write(stored: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(stored).map_err(|source| {
        Error::with_source(ErrorKind::Backend, "an entry of the catalog cannot be written", source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_being_stored() {
        let config = StreamConfig {
            max_bytes: Some(1 << 30),
            when_full: WhenFull::DropOldest,
            max_age: Some(Duration::from_secs(60)),
            partitions: 6,
            delayed: true,
            placement: Placement { cluster: Some("a".into()), tags: vec!["ssd".into()] },
            ..StreamConfig::parse("s", &["a.>", "b.*"]).unwrap()
        };
        let keyed = vec![SubjectFilter::new("a.>").unwrap()];
        let stream = StreamEntry { config, generation: 1_795_000_000_000_000_001, keyed };
        assert_eq!(StreamEntry::from_json("s", &stream.to_json().unwrap()).unwrap(), stream);

        let starts = [Start::Beginning, Start::New, Start::Sequence(7), Start::LastPerSubject];
        let time = UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
        for start in starts.into_iter().chain([Start::Time(time)]) {
            let config = ConsumerConfig {
                start,
                filters: vec![SubjectFilter::all()],
                metadata: [("owner".to_owned(), "me".to_owned())].into(),
                max_attempts: Some(3),
                ..ConsumerConfig::new(ConsumerName::new("c").unwrap())
            };
            let origin = |offset, metadata: &str| Origin { offset, metadata: metadata.into() };
            let consumer = ConsumerEntry {
                config,
                created: time,
                paused_until: Some(time),
                group: "s.c".into(),
                epoch: 1_795_000_000_000_000_001,
                placed: true,
                origins: vec![origin(7, ""), origin(0, "lg1:AQ")],
                at_least: 9,
                moves: 2,
            };
            let json = consumer.to_json().unwrap();
            assert_eq!(ConsumerEntry::from_json("c", &json).unwrap(), consumer);
        }

        let mut config = BucketConfig::new(BucketName::new("b").unwrap());
        config.max_age = Some(Duration::from_secs(9));
        let bucket = BucketEntry { config, generation: 7 };
        assert_eq!(BucketEntry::from_json("b", &bucket.to_json().unwrap()).unwrap(), bucket);
    }

    #[test]
    fn what_the_first_version_wrote_is_still_read() {
        let stream = br#"{"subjects":["a.>"],"max_bytes":null,"max_age_ms":null,
            "max_message_bytes":1048576,"duplicate_window_ms":120000,"max_consumers":100000,
            "replicas":1,"partitions":3,"generation":5}"#;
        let stream = StreamEntry::from_json("s", stream).unwrap();
        let declared = StreamConfig::parse("s", &["a.>"]).unwrap();
        assert_eq!(stream.config, StreamConfig { partitions: 3, ..declared });
        assert!(stream.keyed.is_empty(), "its subjects are in headers");
        let consumer = br#"{"filters":[],"start":{"sequence":4},"ack_wait_ms":30000,
            "max_unsettled":1000,"max_attempts":null,"created_ms":1795000000000,
            "group":"s.c","epoch":0,"origins":[{"offset":4}]}"#;
        let consumer = ConsumerEntry::from_json("c", consumer).unwrap();
        assert_eq!(consumer.config.start, Start::Sequence(4));
        assert_eq!(consumer.origins, [Origin { offset: 4, metadata: String::new() }]);
        assert!(!consumer.placed, "what is missing may never have been there");
        let bucket =
            BucketEntry::from_json("b", br#"{"max_age_ms":1,"replicas":1,"generation":2}"#);
        assert_eq!(bucket.unwrap().generation, 2);
    }
}
