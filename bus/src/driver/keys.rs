//! An open bucket, and a watch on it.

use async_trait::async_trait;

use crate::config::Entry;
use crate::error::Result;
use crate::name::{Subject, SubjectFilter};

/// What a watch reports.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let state = bus.ensure_kv(&bus::BucketConfig::new(bus::BucketName::new("state")?)).await?;
/// use std::collections::BTreeMap;
/// use bus::KvChange;
///
/// state.put("order.41", "paid").await?;
/// state.put("order.42", "paid").await?;
/// state.delete("order.41", None).await?;
///
/// // A copy of the bucket that is kept in step.
/// let (mut copy, mut changes) = (BTreeMap::new(), state.watch(">").await?);
/// loop {
///     match changes.next().await? {
///         KvChange::Put(entry) => drop(copy.insert(entry.key, entry.value)),
///         KvChange::Delete { key, .. } => drop(copy.remove(&key)),
///         KvChange::Synced => break, // the copy is whole, and may be used
///     }
/// }
/// assert_eq!(copy.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum KvChange {
    /// The key has this value.
    Put(Entry),
    /// The key was deleted.
    Delete {
        /// The key.
        key: Subject,
        /// The revision of the deletion.
        revision: u64,
    },
    /// Everything that was there when the watch began has been reported. Comes once.
    Synced,
}

/// An open bucket.
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use bus::driver::{KvDriver, WatchDriver};
/// use bus::{Entry, Error, Result, Subject, SubjectFilter};
/// use bytes::Bytes;
///
/// /// A bucket that is looked at only.
/// struct ReadOnly(Arc<dyn KvDriver>);
///
/// fn refused() -> Error {
///     Error::invalid("this bucket is read only")
/// }
///
/// #[async_trait]
/// impl KvDriver for ReadOnly {
///     async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
///         self.0.get(key).await
///     }
///
///     async fn put(&self, _: &Subject, _: Bytes) -> Result<u64> {
///         Err(refused())
///     }
///
///     async fn update(&self, _: &Subject, _: Bytes, _: u64) -> Result<u64> {
///         Err(refused())
///     }
///
///     async fn delete(&self, _: &Subject, _: Option<u64>) -> Result<()> {
///         Err(refused())
///     }
///
///     async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
///         self.0.entries(filter).await
///     }
///
///     async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
///         self.0.page(after, max).await
///     }
///
///     async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
///         self.0.watch(filter).await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let state = bus.ensure_kv(&bus::BucketConfig::new(bus::BucketName::new("state")?)).await?;
/// state.put("order.42", "paid").await?;
/// let looking = ReadOnly(bus.driver().bucket(state.name()).await?);
/// assert_eq!(looking.entries(&SubjectFilter::all()).await?.len(), 1);
/// assert!(looking.put(&Subject::new("order.42")?, "free".into()).await.is_err());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait KvDriver: Send + Sync {
    /// The entry, if the key has one.
    async fn get(&self, key: &Subject) -> Result<Option<Entry>>;

    /// Writes whatever stands there. Returns the new revision.
    async fn put(&self, key: &Subject, value: bytes::Bytes) -> Result<u64>;

    /// Writes if the key has no value (`revision` 0) or has exactly `revision`; otherwise
    /// [`crate::ErrorKind::Conflict`].
    async fn update(&self, key: &Subject, value: bytes::Bytes, revision: u64) -> Result<u64>;

    /// Deletes the key, if it still has `revision` where one is given. A missing key is `Ok`
    /// without a revision and a conflict with one.
    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()>;

    /// Every entry that matches, sorted by key: complete, or an error.
    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>>;

    /// The first `max` entries behind key `after`, sorted by key; from the first key without one.
    /// Fewer than `max` mean that there are no more. What is written or deleted meanwhile may or
    /// may not be seen; every other entry is.
    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>>;

    /// Opens a watch on the keys that match: current entries, then [`KvChange::Synced`], then
    /// every change in order. It resumes by itself and repeats no revision.
    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>>;
}

/// An open watch.
///
/// ```
/// use async_trait::async_trait;
/// use bus::driver::WatchDriver;
/// use bus::{KvChange, Result};
///
/// /// Around another one: says nothing of what is deleted.
/// struct Remembering(Box<dyn WatchDriver>);
///
/// #[async_trait]
/// impl WatchDriver for Remembering {
///     async fn next(&mut self) -> Result<KvChange> {
///         loop {
///             match self.0.next().await? {
///                 KvChange::Delete { .. } => {}
///                 told => return Ok(told),
///             }
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let state = bus.ensure_kv(&bus::BucketConfig::new(bus::BucketName::new("state")?)).await?;
/// # use bus::SubjectFilter;
/// let bucket = bus.driver().bucket(state.name()).await?;
/// let mut changes = Remembering(bucket.watch(&SubjectFilter::all()).await?);
/// assert_eq!(changes.next().await?, KvChange::Synced);
/// state.put("order.41", "paid").await?;
/// state.delete("order.41", None).await?;
/// state.put("order.42", "paid").await?;
/// assert!(matches!(changes.next().await?, KvChange::Put(entry) if entry.key.as_str() == "order.41"));
/// assert!(matches!(changes.next().await?, KvChange::Put(entry) if entry.key.as_str() == "order.42"));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait WatchDriver: Send {
    /// The next change; waits for as long as it takes. [`crate::ErrorKind::NotFound`] when the
    /// bucket is gone.
    async fn next(&mut self) -> Result<KvChange>;
}
