//! How the streams and buckets are configured.

use std::time::Duration;

use bus::{BucketConfig, Retention, Storage, StreamConfig, Topology, WhenFull};

use super::Signer;
use crate::model::{Realm, RealmList, names};
use crate::platform::Platform;

/// Used tickets are remembered for longer than a ticket is good for.
const TICKET_AGE: Duration = Duration::from_secs(120);

/// Room for what a prefill row has beyond its event.
const ROW_HEADERS_BYTES: u32 = 16 * 1024;

/// How the store lays out its streams where it makes them, and which realms events may make.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Copies of every stream and bucket in a cluster (1, 3 or 5).
    pub replicas: u8,
    /// A realm's log holds at most this many bytes; then publishing is refused, so that no
    /// history is lost in silence.
    pub log_max_bytes: u64,
    /// All prefill queues together hold at most this many bytes; then prefills fail.
    pub prefill_max_bytes: u64,
    /// How long an event's id is remembered.
    pub duplicate_window: Duration,
    /// The realms that their first event may make.
    pub realms: RealmList,
}

impl Default for StoreOptions {
    /// One replica, 1 GiB a log, 1 GiB for prefill queues, ids remembered for two minutes, any
    /// realm. A NATS server sets the bytes of every stream aside, so that generous limits need a large disk.
    fn default() -> Self {
        Self {
            replicas: 1,
            log_max_bytes: 1 << 30,
            prefill_max_bytes: 1 << 30,
            duplicate_window: Duration::from_secs(120),
            realms: RealmList::Any,
        }
    }
}

impl StoreOptions {
    /// Everything that is made on a bus that has nothing, and the logs of `realms`.
    pub(super) fn topology(&self, realms: &[Realm]) -> Result<Topology, bus::Error> {
        let mut streams = vec![self.prefill_stream()?, self.tasks_stream()?];
        for realm in realms {
            streams.push(self.log(realm)?);
        }
        let buckets = names::BUCKETS.iter().map(|name| self.bucket_config(name));
        let buckets = buckets.collect::<Result<_, _>>()?;
        Ok(Topology { streams, buckets, ..Topology::default() })
    }

    pub(super) fn log(&self, realm: &Realm) -> Result<StreamConfig, bus::Error> {
        Ok(StreamConfig {
            max_bytes: Some(self.log_max_bytes),
            duplicate_window: self.duplicate_window,
            ..self.stream(names::log_stream(realm)?.as_str(), names::log_filter(realm)?.as_str())?
        })
    }

    pub(super) fn prefill_stream(&self) -> Result<StreamConfig, bus::Error> {
        let base = self.stream(names::PREFILL_STREAM, "prefill.>")?;
        // A row is the event and two headers more: whatever a log took must fit here.
        let max_message_bytes = base.max_message_bytes + ROW_HEADERS_BYTES;
        Ok(StreamConfig { max_bytes: Some(self.prefill_max_bytes), max_message_bytes, ..base })
    }

    pub(super) fn tasks_stream(&self) -> Result<StreamConfig, bus::Error> {
        let base = self.stream(names::TASKS_STREAM, "lockgate.tasks.*")?;
        Ok(StreamConfig { retention: Retention::WorkQueue, max_bytes: Some(64 << 20), ..base })
    }

    pub(super) fn bucket_config(&self, name: &str) -> Result<BucketConfig, bus::Error> {
        let replicas = self.replicas;
        let config = BucketConfig { replicas, ..BucketConfig::new(names::bucket(name)?) };
        Ok(match name {
            names::TICKETS_BUCKET => {
                BucketConfig { max_age: Some(TICKET_AGE), storage: Storage::Memory, ..config }
            }
            _ => config,
        })
    }

    fn stream(&self, name: &str, subjects: &str) -> Result<StreamConfig, bus::Error> {
        Ok(StreamConfig {
            replicas: self.replicas,
            when_full: WhenFull::Refuse,
            storage: Storage::File,
            max_message_bytes: crate::limits::MAX_STORED_MESSAGE_BYTES,
            ..StreamConfig::parse(name, &[subjects])?
        })
    }
}

/// The signing key that all replicas share: the first to come makes it.
pub(super) async fn shared_signer(
    platform: &Platform,
    options: &StoreOptions,
) -> Result<Signer, bus::Error> {
    const KEY: &str = "signing-key";
    let system = options.bucket(&platform.bus, names::SYSTEM_BUCKET).await?;
    let fresh: [u8; 32] = platform.entropy.bytes()?;
    let kept = match system.get(KEY).await? {
        Some(entry) => entry.value,
        None => match system.create(KEY, fresh.to_vec()).await {
            Ok(_) => return Ok(Signer::new(fresh)),
            // Made by another process meanwhile, or by our own write whose answer was lost.
            Err(error) => system.get(KEY).await?.ok_or(error)?.value,
        },
    };
    let key = kept.as_ref().try_into().map_err(|_| {
        let what = format!("{KEY} in bucket {} is not 32 bytes", names::SYSTEM_BUCKET);
        bus::Error::new(
            bus::ErrorKind::Corrupt,
            format!("{what}: delete the key to make a new one"),
        )
    })?;
    Ok(Signer::new(key))
}

#[cfg(test)]
mod tests {
    use bus::{Bus, Topology};

    use super::super::Store;
    use super::StoreOptions;
    use crate::platform::Platform;

    /// `nats/topology.toml` is what the program makes, no more and no less.
    #[tokio::test]
    async fn the_topology_file_is_true() {
        let bus = Bus::connect("embedded:").await.unwrap();
        Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../nats/topology.toml");
        let declared = Topology::read(file).unwrap();
        let differs = bus.compare_topology(&declared).await.unwrap();
        let differs: Vec<_> = differs.iter().map(ToString::to_string).collect();
        assert_eq!(differs, Vec::<String>::new());
        assert_eq!((declared.streams.len(), declared.buckets.len()), (2, 7));

        // And the other way round: what the file makes is what the program expects.
        let bus = Bus::connect("embedded:").await.unwrap();
        bus.ensure_topology(&declared).await.unwrap();
        Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        assert_eq!(bus.compare_topology(&declared).await.unwrap(), []);
    }
}
