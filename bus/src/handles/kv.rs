//! Keys and values with compare-and-set and a watch that says when it is in step.

use std::sync::Arc;

use bytes::Bytes;

use crate::config::Entry;
use crate::driver::{KvChange, KvDriver, WatchDriver};
use crate::error::Result;
use crate::name::{BucketName, Subject, SubjectFilter};

/// A bucket of keys. Cheap to clone. Every method may be called from many tasks at once.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{BucketConfig, BucketName};
///
/// let state = bus.ensure_kv(&BucketConfig::new(BucketName::new("state")?)).await?;
/// let revision = state.create("order.42", "paid").await?;
/// state.update("order.42", "shipped", revision).await?;
/// assert!(state.update("order.42", "lost", revision).await.unwrap_err().is_conflict());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KeyValue {
    name: BucketName,
    driver: Arc<dyn KvDriver>,
}

impl KeyValue {
    pub(crate) fn new(name: BucketName, driver: Arc<dyn KvDriver>) -> Self {
        Self { name, driver }
    }

    /// The bucket's name.
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// The entry of a key, if it has one.
    pub async fn get(&self, key: impl AsRef<str>) -> Result<Option<Entry>> {
        self.driver.get(&Subject::new(key)?).await
    }

    /// Writes a value, whatever stands there; returns its revision.
    pub async fn put(&self, key: impl AsRef<str>, value: impl Into<Bytes>) -> Result<u64> {
        self.driver.put(&Subject::new(key)?, value.into()).await
    }

    /// Writes the first value of a key, or of one that was deleted; returns its revision.
    /// [`crate::ErrorKind::Conflict`] if it has one.
    pub async fn create(&self, key: impl AsRef<str>, value: impl Into<Bytes>) -> Result<u64> {
        self.driver.update(&Subject::new(key)?, value.into(), 0).await
    }

    /// Writes a value if the key still has `revision`; returns the new revision.
    /// [`crate::ErrorKind::Conflict`] if someone was faster. After a time-out, read the key: the
    /// write may have happened.
    pub async fn update(
        &self,
        key: impl AsRef<str>,
        value: impl Into<Bytes>,
        revision: u64,
    ) -> Result<u64> {
        self.driver.update(&Subject::new(key)?, value.into(), revision).await
    }

    /// Deletes a key, if it still has `revision` where one is given.
    pub async fn delete(&self, key: impl AsRef<str>, revision: Option<u64>) -> Result<()> {
        self.driver.delete(&Subject::new(key)?, revision).await
    }

    /// Every key that matches, sorted: complete, or an error.
    pub async fn keys(&self, filter: &str) -> Result<Vec<Subject>> {
        Ok(self.entries(filter).await?.into_iter().map(|entry| entry.key).collect())
    }

    /// Every entry that matches, sorted by key: complete, or an error.
    pub async fn entries(&self, filter: &str) -> Result<Vec<Entry>> {
        self.driver.entries(&SubjectFilter::new(filter)?).await
    }

    /// The first `max` entries behind key `after`, sorted by key; from the first one without it.
    /// Fewer than `max` mean that there are no more. No other value is read. What is written or deleted meanwhile may or may not be seen; every other
    /// entry is.
    pub async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        self.driver.page(after, max).await
    }

    /// Watches the keys that match: what is there, [`KvChange::Synced`], then every change.
    pub async fn watch(&self, filter: &str) -> Result<Watch> {
        Ok(Watch(self.driver.watch(&SubjectFilter::new(filter)?).await?))
    }
}

/// An open watch. It resumes by itself after the backend was away and repeats no revision.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{BucketConfig, BucketName, KvChange};
///
/// # let state = bus.ensure_kv(&BucketConfig::new(BucketName::new("state")?)).await?;
/// state.put("k", "v").await?;
/// let mut changes = state.watch(">").await?;
/// assert!(matches!(changes.next().await?, KvChange::Put(_)));
/// assert_eq!(changes.next().await?, KvChange::Synced); // from here on, every change
/// # Ok(())
/// # }
/// ```
pub struct Watch(Box<dyn WatchDriver>);

impl Watch {
    /// The next change; waits for as long as it takes.
    pub async fn next(&mut self) -> Result<KvChange> {
        self.0.next().await
    }
}
