//! Durable consumers: declared, observed, removed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use async_nats::datetime;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use super::convert::rfc3339;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};
use super::schedule;
use super::streams::{self, Removed};
use crate::config::{ConsumerConfig, ConsumerInfo, Start};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName, SubjectFilter};

const EXISTS: u64 = 10148;
const NAME_EXISTS: u64 = 10013;
/// The server keeps its own notes in the metadata under this prefix.
const SERVER_METADATA: &str = "_nats.";
/// And this crate keeps there what was declared where the server has to be told something else:
/// the start of a consumer that was moved, how often it was, and filters that stand for everything.
const DECLARED_START: &str = "lg.start";
const MOVES: &str = "lg.moves";
const DECLARED_FILTERS: &str = "lg.filters";
const EVERYTHING: &str = "all";
const ENSURE_ATTEMPTS: u32 = 5;
const PAUSE_LOOK_EVERY: Duration = Duration::from_millis(20);
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
    let mut wanted = wanted(config)?;
    hide_waiting(link, stream, &mut wanted, &config.filters).await?;
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

pub(super) async fn raw_info(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
) -> Result<Info, Failure> {
    link.api_repeated(&format!("CONSUMER.INFO.{stream}.{name}"), &()).await
}

/// See [`crate::driver::Driver::consumers`]. Consumers made by others under names that this crate
/// does not allow, and ephemeral ones, are left out.
pub(super) async fn list(link: &Link, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
    let infos = raw_list(link, stream).await?;
    infos.into_iter().map(|(name, info)| observed(name, info)).collect()
}

async fn raw_list(link: &Link, stream: &StreamName) -> Result<BTreeMap<ConsumerName, Info>> {
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
                found.insert(name, info);
            }
        }
        offset += arrived;
        if arrived == 0 || offset >= page.total {
            return Ok(found);
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

/// See [`crate::driver::Driver::pause_consumer`].
pub(super) async fn pause(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
    until: Option<SystemTime>,
) -> Result<()> {
    #[derive(Deserialize)]
    struct Paused {}
    let body = match until {
        Some(until) => json!({ "pause_until": rfc3339(until)? }),
        None => json!(null),
    };
    match link.api_repeated::<Paused>(&format!("CONSUMER.PAUSE.{stream}.{name}"), &body).await {
        Ok(Paused {}) => wait_paused(link, stream, name, until).await,
        Err(failure) => Err(explained(stream, name, failure)),
    }
}

/// In a cluster one server takes the order and another hands out: waits until that one knows.
async fn wait_paused(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
    until: Option<SystemTime>,
) -> Result<()> {
    let deadline = Instant::now() + REQUEST_LIMIT;
    loop {
        let info = raw_info(link, stream, name).await;
        let info = info.map_err(|failure| explained(stream, name, failure))?;
        let has = info.config.pause_until.map(SystemTime::from);
        // A pause that is over may have been forgotten.
        if has == until || !info.paused && until.is_none_or(|until| until <= SystemTime::now()) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = format!("pause or resume consumer {name} on stream {stream}: its server");
            return Err(Error::new(
                ErrorKind::Timeout,
                format!("{what} has not heard of it yet: look at the consumer, and repeat"),
            ));
        }
        tokio::time::sleep(PAUSE_LOOK_EVERY).await;
    }
}

/// Keeps what waits in `stream` for its time from a consumer of everything.
async fn hide_waiting(
    link: &Link,
    stream: &StreamName,
    wanted: &mut Config,
    filters: &[SubjectFilter],
) -> Result<()> {
    let literal = |filter: &SubjectFilter| !filter.as_str().starts_with(['*', '>']);
    if !filters.is_empty() && filters.iter().all(literal) {
        return Ok(());
    }
    let config = streams::raw_info(link, stream).await?.config;
    let hidden = schedule::hide_waiting(stream, &config, filters)?;
    if hidden != filters {
        read_instead(wanted, &hidden);
    }
    Ok(())
}

/// Makes a consumer of everything one of `declared`, and notes that.
fn read_instead(config: &mut Config, declared: &[SubjectFilter]) {
    config.filter_subject.clear();
    config.filter_subjects.clear();
    set_filters(config, declared);
    config.metadata.insert(DECLARED_FILTERS.to_owned(), EVERYTHING.to_owned());
}

/// Lets the consumers of everything read what the stream captures now, and not what waits there.
pub(super) async fn read_declared(
    link: &Link,
    stream: &StreamName,
    declared: &[SubjectFilter],
) -> Result<()> {
    for (name, info) in raw_list(link, stream).await? {
        let mut config = info.config.clone();
        if !filters(&config).is_empty() {
            continue;
        }
        read_instead(&mut config, declared);
        if config != info.config {
            let request =
                CreateRequest { stream_name: stream.as_str(), config: &config, action: "update" };
            let operation = format!("CONSUMER.CREATE.{stream}.{name}");
            let updated = link.api_repeated::<Info>(&operation, &request).await;
            updated.map_err(|failure| explained(stream, &name, failure))?;
        }
    }
    Ok(())
}

pub(super) fn missing(stream: &StreamName, name: &ConsumerName) -> Error {
    Error::not_found(format!("consumer {name} on stream {stream} does not exist"))
}

pub(super) fn explained(stream: &StreamName, name: &ConsumerName, failure: Failure) -> Error {
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
        // Reported as the most there is where others set no limit.
        max_ack_pending: match *max_unsettled {
            u32::MAX => -1,
            most => i64::from(most.max(1)),
        },
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
    let (is, not) = (declared_start(existing), wanted.deliver_policy);
    if is != not {
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
    let kept = |name: &str| name == DECLARED_START || name == MOVES;
    metadata.retain(|name, _| name.starts_with(SERVER_METADATA) || kept(name));
    metadata.extend(wanted.metadata.clone());
    let mut merged = Config {
        ack_wait: wanted.ack_wait,
        max_deliver: wanted.max_deliver,
        max_ack_pending: wanted.max_ack_pending,
        metadata,
        ..existing.clone()
    };
    if reads_everything(wanted) {
        merged.filter_subject = wanted.filter_subject.clone();
        merged.filter_subjects = wanted.filter_subjects.clone();
    }
    Ok(merged)
}

/// Where the consumer was declared to begin, wherever it was moved since.
fn declared_start(config: &Config) -> DeliverPolicy {
    let noted = config.metadata.get(DECLARED_START);
    noted.and_then(|noted| serde_json::from_str(noted).ok()).unwrap_or(config.deliver_policy)
}

/// How often the consumer was moved.
fn moves(config: &Config) -> u64 {
    config.metadata.get(MOVES).and_then(|moves| moves.parse().ok()).unwrap_or(0)
}

/// The consumer as it is, noting that it is moved once more.
pub(super) fn counted(existing: &Config) -> Config {
    let mut counted = existing.clone();
    counted.metadata.insert(MOVES.to_owned(), (moves(existing) + 1).to_string());
    counted
}

/// The consumer made anew to begin at `to`, noting where it was declared to.
pub(super) fn moved(existing: &Config, to: DeliverPolicy) -> Config {
    let declared = serde_json::to_string(&declared_start(existing)).unwrap_or_default();
    let mut moved = Config { deliver_policy: to, ..existing.clone() };
    moved.metadata.retain(|name, _| !name.starts_with(SERVER_METADATA));
    moved.metadata.insert(DECLARED_START.to_owned(), declared);
    if moved.filter_subjects.is_empty() && moved.filter_subject.is_empty() {
        set_filters(&mut moved, &[]);
    }
    moved
}

fn reads_everything(config: &Config) -> bool {
    config.metadata.get(DECLARED_FILTERS).is_some_and(|filters| filters == EVERYTHING)
}

/// Sorted; nothing stands for everything.
fn filters(config: &Config) -> Vec<String> {
    if reads_everything(config) {
        return Vec::new();
    }
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
    let (start, moves, config) = (declared_start(&info.config), moves(&info.config), info.config);
    let paused_until = config.pause_until.filter(|_| info.paused).map(SystemTime::from);
    let mut metadata: BTreeMap<_, _> = config.metadata.into_iter().collect();
    let own = |name: &str| [DECLARED_START, MOVES, DECLARED_FILTERS].contains(&name);
    metadata.retain(|name, _| !name.starts_with(SERVER_METADATA) && !own(name));
    let config = ConsumerConfig {
        name,
        filters,
        start: match start {
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
        moves,
        pending: info.num_pending,
        unsettled: u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX),
        delivered_sequence: info.delivered.stream_sequence,
        settled_sequence: info.ack_floor.stream_sequence,
        paused_until,
    })
}
