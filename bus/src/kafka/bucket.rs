//! Buckets: a compacted topic each, which every process that opened one keeps as a table.
//!
//! A write returns when it was read back, so that a process sees what it wrote. What others wrote
//! shows a moment later. A process that was cut off for longer than the topic keeps its tombstones
//! (a day, if nobody changed it) may have missed a deletion.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Mutex;

use super::NAME;
use super::catalog::Catalog;
use super::entry::{BucketEntry, nanos};
use super::keys::{Keys, revision};
use super::link::Link;
use super::publisher::Publisher;
use super::table::Table;
use super::topics::{self, Topic};
use super::watch::Watch;
use crate::capability::Capability;
use crate::config::{BucketConfig, Entry, Storage};
use crate::creation::Creation;
use crate::driver::{KvDriver, WatchDriver};
use crate::error::unsupported;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{BucketName, Subject, SubjectFilter};

/// See [`crate::driver::Driver::create_bucket`].
pub(super) async fn create(
    link: &Arc<Link>,
    catalog: &Catalog,
    config: &BucketConfig,
) -> Result<Creation<BucketConfig>> {
    let config = &BucketConfig { replicas: config.replicas.max(1), ..config.clone() };
    check(config)?;
    catalog.refresh().await?;
    let name = &config.name;
    if topics::look(link, &topic_name(name)).await?.is_none() && make(link, catalog, config).await?
    {
        return Ok(Creation::Created(config.clone()));
    }
    // Whoever made it declares it right after.
    let declared = catalog.await_declared(|| catalog.bucket(name)).await;
    let has = declared.ok_or_else(|| {
        let what = format!("topic {} exists and is declared as no bucket", topic_name(name));
        Error::new(ErrorKind::Mismatch, format!("{what}: declare it, or delete it"))
    })?;
    Ok(Creation::Exists(has.config.clone()))
}

/// See [`crate::driver::Driver::ensure_bucket`].
pub(super) async fn ensure(
    link: &Arc<Link>,
    catalog: &Catalog,
    config: &BucketConfig,
) -> Result<()> {
    let config = &BucketConfig { replicas: config.replicas.max(1), ..config.clone() };
    check(config)?;
    catalog.refresh().await?;
    if let Some(has) = catalog.bucket(&config.name) {
        check_drift(&has.config, config)?;
    }
    if make(link, catalog, config).await? {
        return Ok(());
    }
    let has = catalog.await_declared(|| catalog.bucket(&config.name)).await;
    if let Some(has) = &has {
        check_drift(&has.config, config)?;
        if has.config == *config {
            return Ok(());
        }
    }
    let topic = topic(config);
    topics::configure(link, &topic.name, &topic.config).await?;
    let generation = has.map_or_else(|| nanos(SystemTime::now()), |has| has.generation);
    catalog.put_bucket(&BucketEntry { config: config.clone(), generation }).await
}

/// Makes the topic and its entry unless there is a topic of this name. True if this call did.
async fn make(link: &Arc<Link>, catalog: &Catalog, config: &BucketConfig) -> Result<bool> {
    if !topics::ensure_exists(link, &topic(config)).await? {
        return Ok(false);
    }
    let generation = nanos(SystemTime::now());
    catalog.put_bucket(&BucketEntry { config: config.clone(), generation }).await?;
    Ok(true)
}

/// See [`crate::driver::Driver::bucket_info`].
pub(super) async fn info(catalog: &Catalog, name: &BucketName) -> Result<BucketConfig> {
    catalog.refresh().await?;
    Ok(catalog.bucket(name).ok_or_else(|| missing(name))?.config.clone())
}

/// See [`crate::driver::Driver::delete_bucket`].
pub(super) async fn delete(link: &Arc<Link>, catalog: &Catalog, name: &BucketName) -> Result<()> {
    catalog.refresh().await?;
    if catalog.bucket(name).is_none() {
        return Err(missing(name));
    }
    match topics::delete(link, &topic_name(name)).await {
        Err(error) if !error.is_not_found() => Err(error),
        // The entry of a topic that others removed goes all the same.
        _ => catalog.remove_bucket(name).await,
    }
}

/// The buckets that are open in this process: one table each, however often it is opened.
#[derive(Default)]
pub(super) struct Buckets(Mutex<BTreeMap<BucketName, Weak<Bucket>>>);

impl Buckets {
    pub(super) async fn open(
        &self,
        link: &Arc<Link>,
        catalog: &Arc<Catalog>,
        publisher: &Arc<Publisher>,
        name: &BucketName,
    ) -> Result<Arc<Bucket>> {
        catalog.refresh().await?;
        let entry = catalog.bucket(name).ok_or_else(|| missing(name))?;
        let mut open = self.0.lock().await;
        open.retain(|_, bucket| bucket.strong_count() > 0);
        let known = open.get(name).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.generation == entry.generation) {
            return Ok(known);
        }
        let topic = topic_name(name);
        let table = Arc::new(Table::open(link, &topic, Keys::default()).await?);
        let (catalog, publisher) = (catalog.clone(), publisher.clone());
        let (name, generation) = (name.clone(), entry.generation);
        let bucket = Arc::new(Bucket { catalog, publisher, name, topic, generation, table });
        open.insert(bucket.name.clone(), Arc::downgrade(&bucket));
        Ok(bucket)
    }
}

/// An open bucket.
pub(super) struct Bucket {
    catalog: Arc<Catalog>,
    publisher: Arc<Publisher>,
    pub(super) name: BucketName,
    topic: String,
    generation: u64,
    pub(super) table: Arc<Table<Keys>>,
}

impl Bucket {
    /// `NotFound` when the bucket was removed, or made anew, since it was opened.
    pub(super) fn check(&self) -> Result<()> {
        let entry = self.catalog.bucket(&self.name);
        let entry = entry.filter(|entry| entry.generation == self.generation);
        let max_age = entry.ok_or_else(|| missing(&self.name))?.config.max_age;
        if self.table.read(Keys::max_age) != max_age {
            self.table.change(|keys| keys.set_max_age(max_age));
        }
        self.table.subscribe().borrow().check(&self.topic)
    }

    /// Tells when [`Bucket::check`] may have another answer.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    async fn write(&self, key: &Subject, value: Option<Bytes>) -> Result<u64> {
        self.check()?;
        let offset = self.publisher.put(&self.topic, key.as_str(), value).await?;
        self.table.applied(offset).await?;
        Ok(revision(offset))
    }

    fn conditional<T>(&self, key: &Subject) -> Result<T> {
        let asked = format!("writing {key} of bucket {} by revision", self.name);
        Err(unsupported(NAME, Capability::KvCompareAndSet, asked))
    }
}

#[async_trait]
impl KvDriver for Arc<Bucket> {
    async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
        self.check()?;
        Ok(self.table.read(|keys| keys.get(key)))
    }

    async fn put(&self, key: &Subject, value: Bytes) -> Result<u64> {
        self.write(key, Some(value)).await
    }

    async fn update(&self, key: &Subject, _value: Bytes, _revision: u64) -> Result<u64> {
        self.conditional(key)
    }

    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()> {
        match revision {
            None => self.write(key, None).await.map(|_| ()),
            Some(_) => self.conditional(key),
        }
    }

    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
        self.check()?;
        Ok(self.table.read(|keys| keys.entries(filter)))
    }

    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        self.check()?;
        Ok(self.table.read(|keys| keys.page(after, max)))
    }

    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
        self.check()?;
        Ok(Box::new(Watch::open(self.clone(), filter)))
    }
}

/// No stream can have this name, because of the dots. Keep stable: the topics stay.
fn topic_name(bucket: &BucketName) -> String {
    format!("lockgate.kv.{bucket}")
}

fn topic(config: &BucketConfig) -> Topic {
    let mut topic = Topic::compacted(&topic_name(&config.name), Some(config.replicas));
    let (policy, retention) = match config.max_age {
        None => ("compact", "-1".to_owned()),
        Some(age) => ("compact,delete", age.as_millis().to_string()),
    };
    topic.config.insert("cleanup.policy", policy.to_owned());
    topic.config.insert("retention.ms", retention);
    topic
}

fn check(config: &BucketConfig) -> Result<()> {
    let name = &config.name;
    if config.max_bytes.is_some() {
        return Err(unsupported(NAME, Capability::ExactLimits, format!("bucket {name}")));
    }
    if config.storage == Storage::Memory {
        let what = format!("bucket {name} is to be kept in memory");
        return Err(Error::invalid(format!("{what}: kafka:// keeps every bucket on disk")));
    }
    Ok(())
}

fn check_drift(has: &BucketConfig, wanted: &BucketConfig) -> Result<()> {
    if has.replicas == wanted.replicas {
        return Ok(());
    }
    let (name, has, wanted) = (&wanted.name, has.replicas, wanted.replicas);
    let what = format!("bucket {name} has replicas {has} and cannot get {wanted}");
    Err(Error::new(ErrorKind::Mismatch, format!("{what}: remove it first, or keep it")))
}

fn missing(name: &BucketName) -> Error {
    Error::not_found(format!("bucket {name} does not exist: create it first"))
}
