//! Durable consumers: declared, observed, removed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::datetime;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::failure::Failure;
use super::link::Link;
use super::streams::{self, Removed};
use crate::config::{ConsumerConfig, ConsumerInfo, Start};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName, SubjectFilter};

const EXISTS: u64 = 10148;
const NAME_EXISTS: u64 = 10013;
/// The server keeps its own notes in the metadata under this prefix.
const SERVER_METADATA: &str = "_nats.";
const ENSURE_ATTEMPTS: u32 = 5;
/// Against a server that never comes to an end; a page holds up to 256.
const MOST_PAGES: usize = 100_000;

/// Creates or updates a consumer, as the server takes it.
#[derive(Serialize)]
pub(super) struct CreateRequest<'a> {
    pub(super) stream_name: &'a str,
    pub(super) config: &'a Config,
    pub(super) action: &'static str,
}

/// See [`crate::driver::Driver::ensure_consumer`].
pub(super) async fn ensure(
    link: &Link,
    stream: &StreamName,
    config: &ConsumerConfig,
) -> Result<ConsumerInfo> {
    let name = &config.name;
    let doing = || format!("ensure consumer {name} on stream {stream}");
    let wanted = wanted(config)?;
    for _ in 0..ENSURE_ATTEMPTS {
        let (action, merged) = match raw_info(link, stream, name).await {
            Ok(existing) => {
                let merged = merged(stream, name, &existing.config, &wanted)?;
                if merged == existing.config {
                    return observed(name.clone(), existing);
                }
                ("update", merged)
            }
            // The stream's absence comes out of the creation, by its own code.
            Err(failure) if failure.is_consumer_missing() => ("create", wanted.clone()),
            Err(failure) if failure.is_stream_missing() => return Err(streams::missing(stream)),
            Err(failure) => return Err(failure.into_error(doing())),
        };
        let request = CreateRequest { stream_name: stream.as_str(), config: &merged, action };
        let operation = format!("CONSUMER.CREATE.{stream}.{name}");
        match link.api_repeated::<Info>(&operation, &request).await {
            Ok(info) => return observed(name.clone(), info),
            // Someone else was faster; look again.
            Err(Failure::Api(code, _)) if code.0 == EXISTS || code.0 == NAME_EXISTS => {}
            Err(failure) if failure.is_consumer_missing() => {}
            Err(failure) if failure.is_stream_missing() => return Err(streams::missing(stream)),
            Err(failure) => return Err(failure.into_error(doing())),
        }
    }
    let what = format!("consumer {name} is made and removed by others at this moment: try again");
    Err(Error::new(ErrorKind::Unavailable, what))
}

/// See [`crate::driver::Driver::consumer_info`].
pub(super) async fn info(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
) -> Result<ConsumerInfo> {
    match raw_info(link, stream, name).await {
        Ok(info) => observed(name.clone(), info),
        Err(failure) => Err(explained(stream, name, failure)),
    }
}

async fn raw_info(link: &Link, stream: &StreamName, name: &ConsumerName) -> Result<Info, Failure> {
    link.api_repeated(&format!("CONSUMER.INFO.{stream}.{name}"), &()).await
}

/// See [`crate::driver::Driver::consumers`]. Consumers made by others under names that this crate
/// does not allow, and ephemeral ones, are left out.
pub(super) async fn list(link: &Link, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        consumers: Option<Vec<Info>>,
    }
    let mut found = BTreeMap::new();
    let mut offset = 0;
    for _ in 0..MOST_PAGES {
        let operation = format!("CONSUMER.LIST.{stream}");
        let page: Page = match link.api_repeated(&operation, &json!({ "offset": offset })).await {
            Ok(page) => page,
            Err(failure) if failure.is_stream_missing() => return Err(streams::missing(stream)),
            Err(failure) => {
                return Err(failure.into_error(format!("list the consumers of stream {stream}")));
            }
        };
        let consumers = page.consumers.unwrap_or_default();
        let arrived = consumers.len();
        for info in consumers.into_iter().filter(|info| info.config.durable_name.is_some()) {
            if let Ok(name) = ConsumerName::new(&info.name) {
                found.insert(name.clone(), observed(name, info)?);
            }
        }
        offset += arrived;
        if arrived == 0 || offset >= page.total {
            return Ok(found.into_values().collect());
        }
    }
    Err(Failure::Lost.into_error(format!("list the consumers of stream {stream}")))
}

/// See [`crate::driver::Driver::delete_consumer`].
pub(super) async fn delete(link: &Link, stream: &StreamName, name: &ConsumerName) -> Result<()> {
    match link.api::<Removed>(&format!("CONSUMER.DELETE.{stream}.{name}"), &()).await {
        Ok(Removed {}) => Ok(()),
        Err(failure) => Err(explained(stream, name, failure)),
    }
}

pub(super) fn missing(stream: &StreamName, name: &ConsumerName) -> Error {
    Error::not_found(format!("consumer {name} on stream {stream} does not exist"))
}

fn explained(stream: &StreamName, name: &ConsumerName, failure: Failure) -> Error {
    if failure.is_consumer_missing() {
        return missing(stream, name);
    }
    if failure.is_stream_missing() {
        return streams::missing(stream);
    }
    failure.into_error(format!("consumer {name} on stream {stream}"))
}

fn wanted(config: &ConsumerConfig) -> Result<Config> {
    let ConsumerConfig { name, filters, start, ack_wait, max_unsettled, max_attempts, metadata } =
        config;
    let mut wanted = Config {
        durable_name: Some(name.to_string()),
        name: Some(name.to_string()),
        deliver_policy: deliver_policy(*start)?,
        ack_policy: AckPolicy::Explicit,
        ack_wait: (*ack_wait).max(Duration::from_millis(1)),
        max_deliver: max_attempts.map_or(-1, i64::from),
        max_ack_pending: i64::from((*max_unsettled).max(1)),
        metadata: metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        ..Config::default()
    };
    set_filters(&mut wanted, filters);
    Ok(wanted)
}

/// Puts filters where the server wants them: one alone, several, and one in any case when it is to
/// find the last message of each subject.
pub(super) fn set_filters(config: &mut Config, filters: &[SubjectFilter]) {
    match filters {
        [] if config.deliver_policy == DeliverPolicy::LastPerSubject => {
            config.filter_subject = String::from(">");
        }
        [] => {}
        [one] => config.filter_subject = one.to_string(),
        several => config.filter_subjects = several.iter().map(|f| f.to_string()).collect(),
    }
}

pub(super) fn deliver_policy(start: Start) -> Result<DeliverPolicy> {
    Ok(match start {
        Start::Beginning => DeliverPolicy::All,
        Start::New => DeliverPolicy::New,
        Start::Sequence(sequence) => {
            DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) }
        }
        Start::Time(time) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let nanos = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
            let start_time = datetime::from_nanos(nanos)
                .map_err(|_| Error::invalid("the start time is too far in the future"))?;
            DeliverPolicy::ByStartTime { start_time }
        }
        Start::LastPerSubject => DeliverPolicy::LastPerSubject,
    })
}

/// `existing` with what may be updated put in; a different start or filter is a mismatch.
fn merged(
    stream: &StreamName,
    name: &ConsumerName,
    existing: &Config,
    wanted: &Config,
) -> Result<Config> {
    let mut differs = Vec::new();
    if existing.deliver_policy != wanted.deliver_policy {
        let (is, not) = (existing.deliver_policy, wanted.deliver_policy);
        differs.push(format!("start is {is:?}, not {not:?}"));
    }
    let (is, not) = (filters(existing), filters(wanted));
    if is != not {
        differs.push(format!("filters are {is:?}, not {not:?}"));
    }
    if existing.ack_policy != wanted.ack_policy {
        differs.push(format!("acks are {:?}, not explicit", existing.ack_policy));
    }
    if existing.deliver_subject.is_some() {
        differs.push(String::from("it is a push consumer"));
    }
    if !differs.is_empty() {
        let what = format!(
            "consumer {name} on stream {stream} exists and cannot be changed: {}: \
             take another name or delete it",
            differs.join(", ")
        );
        return Err(Error::new(ErrorKind::Mismatch, what));
    }
    let mut metadata = existing.metadata.clone();
    metadata.retain(|name, _| name.starts_with(SERVER_METADATA));
    metadata.extend(wanted.metadata.clone());
    Ok(Config {
        ack_wait: wanted.ack_wait,
        max_deliver: wanted.max_deliver,
        max_ack_pending: wanted.max_ack_pending,
        metadata,
        ..existing.clone()
    })
}

/// Sorted; nothing stands for everything.
fn filters(config: &Config) -> Vec<String> {
    let mut filters = config.filter_subjects.clone();
    if !config.filter_subject.is_empty() {
        filters.push(config.filter_subject.clone());
    }
    if filters.iter().any(|filter| filter == ">") {
        filters.clear();
    }
    filters.sort_unstable();
    filters
}

fn observed(name: ConsumerName, info: Info) -> Result<ConsumerInfo> {
    let filters = filters(&info.config).iter().map(SubjectFilter::new).collect::<Result<_>>()?;
    let config = info.config;
    let mut metadata: BTreeMap<_, _> = config.metadata.into_iter().collect();
    metadata.retain(|name, _| !name.starts_with(SERVER_METADATA));
    let config = ConsumerConfig {
        name,
        filters,
        start: match config.deliver_policy {
            DeliverPolicy::All => Start::Beginning,
            DeliverPolicy::New => Start::New,
            DeliverPolicy::ByStartSequence { start_sequence } => Start::Sequence(start_sequence),
            DeliverPolicy::ByStartTime { start_time } => Start::Time(start_time.into()),
            // This crate never makes the first of these; it is the closest that it can say.
            DeliverPolicy::Last | DeliverPolicy::LastPerSubject => Start::LastPerSubject,
        },
        ack_wait: config.ack_wait,
        max_unsettled: u32::try_from(config.max_ack_pending).unwrap_or(u32::MAX),
        max_attempts: u32::try_from(config.max_deliver).ok().filter(|attempts| *attempts > 0),
        metadata,
    };
    Ok(ConsumerInfo {
        config,
        created: info.created.into(),
        pending: info.num_pending,
        unsettled: u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX),
        delivered_sequence: info.delivered.stream_sequence,
        settled_sequence: info.ack_floor.stream_sequence,
        paused_until: None,
    })
}
