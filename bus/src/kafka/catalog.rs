//! What Kafka has no place for: how streams, consumers and buckets were declared. It lives in one
//! compacted topic, a record for each, which every connection keeps as a table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;

use super::entry::{BucketEntry, ConsumerEntry, Stored, StreamEntry};
use super::link::Link;
use super::publisher::Publisher;
use super::table::{Progress, Rows, Table};
use super::topics::{self, Topic};
use crate::error::Result;
use crate::name::{BucketName, ConsumerName, StreamName};

/// Its topic; no stream can have this name, because of the dot. Keep stable: it is stored.
const TOPIC: &str = "lockgate.catalog";

/// How long a topic may be there before its declaration is.
const MAKER_LIMIT: Duration = Duration::from_secs(5);

/// The declarations, and the way to change them.
///
/// Changes made through this connection show when the call returns; those of others a moment after
/// they were made, and at once after [`Catalog::refresh`].
pub(super) struct Catalog {
    table: Table<Declared>,
    publisher: Arc<Publisher>,
}

impl Catalog {
    /// Opens the catalog, and makes it in a cluster that has none.
    pub(super) async fn open(link: &Arc<Link>, publisher: Arc<Publisher>) -> Result<Self> {
        topics::ensure_exists(link, &Topic::compacted(TOPIC, None)).await?;
        Ok(Self { table: Table::open(link, TOPIC, Declared::default()).await?, publisher })
    }

    /// Waits until what others declared before this call shows.
    pub(super) async fn refresh(&self) -> Result<()> {
        self.table.refresh().await
    }

    /// Tells whenever the catalog may have changed.
    pub(super) fn watch(&self) -> watch::Receiver<Progress> {
        self.table.subscribe()
    }

    /// What `look` finds, waiting a while for it: whoever made a topic declares it right after. A
    /// topic that others made is never declared.
    pub(super) async fn await_declared<T>(&self, look: impl Fn() -> Option<T>) -> Option<T> {
        let mut changes = self.watch();
        let found = changes.wait_for(|_| look().is_some());
        // Found or not, the answer is how it stands now.
        let _ = tokio::time::timeout(MAKER_LIMIT, found).await;
        look()
    }

    pub(super) fn stream(&self, name: &StreamName) -> Option<Arc<StreamEntry>> {
        self.table.read(|declared| declared.streams.get(name.as_str()).cloned())
    }

    /// Every stream, sorted by name.
    pub(super) fn streams(&self) -> Vec<Arc<StreamEntry>> {
        self.table.read(|declared| declared.streams.values().cloned().collect())
    }

    pub(super) fn consumer(
        &self,
        stream: &StreamName,
        name: &ConsumerName,
    ) -> Option<Arc<ConsumerEntry>> {
        let found = |declared: &Declared| {
            declared.consumers.get(stream.as_str())?.get(name.as_str()).cloned()
        };
        self.table.read(found)
    }

    /// Every consumer of a stream, sorted by name.
    pub(super) fn consumers(&self, stream: &StreamName) -> Vec<Arc<ConsumerEntry>> {
        let found = |declared: &Declared| {
            let consumers = declared.consumers.get(stream.as_str());
            consumers.into_iter().flat_map(|consumers| consumers.values().cloned()).collect()
        };
        self.table.read(found)
    }

    pub(super) fn bucket(&self, name: &BucketName) -> Option<Arc<BucketEntry>> {
        self.table.read(|declared| declared.buckets.get(name.as_str()).cloned())
    }

    pub(super) async fn put_stream(&self, entry: &StreamEntry) -> Result<()> {
        self.put(&stream_key(&entry.config.name), entry).await
    }

    pub(super) async fn remove_stream(&self, name: &StreamName) -> Result<()> {
        self.write(&stream_key(name), None).await
    }

    pub(super) async fn put_consumer(
        &self,
        stream: &StreamName,
        entry: &ConsumerEntry,
    ) -> Result<()> {
        self.put(&consumer_key(stream, &entry.config.name), entry).await
    }

    pub(super) async fn remove_consumer(
        &self,
        stream: &StreamName,
        name: &ConsumerName,
    ) -> Result<()> {
        self.write(&consumer_key(stream, name), None).await
    }

    pub(super) async fn put_bucket(&self, entry: &BucketEntry) -> Result<()> {
        self.put(&bucket_key(&entry.config.name), entry).await
    }

    pub(super) async fn remove_bucket(&self, name: &BucketName) -> Result<()> {
        self.write(&bucket_key(name), None).await
    }

    async fn put(&self, key: &str, entry: &impl Stored) -> Result<()> {
        self.write(key, Some(entry.to_json()?.into())).await
    }

    async fn write(&self, key: &str, value: Option<Bytes>) -> Result<()> {
        let offset = self.publisher.put(TOPIC, key, value).await?;
        self.table.applied(offset).await
    }
}

// Keep stable: the keys are stored. No name holds a slash.

fn stream_key(name: &StreamName) -> String {
    format!("stream/{name}")
}

fn consumer_key(stream: &StreamName, name: &ConsumerName) -> String {
    format!("consumer/{stream}/{name}")
}

fn bucket_key(name: &BucketName) -> String {
    format!("bucket/{name}")
}

#[derive(Default)]
struct Declared {
    streams: BTreeMap<String, Arc<StreamEntry>>,
    consumers: BTreeMap<String, BTreeMap<String, Arc<ConsumerEntry>>>,
    buckets: BTreeMap<String, Arc<BucketEntry>>,
}

impl Rows for Declared {
    fn apply(&mut self, _offset: i64, key: &[u8], value: Option<&[u8]>, _at: SystemTime) {
        let Ok(key) = std::str::from_utf8(key) else { return };
        if let Err(error) = self.take(key, value) {
            // A later version may have written it, or anybody: the rest is of use all the same.
            tracing::warn!(%error, key, "left out of the catalog");
        }
    }
}

impl Declared {
    fn take(&mut self, key: &str, value: Option<&[u8]>) -> Result<()> {
        let parts: Vec<&str> = key.split('/').collect();
        match parts[..] {
            ["stream", name] => {
                let entry = value.map(|json| StreamEntry::from_json(name, json)).transpose()?;
                set(&mut self.streams, name, entry);
            }
            ["consumer", stream, name] => {
                let entry = value.map(|json| ConsumerEntry::from_json(name, json)).transpose()?;
                let consumers = self.consumers.entry(stream.to_owned()).or_default();
                set(consumers, name, entry);
                if consumers.is_empty() {
                    self.consumers.remove(stream);
                }
            }
            ["bucket", name] => {
                let entry = value.map(|json| BucketEntry::from_json(name, json)).transpose()?;
                set(&mut self.buckets, name, entry);
            }
            _ => tracing::debug!(key, "unknown to this version"),
        }
        Ok(())
    }
}

fn set<T>(entries: &mut BTreeMap<String, Arc<T>>, name: &str, entry: Option<T>) {
    match entry {
        Some(entry) => {
            entries.insert(name.to_owned(), Arc::new(entry));
        }
        None => {
            entries.remove(name);
        }
    }
}
