//! A topology as a TOML file declares it: the other way of `file.rs`.

use std::time::Duration;

use toml::{Table, Value};

use super::Topology;
use crate::config::{BucketConfig, ConsumerConfig, Placement, Start, StreamConfig};
use crate::difference::{retention, storage, when_full};
use crate::error::{Error, Result};
use crate::name::SubjectFilter;

impl Topology {
    /// The topology as text that [`Topology::parse`] reads as the same; fields that have their
    /// default are left out. A consumer of a stream that is not part of it is
    /// [`crate::ErrorKind::Invalid`], because a file declares it below its stream.
    pub fn to_toml(&self) -> Result<String> {
        let mut streams = Table::new();
        for config in &self.streams {
            let mut section = stream(config)?;
            let mut consumers = Table::new();
            for (_, config) in self.consumers.iter().filter(|(of, _)| *of == config.name) {
                consumers.insert(config.name.to_string(), consumer(config)?.into());
            }
            put(&mut section, "consumers", consumers, Table::new());
            streams.insert(config.name.to_string(), section.into());
        }
        for (of, config) in &self.consumers {
            if !streams.contains_key(of.as_str()) {
                let what = format!("consumer {} is of stream {of}, which is not", config.name);
                return Err(Error::invalid(format!("{what} part of the topology: add it")));
            }
        }
        let mut buckets = Table::new();
        for config in &self.buckets {
            buckets.insert(config.name.to_string(), bucket(config)?.into());
        }
        let mut file = Table::new();
        put(&mut file, "streams", streams, Table::new());
        put(&mut file, "buckets", buckets, Table::new());
        Ok(file.to_string())
    }
}

fn stream(config: &StreamConfig) -> Result<Table> {
    let base = StreamConfig::new(config.name.clone(), Vec::new());
    let mut section = Table::new();
    section.insert("subjects".to_owned(), filters(&config.subjects));
    put(&mut section, "retention", retention(&config.retention), retention(&base.retention));
    put(&mut section, "when-full", when_full(&config.when_full), when_full(&base.when_full));
    put_some(&mut section, "max-bytes", config.max_bytes.map(size));
    put_some(&mut section, "max-messages", config.max_messages.map(number).transpose()?);
    put_some(&mut section, "max-age", config.max_age.map(span));
    let sizes = (size(config.max_message_bytes.into()), size(base.max_message_bytes.into()));
    put(&mut section, "max-message-bytes", sizes.0, sizes.1);
    let windows = (span(config.duplicate_window), span(base.duplicate_window));
    put(&mut section, "duplicate-window", windows.0, windows.1);
    put(&mut section, "max-consumers", config.max_consumers, base.max_consumers);
    put(&mut section, "replicas", config.replicas, base.replicas);
    put(&mut section, "storage", storage(&config.storage), storage(&base.storage));
    put(&mut section, "placement", placement(&config.placement), Table::new());
    put(&mut section, "partitions", config.partitions, base.partitions);
    put(&mut section, "delayed", config.delayed, base.delayed);
    Ok(section)
}

fn consumer(config: &ConsumerConfig) -> Result<Table> {
    let base = ConsumerConfig::new(config.name.clone());
    let mut section = Table::new();
    put(&mut section, "filters", filters(&config.filters), filters(&[]));
    put(&mut section, "start", start(config.start)?, start(base.start)?);
    put(&mut section, "ack-wait", span(config.ack_wait), span(base.ack_wait));
    put(&mut section, "max-unsettled", config.max_unsettled, base.max_unsettled);
    put_some(&mut section, "max-attempts", config.max_attempts);
    let metadata = config.metadata.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    put(&mut section, "metadata", metadata.collect::<Table>(), Table::new());
    Ok(section)
}

fn bucket(config: &BucketConfig) -> Result<Table> {
    let base = BucketConfig::new(config.name.clone());
    let mut section = Table::new();
    put_some(&mut section, "max-age", config.max_age.map(span));
    put_some(&mut section, "max-bytes", config.max_bytes.map(size));
    put(&mut section, "replicas", config.replicas, base.replicas);
    put(&mut section, "storage", storage(&config.storage), storage(&base.storage));
    put(&mut section, "placement", placement(&config.placement), Table::new());
    Ok(section)
}

/// Writes a field unless it has its default.
fn put<T: PartialEq + Into<Value>>(section: &mut Table, field: &str, has: T, default: T) {
    if has != default {
        section.insert(field.to_owned(), has.into());
    }
}

fn put_some(section: &mut Table, field: &str, has: Option<impl Into<Value>>) {
    if let Some(has) = has {
        section.insert(field.to_owned(), has.into());
    }
}

fn number(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::invalid(format!("{number} is too much for a file")))
}

/// In the largest unit that leaves no rest.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = |(shift, _): &&(u32, &str)| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match units.iter().find(exact) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

fn span(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

fn filters(filters: &[SubjectFilter]) -> Value {
    filters.iter().map(|filter| Value::from(filter.as_str())).collect::<Vec<_>>().into()
}

fn placement(placement: &Placement) -> Table {
    let Placement { cluster, tags } = placement;
    let mut section = Table::new();
    put_some(&mut section, "cluster", cluster.clone());
    put(&mut section, "tags", tags.clone(), Vec::new());
    section
}

fn start(start: Start) -> Result<Value> {
    let with = |name: &str, value: Value| Value::from(Table::from_iter([(name.to_owned(), value)]));
    Ok(match start {
        Start::Beginning => "beginning".into(),
        Start::New => "new".into(),
        Start::LastPerSubject => "last-per-subject".into(),
        Start::Sequence(sequence) => with("sequence", number(sequence)?.into()),
        Start::Time(time) => with("time", humantime::format_rfc3339_nanos(time).to_string().into()),
    })
}
