//! Streams: declared, observed, emptied, removed.

use async_nats::jetstream::stream::{
    self, Config, DiscardPolicy, Info, PurgeRequest, PurgeResponse, RetentionPolicy, StorageType,
};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

use super::consumers;
use super::create::{ATTEMPTS, INVALID_CONFIG, create_raw, unsettled};
use super::failure::Failure;
use super::link::Link;
use super::schedule;
use crate::config::{Placement, Retention, Storage, StreamConfig, StreamInfo, WhenFull};
use crate::creation::Creation;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{StreamName, SubjectFilter};

/// The server takes 0 for its own default and refuses less than this.
const SHORTEST: Duration = Duration::from_millis(100);
/// Where what was declared is kept if the server knows it by another name.
const WHEN_FULL: &str = "lg.when_full";
const REFUSE: &str = "refuse";

/// The answer to a removal.
#[derive(Deserialize)]
pub(super) struct Removed {}

/// See [`crate::driver::Driver::ensure_stream`].
pub(super) async fn ensure(link: &Link, config: &StreamConfig) -> Result<StreamInfo> {
    let (name, wanted) = (&config.name, wanted_of(link, config)?);
    let info = ensure_raw(link, name, &wanted).await?;
    if let Some(declared) = schedule::declared(name, &info.config) {
        consumers::read_declared(link, name, &declared).await?;
    }
    observed(name, info)
}

/// Creates or updates a stream to `wanted`, keeping what others set beside it.
pub(super) async fn ensure_raw(link: &Link, name: &StreamName, wanted: &Config) -> Result<Info> {
    for _ in 0..ATTEMPTS {
        let existing = match create_raw(link, name, wanted).await? {
            Creation::Created(info) => return Ok(info),
            Creation::Exists(existing) => existing,
        };
        let update = merged(name, &existing.config, wanted)?;
        if update == existing.config {
            return Ok(existing);
        }
        match link.api_repeated(&format!("STREAM.UPDATE.{name}"), &update).await {
            Ok(info) => return Ok(info),
            Err(failure) if failure.is_stream_missing() => {}
            Err(Failure::Api(code, why)) if code.0 == INVALID_CONFIG => {
                let what = format!("stream {name} cannot become what was asked for: {why}");
                return Err(Error::new(ErrorKind::Mismatch, what));
            }
            Err(failure) => return Err(failure.into_error(format!("update stream {name}"))),
        }
    }
    Err(unsettled(name))
}

/// See [`crate::driver::Driver::stream_info`].
pub(super) async fn info(link: &Link, name: &StreamName) -> Result<StreamInfo> {
    raw_info(link, name).await.and_then(|info| observed(name, info))
}

/// The stream in the server's own words.
pub(super) async fn raw_info(link: &Link, name: &StreamName) -> Result<Info> {
    match link.api_repeated(&format!("STREAM.INFO.{name}"), &()).await {
        Ok(info) => Ok(info),
        Err(failure) if failure.is_stream_missing() => Err(missing(name)),
        Err(failure) => Err(failure.into_error(format!("look at stream {name}"))),
    }
}

/// See [`crate::driver::Driver::delete_stream`].
pub(super) async fn delete(link: &Link, name: &StreamName) -> Result<()> {
    match link.api::<Removed>(&format!("STREAM.DELETE.{name}"), &()).await {
        Ok(Removed {}) => Ok(()),
        Err(failure) if failure.is_stream_missing() => Err(missing(name)),
        Err(failure) => Err(failure.into_error(format!("delete stream {name}"))),
    }
}

/// See [`crate::driver::Driver::purge`].
pub(super) async fn purge(link: &Link, name: &StreamName, filter: &SubjectFilter) -> Result<u64> {
    if filter.as_str() != ">" {
        return purge_matching(link, name, Some(filter)).await;
    }
    let config = raw_info(link, name).await?.config;
    let Some(declared) = schedule::declared(name, &config) else {
        return purge_matching(link, name, None).await;
    };
    // What waits for its time is not in the stream yet.
    let mut purged = 0;
    for filter in &declared {
        purged += purge_matching(link, name, Some(filter)).await?;
    }
    Ok(purged)
}

async fn purge_matching(
    link: &Link,
    name: &StreamName,
    filter: Option<&SubjectFilter>,
) -> Result<u64> {
    let filter = filter.map(SubjectFilter::to_string);
    let request = PurgeRequest { filter, ..PurgeRequest::default() };
    match link.api::<PurgeResponse>(&format!("STREAM.PURGE.{name}"), &request).await {
        Ok(done) => Ok(done.purged),
        Err(failure) if failure.is_stream_missing() => Err(missing(name)),
        Err(failure) => Err(failure.into_error(format!("purge stream {name}"))),
    }
}

pub(super) fn missing(name: &StreamName) -> Error {
    Error::not_found(format!("stream {name} does not exist"))
}

/// The stream in the server's own words, as this server takes it.
pub(super) fn wanted_of(link: &Link, config: &StreamConfig) -> Result<Config> {
    if config.subjects.is_empty() {
        // The server would take the stream's name for one.
        let what = format!("stream {} captures nothing: give it a subject", config.name);
        return Err(Error::invalid(what));
    }
    let allow_atomic_publish = link.client.is_server_compatible(2, 12, 0);
    Ok(Config { allow_atomic_publish, ..wanted(config)? })
}

fn wanted(config: &StreamConfig) -> Result<Config> {
    let StreamConfig { name, subjects, retention, when_full, max_bytes, max_messages, .. } = config;
    let limited = max_bytes.is_some() || max_messages.is_some();
    if config.delayed && *when_full == WhenFull::Refuse && limited {
        return Err(Error::invalid(format!(
            "stream {name} has delayed messages and a limit, where nats:// drops the oldest: \
             declare that, or no limit"
        )));
    }
    let mut subjects: Vec<String> = subjects.iter().map(SubjectFilter::to_string).collect();
    let mut metadata = HashMap::new();
    if config.delayed {
        subjects.push(schedule::waiting(name));
        if *when_full == WhenFull::Refuse {
            // Without a limit there is no difference; the server takes it in one way only.
            metadata.insert(WHEN_FULL.to_owned(), REFUSE.to_owned());
        }
    }
    let max_age = config.max_age.unwrap_or_default();
    let mut duplicate_window = config.duplicate_window.max(SHORTEST);
    if !max_age.is_zero() {
        duplicate_window = duplicate_window.min(max_age);
    }
    Ok(Config {
        name: name.to_string(),
        subjects,
        retention: match retention {
            Retention::Limits => RetentionPolicy::Limits,
            Retention::WorkQueue => RetentionPolicy::WorkQueue,
        },
        discard: match when_full {
            WhenFull::Refuse if !config.delayed => DiscardPolicy::New,
            WhenFull::DropOldest | WhenFull::Refuse => DiscardPolicy::Old,
        },
        max_bytes: limit(*max_bytes),
        max_messages: limit(*max_messages),
        max_messages_per_subject: -1,
        max_age,
        max_message_size: i32::try_from(config.max_message_bytes).unwrap_or(i32::MAX),
        duplicate_window,
        max_consumers: i32::try_from(config.max_consumers).unwrap_or(i32::MAX).max(1),
        num_replicas: usize::from(config.replicas.max(1)),
        storage: storage(config.storage),
        allow_direct: true,
        allow_rollup: true,
        allow_message_schedules: config.delayed,
        placement: Some(placement(&config.placement)),
        metadata,
        ..Config::default()
    })
}

pub(super) fn placement(placement: &Placement) -> stream::Placement {
    let Placement { cluster, tags } = placement.clone();
    stream::Placement { cluster, tags }
}

pub(super) fn anywhere(placement: &stream::Placement) -> bool {
    placement.cluster.is_none() && placement.tags.is_empty()
}

pub(super) fn storage(storage: Storage) -> StorageType {
    match storage {
        Storage::File => StorageType::File,
        Storage::Memory => StorageType::Memory,
    }
}

pub(super) fn limit(limit: Option<u64>) -> i64 {
    limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

/// `existing` with what this crate declares put in; an immutable difference is a mismatch.
fn merged(name: &StreamName, existing: &Config, wanted: &Config) -> Result<Config> {
    let mut differs = Vec::new();
    if existing.retention != wanted.retention {
        differs.push(format!("retention is {:?}, not {:?}", existing.retention, wanted.retention));
    }
    if existing.storage != wanted.storage {
        differs.push(format!("storage is {:?}, not {:?}", existing.storage, wanted.storage));
    }
    if existing.max_consumers != wanted.max_consumers {
        let (is, not) = (existing.max_consumers, wanted.max_consumers);
        differs.push(format!("max_consumers is {is}, not {not}"));
    }
    if existing.allow_message_schedules && !wanted.allow_message_schedules {
        differs.push(String::from("delayed is true, not false"));
    }
    if existing.mirror.is_some() {
        differs.push(String::from("it is a mirror"));
    }
    if !differs.is_empty() {
        let what = format!(
            "stream {name} exists and cannot be changed: {}: delete it or ask for what it is",
            differs.join(", ")
        );
        return Err(Error::new(ErrorKind::Mismatch, what));
    }
    let mut metadata = existing.metadata.clone();
    metadata.remove(WHEN_FULL);
    metadata.extend(wanted.metadata.clone());
    let placement = match &wanted.placement {
        Some(placement) if anywhere(placement) => None,
        Some(placement) => Some(placement.clone()),
        None => existing.placement.clone(),
    };
    Ok(Config {
        subjects: wanted.subjects.clone(),
        metadata,
        placement,
        discard: wanted.discard,
        max_bytes: wanted.max_bytes,
        max_messages: wanted.max_messages,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_age: wanted.max_age,
        max_message_size: wanted.max_message_size,
        duplicate_window: wanted.duplicate_window,
        num_replicas: wanted.num_replicas,
        allow_direct: wanted.allow_direct,
        allow_rollup: wanted.allow_rollup || existing.allow_rollup,
        allow_atomic_publish: wanted.allow_atomic_publish || existing.allow_atomic_publish,
        allow_message_schedules: wanted.allow_message_schedules,
        ..existing.clone()
    })
}

pub(super) fn observed(name: &StreamName, info: Info) -> Result<StreamInfo> {
    let (config, state, created) = (info.config, info.state, info.created);
    let known = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
    let shown = config.subjects.iter().filter(|subject| !schedule::is_waiting(name, subject));
    let subjects = shown.map(SubjectFilter::new).collect::<Result<_>>()?;
    let placement = config.placement.unwrap_or_default();
    let refuses = config.metadata.get(WHEN_FULL).is_some_and(|when_full| when_full == REFUSE);
    let config = StreamConfig {
        name: name.clone(),
        subjects,
        retention: match config.retention {
            RetentionPolicy::WorkQueue => Retention::WorkQueue,
            RetentionPolicy::Limits | RetentionPolicy::Interest => Retention::Limits,
        },
        when_full: match config.discard {
            DiscardPolicy::Old if !refuses => WhenFull::DropOldest,
            DiscardPolicy::Old | DiscardPolicy::New => WhenFull::Refuse,
        },
        max_bytes: known(config.max_bytes),
        max_messages: known(config.max_messages),
        max_age: (!config.max_age.is_zero()).then_some(config.max_age),
        max_message_bytes: u32::try_from(config.max_message_size)
            .ok()
            .filter(|size| *size > 0)
            .unwrap_or(u32::MAX),
        duplicate_window: config.duplicate_window,
        max_consumers: u32::try_from(config.max_consumers).unwrap_or(0),
        replicas: u8::try_from(config.num_replicas).unwrap_or(u8::MAX),
        storage: match config.storage {
            StorageType::File => Storage::File,
            StorageType::Memory => Storage::Memory,
        },
        placement: Placement { cluster: placement.cluster, tags: placement.tags },
        partitions: 1,
        delayed: config.allow_message_schedules,
    };
    // The server counts the first one of an empty stream from 0 or from what was purged.
    let first = if state.messages == 0 { state.last_sequence + 1 } else { state.first_sequence };
    Ok(StreamInfo {
        config,
        created: Some(created.into()),
        first_sequence: first,
        last_sequence: state.last_sequence,
        messages: state.messages,
        bytes: state.bytes,
        consumers: u64::try_from(state.consumer_count).unwrap_or(u64::MAX),
    })
}
