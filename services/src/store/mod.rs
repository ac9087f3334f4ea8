//! What Lockgate keeps on the bus: logs, the prefill and task streams, and the buckets.

mod completeness;
mod drift;
pub(crate) mod journal;
mod life;
mod place;
pub(crate) mod prefill;
mod realms;
mod records;
mod removal;
mod signer;
mod topology;

use bus::{Bus, KeyValue, Stream};

pub(crate) use completeness::Completeness;
pub use drift::Drift;
pub(crate) use drift::drift_of;
pub use life::{History, Life, Mark};
pub use records::Kept;
pub use signer::Signer;
pub(crate) use signer::{check_secret, new_secret};
pub use topology::StoreOptions;
pub(crate) use topology::existing_topology;

use crate::model::names;
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
    /// Opens the store, creating what is missing and altering nothing that is there, whatever
    /// `options` say of it ([`Store::drift`] tells). What is there and cannot be used is
    /// [`bus::ErrorKind::Mismatch`] and named. Safe to do from many processes at once.
    pub async fn open(platform: Platform, options: StoreOptions) -> Result<Self, bus::Error> {
        let signer = topology::shared_signer(&platform, &options).await?;
        Self::open_with(platform, options, signer).await
    }

    /// The same for a process that signs nothing and checks nothing: it does not read the key that
    /// the others share, and has one that nobody knows.
    pub(crate) async fn open_without_key(
        platform: Platform,
        options: StoreOptions,
    ) -> Result<Self, bus::Error> {
        let signer = Signer::new(platform.entropy.bytes()?);
        Self::open_with(platform, options, signer).await
    }

    async fn open_with(
        platform: Platform,
        options: StoreOptions,
        signer: Signer,
    ) -> Result<Self, bus::Error> {
        let bus = &platform.bus;
        Ok(Self {
            signer,
            prefill: bus.create_stream_if_missing(&options.prefill_stream()?).await?.handle,
            tasks: bus.create_stream_if_missing(&options.tasks_stream()?).await?.handle,
            dead_letters: bus
                .create_stream_if_missing(&options.dead_letters_stream()?)
                .await?
                .handle,
            subscriptions: options.bucket(bus, names::SUBSCRIPTIONS_BUCKET).await?,
            realms: options.bucket(bus, names::REALMS_BUCKET).await?,
            cursors: options.bucket(bus, names::CURSORS_BUCKET).await?,
            journal: options.bucket(bus, names::JOURNAL_BUCKET).await?,
            leases: options.bucket(bus, names::LEASES_BUCKET).await?,
            tickets: options.bucket(bus, names::TICKETS_BUCKET).await?,
            options,
            platform,
        })
    }

    /// The bus underneath.
    pub fn bus(&self) -> &Bus {
        &self.platform.bus
    }

    /// How the store was opened.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }
}

impl StoreOptions {
    async fn bucket(&self, bus: &Bus, name: &str) -> Result<KeyValue, bus::Error> {
        Ok(bus.create_kv_if_missing(&self.bucket_config(name)?).await?.handle)
    }
}
