//! Declarations as JSON rows. **Keep stable**: fields may be added with a default, never changed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::{
    BucketConfig, ConsumerConfig, Placement, Retention, Start, Storage, StreamConfig, WhenFull,
};
use crate::error::Result;
use crate::name::{BucketName, ConsumerName, StreamName, SubjectFilter};

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StreamRow {
    name: String,
    subjects: Vec<String>,
    work_queue: bool,
    drop_oldest: bool,
    max_bytes: Option<u64>,
    max_messages: Option<u64>,
    max_age: Option<Duration>,
    max_message_bytes: u32,
    duplicate_window: Duration,
    max_consumers: u32,
    replicas: u8,
    cluster: Option<String>,
    tags: Vec<String>,
    delayed: bool,
    #[serde(default)]
    created: Option<SystemTime>,
}

impl StreamRow {
    pub(super) fn new(config: &StreamConfig, created: Option<SystemTime>) -> Self {
        let StreamConfig {
            name,
            subjects,
            retention,
            when_full,
            max_bytes,
            max_messages,
            max_age,
            max_message_bytes,
            duplicate_window,
            max_consumers,
            replicas,
            // What is written here is on disk, and has one partition.
            storage: _,
            placement: Placement { cluster, tags },
            partitions: _,
            delayed,
        } = config.clone();
        Self {
            name: name.to_string(),
            subjects: texts(&subjects),
            work_queue: retention == Retention::WorkQueue,
            drop_oldest: when_full == WhenFull::DropOldest,
            max_bytes,
            max_messages,
            max_age,
            max_message_bytes,
            duplicate_window,
            max_consumers,
            replicas,
            cluster,
            tags,
            delayed,
            created,
        }
    }

    pub(super) fn config(self) -> Result<(StreamConfig, Option<SystemTime>)> {
        let config = StreamConfig {
            name: StreamName::new(self.name)?,
            subjects: filters(self.subjects)?,
            retention: if self.work_queue { Retention::WorkQueue } else { Retention::Limits },
            when_full: if self.drop_oldest { WhenFull::DropOldest } else { WhenFull::Refuse },
            max_bytes: self.max_bytes,
            max_messages: self.max_messages,
            max_age: self.max_age,
            max_message_bytes: self.max_message_bytes,
            duplicate_window: self.duplicate_window,
            max_consumers: self.max_consumers,
            replicas: self.replicas,
            storage: Storage::File,
            placement: Placement { cluster: self.cluster, tags: self.tags },
            partitions: 1,
            delayed: self.delayed,
        };
        Ok((config, self.created))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConsumerRow {
    name: String,
    filters: Vec<String>,
    start: StartRow,
    ack_wait: Duration,
    max_unsettled: u32,
    max_attempts: Option<u32>,
    metadata: BTreeMap<String, String>,
    created: SystemTime,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StartRow {
    Beginning,
    New,
    Sequence(u64),
    Time(SystemTime),
    LastPerSubject,
}

impl ConsumerRow {
    pub(super) fn new(config: &ConsumerConfig, created: SystemTime) -> Self {
        let ConsumerConfig {
            name,
            filters,
            start,
            ack_wait,
            max_unsettled,
            max_attempts,
            metadata,
        } = config.clone();
        let start = match start {
            Start::Beginning => StartRow::Beginning,
            Start::New => StartRow::New,
            Start::Sequence(sequence) => StartRow::Sequence(sequence),
            Start::Time(time) => StartRow::Time(time),
            Start::LastPerSubject => StartRow::LastPerSubject,
        };
        let (name, filters) = (name.to_string(), texts(&filters));
        Self { name, filters, start, ack_wait, max_unsettled, max_attempts, metadata, created }
    }

    /// The declaration and when the consumer was made.
    pub(super) fn config(self) -> Result<(ConsumerConfig, SystemTime)> {
        let config = ConsumerConfig {
            name: ConsumerName::new(self.name)?,
            filters: filters(self.filters)?,
            start: match self.start {
                StartRow::Beginning => Start::Beginning,
                StartRow::New => Start::New,
                StartRow::Sequence(sequence) => Start::Sequence(sequence),
                StartRow::Time(time) => Start::Time(time),
                StartRow::LastPerSubject => Start::LastPerSubject,
            },
            ack_wait: self.ack_wait,
            max_unsettled: self.max_unsettled,
            max_attempts: self.max_attempts,
            metadata: self.metadata,
        };
        Ok((config, self.created))
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BucketRow {
    name: String,
    max_age: Option<Duration>,
    max_bytes: Option<u64>,
    replicas: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
}

impl BucketRow {
    pub(super) fn new(config: &BucketConfig) -> Self {
        let BucketConfig { name, max_age, max_bytes, replicas, storage: _, placement } =
            config.clone();
        let Placement { cluster, tags } = placement;
        Self { name: name.to_string(), max_age, max_bytes, replicas, cluster, tags }
    }

    pub(super) fn config(self) -> Result<BucketConfig> {
        let Self { name, max_age, max_bytes, replicas, cluster, tags } = self;
        let (name, placement) = (BucketName::new(name)?, Placement { cluster, tags });
        let storage = Storage::File;
        Ok(BucketConfig { name, max_age, max_bytes, replicas, storage, placement })
    }
}

fn texts(filters: &[SubjectFilter]) -> Vec<String> {
    filters.iter().map(SubjectFilter::to_string).collect()
}

fn filters(texts: Vec<String>) -> Result<Vec<SubjectFilter>> {
    texts.into_iter().map(SubjectFilter::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_read_as_they_were_written() {
        let mut stream = StreamConfig::parse("s", &["s.>", "t.*"]).unwrap();
        (stream.retention, stream.when_full) = (Retention::WorkQueue, WhenFull::DropOldest);
        (stream.max_bytes, stream.max_age) = (Some(1), Some(Duration::from_nanos(1_000_000_001)));
        stream.placement = Placement { cluster: Some("c".into()), tags: vec!["t".into()] };
        stream.delayed = true;
        let created = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let json = serde_json::to_string(&StreamRow::new(&stream, Some(created))).unwrap();
        let row: StreamRow = serde_json::from_str(&json).unwrap();
        assert_eq!(row.config().unwrap(), (stream.clone(), Some(created)));
        let earlier = json.replace(r#","created":"#, r#","unknown":"#);
        let row: StreamRow = serde_json::from_str(&earlier).unwrap();
        assert_eq!(row.config().unwrap(), (stream, None), "as an earlier version wrote it");

        let mut consumer = ConsumerConfig::new(ConsumerName::new("c").unwrap());
        consumer.metadata.insert("owner".into(), "é".into());
        for start in [
            Start::Beginning,
            Start::New,
            Start::Sequence(7),
            Start::Time(created),
            Start::LastPerSubject,
        ] {
            consumer.start = start;
            let json = serde_json::to_string(&ConsumerRow::new(&consumer, created)).unwrap();
            let row: ConsumerRow = serde_json::from_str(&json).unwrap();
            assert_eq!(row.config().unwrap(), (consumer.clone(), created));
        }

        let mut bucket = BucketConfig::new(BucketName::new("b").unwrap());
        bucket.max_bytes = Some(5);
        let json = serde_json::to_string(&BucketRow::new(&bucket)).unwrap();
        assert_eq!(json, r#"{"name":"b","max_age":null,"max_bytes":5,"replicas":1}"#);
        let read = |json: &str| serde_json::from_str::<BucketRow>(json).unwrap().config().unwrap();
        assert_eq!(read(&json), bucket);
        bucket.placement = Placement { cluster: Some("c".into()), tags: vec!["t".into()] };
        assert_eq!(read(&serde_json::to_string(&BucketRow::new(&bucket)).unwrap()), bucket);
    }
}
