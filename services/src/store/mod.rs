//! What Lockgate keeps on the bus: logs, the prefill and task streams, and the buckets.

pub(crate) mod journal;
mod life;
mod records;
mod removal;
mod signer;
mod topology;

use bus::{BucketConfig, Bus, KeyValue, Storage, Stream};

pub use records::Kept;
pub use signer::Signer;
pub(crate) use signer::{check_secret, new_secret};
pub use topology::StoreOptions;

use crate::model::{Realm, names};
pub use crate::model::{History, Life, Mark};
use crate::platform::Platform;

/// Access to everything Lockgate keeps, for all roles. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// Bus, clock and random bytes.
    pub platform: Platform,
    /// Signs tokens and hashes secrets.
    pub signer: Signer,
    pub(crate) prefill: Stream,
    pub(crate) tasks: Stream,
    pub(crate) dead_letters: Stream,
    pub(crate) subscriptions: KeyValue,
    pub(crate) realms: KeyValue,
    pub(crate) cursors: KeyValue,
    pub(crate) journal: KeyValue,
    pub(crate) leases: KeyValue,
    pub(crate) tickets: KeyValue,
    options: StoreOptions,
}

impl Store {
    /// Opens the store, creating what is missing. Safe to do from many processes at once.
    pub async fn open(platform: Platform, options: StoreOptions) -> Result<Self, bus::Error> {
        let bus = &platform.bus;
        let signer = topology::shared_signer(&platform, &options).await?;
        Ok(Self {
            signer,
            prefill: bus.ensure_stream(&options.prefill_stream()?).await?,
            tasks: bus.ensure_stream(&options.tasks_stream()?).await?,
            dead_letters: bus.ensure_stream(&options.dead_letters_stream()?).await?,
            subscriptions: options.bucket(bus, names::SUBSCRIPTIONS_BUCKET).await?,
            realms: options.bucket(bus, names::REALMS_BUCKET).await?,
            cursors: options.bucket(bus, names::CURSORS_BUCKET).await?,
            journal: options.bucket(bus, names::JOURNAL_BUCKET).await?,
            leases: options.bucket(bus, names::LEASES_BUCKET).await?,
            tickets: options.tickets(bus).await?,
            options,
            platform,
        })
    }

    /// The bus underneath.
    pub fn bus(&self) -> &Bus {
        &self.platform.bus
    }

    /// The log of a realm; [`bus::ErrorKind::NotFound`] when the realm was never made.
    pub async fn log(&self, realm: &Realm) -> Result<Stream, bus::Error> {
        self.bus().stream(names::log_stream(realm)?).await
    }

    /// The last sequence that the log of a realm has given; `None` when the realm was never made.
    pub(crate) async fn last_sequence(&self, realm: &Realm) -> Result<Option<u64>, bus::Error> {
        match self.bus().driver().stream_info(&names::log_stream(realm)?).await {
            Ok(info) => Ok(Some(info.last_sequence)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a realm if it is missing and returns its log. The log comes before the record, so
    /// that whoever sees the record finds the log; doing it twice changes nothing.
    pub async fn ensure_realm(&self, realm: &Realm) -> Result<Stream, bus::Error> {
        let log = self.bus().ensure_stream(&self.options.log(realm)?).await?;
        match self.realms.create(realm.as_str(), "{}").await {
            Ok(_) => tracing::info!(%realm, "realm made"),
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error),
        }
        Ok(log)
    }

    /// Every realm, sorted: complete, or an error.
    pub async fn realms(&self) -> Result<Vec<Realm>, bus::Error> {
        let keys = self.realms.keys(">").await?;
        Ok(keys.iter().filter_map(|key| Realm::new(key.as_str()).ok()).collect())
    }
}

impl StoreOptions {
    async fn bucket(&self, bus: &Bus, name: &str) -> Result<KeyValue, bus::Error> {
        bus.ensure_kv(&self.bucket_config(name)?).await
    }

    async fn tickets(&self, bus: &Bus) -> Result<KeyValue, bus::Error> {
        let config = self.bucket_config(names::TICKETS_BUCKET)?;
        let max_age = Some(topology::TICKET_AGE);
        bus.ensure_kv(&BucketConfig { max_age, storage: Storage::Memory, ..config }).await
    }
}
