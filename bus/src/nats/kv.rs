//! Buckets, laid out as every NATS client lays them out: a stream `KV_<bucket>`, a subject
//! `$KV.<bucket>.<key>` per key, one message kept of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::datetime::DateTime;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::create::{check_usable, create_raw};
use super::direct::{self, Raw};
use super::feed::{Feed, Item};
use super::link::{Link, REQUEST_LIMIT};
use super::publisher::Publisher;
use super::streams;
use super::subjects;
use super::watch::Watch;
use crate::config::{BucketConfig, Entry, Start};
use crate::creation::Creation;
use crate::driver::{KvDriver, WatchDriver};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Expect, Message};
use crate::name::{BucketName, StreamName, Subject, SubjectFilter};

const OPERATION: &str = "KV-Operation";
const DELETE: &str = "DEL";
/// Set by the server in place of an operation, when it removes an entry itself.
const MARKER: &str = "Nats-Marker-Reason";
/// Ids are needed for as long as a lost answer is asked for, and cost memory.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(30);
/// A create looks again this often when the key is deleted and written by others meanwhile.
const CREATE_ATTEMPTS: u32 = 5;
/// Values of a page that are asked for at once.
const READS_AT_ONCE: usize = 64;

/// See [`crate::driver::Driver::create_bucket`].
pub(super) async fn create(link: &Link, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
    let (name, stream) = (&config.name, stream_name(&config.name)?);
    let creation = create_raw(link, &stream, &wanted(&stream, config)).await?;
    if let Creation::Exists(info) = &creation {
        check_usable(&stream, &info.config)?;
        check_captures(name, &info.config)?;
    }
    creation.try_map(|info| observed(name, &stream, info))
}

/// See [`crate::driver::Driver::ensure_bucket`].
pub(super) async fn ensure(link: &Link, config: &BucketConfig) -> Result<()> {
    let stream = stream_name(&config.name)?;
    streams::ensure_raw(link, &stream, &wanted(&stream, config)).await.map(|_| ())
}

/// The bucket's stream in the server's own words.
fn wanted(stream: &StreamName, config: &BucketConfig) -> Config {
    let BucketConfig { name, max_age, max_bytes, replicas, storage, placement } = config;
    let max_age = max_age.unwrap_or_default();
    let window = if max_age.is_zero() { DUPLICATE_WINDOW } else { DUPLICATE_WINDOW.min(max_age) };
    Config {
        name: stream.to_string(),
        subjects: Vec::from([format!("$KV.{name}.>")]),
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: streams::limit(*max_bytes),
        max_message_size: -1,
        max_consumers: 100_000,
        max_age,
        discard: DiscardPolicy::New,
        duplicate_window: window,
        num_replicas: usize::from((*replicas).max(1)),
        storage: streams::storage(*storage),
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        placement: Some(streams::placement(placement)),
        ..Config::default()
    }
}

/// A stream of a bucket's name that is none.
fn check_captures(name: &BucketName, has: &Config) -> Result<()> {
    let keys = format!("$KV.{name}.>");
    if has.subjects.contains(&keys) && has.retention == RetentionPolicy::Limits {
        return Ok(());
    }
    let what = format!("stream KV_{name} exists and is no bucket: it does not keep {keys}");
    Err(Error::new(ErrorKind::Mismatch, format!("{what}: delete it, or use another name")))
}

/// See [`crate::driver::Driver::bucket_info`].
pub(super) async fn info(link: &Link, name: &BucketName) -> Result<BucketConfig> {
    let stream = stream_name(name)?;
    let info = streams::raw_info(link, &stream).await;
    observed(name, &stream, info.map_err(|e| if e.is_not_found() { missing(name) } else { e })?)
}

fn observed(name: &BucketName, stream: &StreamName, info: Info) -> Result<BucketConfig> {
    let config = streams::observed(stream, info)?.config;
    Ok(BucketConfig {
        name: name.clone(),
        max_age: config.max_age,
        max_bytes: config.max_bytes,
        replicas: config.replicas,
        storage: config.storage,
        placement: config.placement,
    })
}

/// See [`crate::driver::Driver::delete_bucket`].
pub(super) async fn delete(link: &Link, name: &BucketName) -> Result<()> {
    let deleted = streams::delete(link, &stream_name(name)?).await;
    deleted.map_err(|error| if error.is_not_found() { missing(name) } else { error })
}

/// Bucket names are shorter than what a stream name may have left, except the longest.
fn stream_name(bucket: &BucketName) -> Result<StreamName> {
    StreamName::new(format!("KV_{bucket}"))
}

fn missing(name: &BucketName) -> Error {
    Error::not_found(format!("bucket {name} does not exist"))
}

/// An open bucket.
#[derive(Clone)]
pub(super) struct Bucket {
    link: Arc<Link>,
    publisher: Arc<Publisher>,
    stream: StreamName,
    prefix: String,
    /// With one replica every answer is the leader's; with more, a direct get may be a moment old.
    one_replica: bool,
    listed: Arc<Mutex<Option<Listed>>>,
}

/// The keys of a bucket as they were listed last.
struct Listed {
    /// The bucket as it was before the listing.
    version: Version,
    keys: Arc<[Subject]>,
}

/// Changes with each write and with each message that is removed.
#[derive(PartialEq, Eq)]
struct Version {
    created: DateTime,
    last: u64,
    messages: u64,
    bytes: u64,
}

impl Bucket {
    pub(super) async fn open(
        link: Arc<Link>,
        publisher: Arc<Publisher>,
        name: &BucketName,
    ) -> Result<Self> {
        let stream = stream_name(name)?;
        let info = streams::raw_info(&link, &stream).await;
        let info = info.map_err(|e| if e.is_not_found() { missing(name) } else { e })?;
        let one_replica = info.config.num_replicas <= 1;
        let (prefix, listed) = (format!("$KV.{name}."), Arc::default());
        Ok(Self { link, publisher, stream, prefix, one_replica, listed })
    }

    /// What stands on the key, a marker of a deletion included.
    async fn last(&self, key: &Subject) -> Result<Option<Raw>> {
        let query = json!({ "last_by_subj": format!("{}{key}", self.prefix) });
        if self.one_replica {
            direct::get_from_any(&self.link, &self.stream, &query).await
        } else {
            direct::get_from_leader(&self.link, &self.stream, &query).await
        }
    }

    async fn write(&self, message: Message) -> Result<u64> {
        Ok(self.publisher.publish(&self.stream, message).await?.sequence)
    }

    fn message(&self, key: &Subject, value: Bytes, expect: Option<u64>) -> Result<Message> {
        let mut message = Message::new(format!("{}{key}", self.prefix), value)?;
        message.expect = expect.map(Expect::LastSubjectSequence);
        Ok(message)
    }

    fn filter(&self, filter: &SubjectFilter) -> Result<SubjectFilter> {
        SubjectFilter::new(format!("{}{filter}", self.prefix))
    }

    /// A conflict that says what stands there now: revision 0 where nothing or a deletion does.
    async fn conflict(&self, key: &Subject) -> Result<Error> {
        let current = self.last(key).await?.filter(|raw| !is_deletion(raw.headers.as_ref()));
        let current = current.map_or(0, |raw| raw.sequence);
        let what = format!("key {key} is at revision {current}: read it and try again");
        Ok(Error::new(ErrorKind::Conflict { current: Some(current) }, what))
    }
}

#[async_trait]
impl KvDriver for Bucket {
    async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
        let found = self.last(key).await?.filter(|raw| !is_deletion(raw.headers.as_ref()));
        Ok(found.map(|raw| Entry {
            key: key.clone(),
            value: raw.payload,
            revision: raw.sequence,
            created: raw.timestamp,
        }))
    }

    async fn put(&self, key: &Subject, value: Bytes) -> Result<u64> {
        self.write(self.message(key, value, None)?).await
    }

    async fn update(&self, key: &Subject, value: Bytes, revision: u64) -> Result<u64> {
        let mut expected = revision;
        for _ in 0..CREATE_ATTEMPTS {
            match self.write(self.message(key, value.clone(), Some(expected))?).await {
                Err(error) if error.is_conflict() && revision == 0 => {}
                Err(error) if error.is_conflict() => return Err(self.conflict(key).await?),
                done => return done,
            }
            match self.last(key).await? {
                // Nothing stands there: it was removed since, and the next attempt may succeed.
                None => expected = 0,
                Some(raw) if is_deletion(raw.headers.as_ref()) => expected = raw.sequence,
                Some(_) => break,
            }
        }
        Err(self.conflict(key).await?)
    }

    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()> {
        if revision == Some(0) {
            return Err(self.conflict(key).await?);
        }
        if revision.is_none() && self.get(key).await?.is_none() {
            return Ok(());
        }
        let mut message = self.message(key, Bytes::new(), revision)?;
        message.headers.append(OPERATION, DELETE)?;
        match self.write(message).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(self.conflict(key).await?),
            Err(error) => Err(error),
        }
    }

    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
        let (mut feed, mut found) = (self.feed(filter).await?, BTreeMap::new());
        while !feed.in_step() {
            let Some(item) = feed.next_initial(Instant::now() + REQUEST_LIMIT).await? else {
                if feed.in_step() {
                    break;
                }
                let what = format!("the entries of {} did not come to an end", self.stream);
                return Err(Error::new(ErrorKind::Timeout, what));
            };
            let (key, entry) = self.entry(item)?;
            found.insert(key, entry.value());
        }
        let seen = |key: &Subject| found.contains_key(key);
        for (key, written) in self.overlooked(filter, &feed, seen).await? {
            found.insert(key, written.value());
        }
        Ok(found.into_values().flatten().collect())
    }

    /// The server tells the names of all keys at once, and the values one by one.
    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        let keys = self.keys().await?;
        let from = keys.partition_point(|key| after.is_some_and(|after| key <= after));
        let mut found = Vec::new();
        for part in keys.get(from..).unwrap_or_default().chunks(READS_AT_ONCE) {
            let reads: Vec<_> = part.iter().map(|key| self.get(key)).collect();
            // A key without a value was deleted.
            found.extend(try_join_all(reads).await?.into_iter().flatten());
            if found.len() >= max {
                break;
            }
        }
        found.truncate(max);
        Ok(found)
    }

    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
        let feed = self.feed(filter).await?;
        Ok(Box::new(Watch::new(self.clone(), filter.clone(), feed)))
    }
}

/// What a message of the bucket says about its key.
pub(super) enum Written {
    Value(Entry),
    Deletion { revision: u64 },
}

impl Written {
    fn value(self) -> Option<Entry> {
        match self {
            Self::Value(entry) => Some(entry),
            Self::Deletion { .. } => None,
        }
    }
}

impl Bucket {
    /// Every key that was ever written, sorted, deleted ones included. Listed anew when the bucket
    /// was changed since.
    async fn keys(&self) -> Result<Arc<[Subject]>> {
        // Held while asking, so that pages asked for at once list once.
        let mut listed = self.listed.lock().await;
        let Info { created, state, .. } = streams::raw_info(&self.link, &self.stream).await?;
        let (last, messages, bytes) = (state.last_sequence, state.messages, state.bytes);
        let version = Version { created, last, messages, bytes };
        if let Some(known) = listed.as_ref().filter(|known| known.version == version) {
            return Ok(known.keys.clone());
        }
        let all = self.filter(&SubjectFilter::all())?;
        let subjects = subjects::list(&self.link, &self.stream, &all).await?;
        let keys = subjects.iter().filter_map(|subject| self.key(subject.as_str()));
        let keys: Arc<[Subject]> = keys.collect();
        *listed = Some(Listed { version, keys: keys.clone() });
        Ok(keys)
    }

    async fn feed(&self, filter: &SubjectFilter) -> Result<Feed> {
        let filters = [self.filter(filter)?];
        Feed::open(self.link.clone(), &self.stream, &filters, Start::LastPerSubject).await
    }

    /// Reads a message of the bucket.
    pub(super) fn entry(&self, item: Item) -> Result<(Subject, Written)> {
        let (subject, revision) = (item.message.subject.as_str(), item.sequence);
        let key = self.key(subject).ok_or_else(|| {
            let what = format!("revision {revision} has the subject {subject:?}, which is no key");
            Error::new(ErrorKind::Corrupt, what)
        })?;
        if is_deletion(item.message.headers.as_ref()) {
            return Ok((key, Written::Deletion { revision }));
        }
        let (value, created) = (item.message.payload, item.timestamp);
        Ok((key.clone(), Written::Value(Entry { key, value, revision, created })))
    }

    fn key(&self, subject: &str) -> Option<Subject> {
        subject.strip_prefix(&self.prefix).map(Subject::received)
    }

    /// What a feed in step has not handed out, oldest first: what its server did not have yet, and
    /// what was overwritten between its opening and its turn: only the newest message of a key is
    /// kept, so it went to the end of the stream, and the feed cannot tell.
    pub(super) async fn overlooked(
        &self,
        filter: &SubjectFilter,
        feed: &Feed,
        seen: impl Fn(&Subject) -> bool + Send,
    ) -> Result<Vec<(Subject, Written)>> {
        let mut found =
            if self.one_replica { Vec::new() } else { self.behind(filter, feed).await? };
        let last = streams::raw_info(&self.link, &self.stream).await?.state.last_sequence;
        if last == feed.opened_at() {
            return Ok(found);
        }
        let told: BTreeSet<Subject> = found.iter().map(|(key, _)| key.clone()).collect();
        for subject in subjects::list(&self.link, &self.stream, &self.filter(filter)?).await? {
            if let Some(key) = self.key(subject.as_str())
                && !seen(&key)
                && !told.contains(&key)
                && let Some(entry) = self.get(&key).await?
            {
                found.push((key, Written::Value(entry)));
            }
        }
        Ok(found)
    }

    /// What the leader has between what the feed has handed out and its opening.
    async fn behind(&self, filter: &SubjectFilter, feed: &Feed) -> Result<Vec<(Subject, Written)>> {
        let (filter, mut found) = (self.filter(filter)?, Vec::new());
        let mut next = feed.position();
        while next <= feed.opened_at() {
            let query = json!({ "seq": next.max(1), "next_by_subj": filter.as_str() });
            let raw = direct::get_from_leader(&self.link, &self.stream, &query).await?;
            let Some(raw) = raw.filter(|raw| raw.sequence <= feed.opened_at()) else { break };
            next = raw.sequence + 1;
            let Some(key) = self.key(&raw.subject) else { continue };
            let written = match is_deletion(raw.headers.as_ref()) {
                true => Written::Deletion { revision: raw.sequence },
                false => Written::Value(Entry {
                    key: key.clone(),
                    value: raw.payload,
                    revision: raw.sequence,
                    created: raw.timestamp,
                }),
            };
            found.push((key, written));
        }
        Ok(found)
    }
}

/// True for a marker that says that the key has no value.
fn is_deletion(headers: Option<&HeaderMap>) -> bool {
    let Some(headers) = headers else { return false };
    let operation = headers.get(OPERATION).map(|operation| operation.as_str());
    matches!(operation, Some("DEL" | "PURGE")) || headers.get(MARKER).is_some()
}
