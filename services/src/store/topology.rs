//! How the streams and buckets are configured.

use std::time::Duration;

use bus::{BucketConfig, Bus, Retention, Storage, StreamConfig, Topology, WhenFull};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Signer;
use crate::limits::BUS_WINDOW;
use crate::model::{Executor, Realm, RealmList, names};
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
    /// The dead letters of all subscriptions together hold at most this many bytes; then nothing
    /// more is given up, and keys wait for their failing events.
    pub dead_letters_max_bytes: u64,
    /// The rows of a prefill are kept for this long after it was complete; who begins with them
    /// later gets a new generation.
    pub prefill_max_age: Duration,
    /// How long an event's id is remembered.
    pub duplicate_window: Duration,
    /// The realms that their first event may make.
    pub realms: RealmList,
    /// Who carries out the prefills that are requested here.
    pub prefill_executor: Executor,
}

impl Default for StoreOptions {
    /// One replica, 1 GiB a log, 1 GiB for prefill queues, whose rows are kept for a week, ids
    /// remembered for two minutes, any realm, prefills by workers. A NATS server sets the bytes of every stream aside,
    /// so that generous limits need a large disk.
    fn default() -> Self {
        Self {
            replicas: 1,
            log_max_bytes: 1 << 30,
            prefill_max_bytes: 1 << 30,
            dead_letters_max_bytes: 256 << 20,
            prefill_max_age: Duration::from_secs(7 * 24 * 3600),
            duplicate_window: Duration::from_secs(120),
            realms: RealmList::Any,
            prefill_executor: Executor::Worker,
        }
    }
}

impl StoreOptions {
    /// Everything that is made on a bus that has nothing, and the logs of `realms`.
    pub(super) fn topology(&self, realms: &[Realm]) -> Result<Topology, bus::Error> {
        let mut streams =
            vec![self.prefill_stream()?, self.tasks_stream()?, self.dead_letters_stream()?];
        for realm in realms {
            streams.push(self.log(realm)?);
        }
        let buckets = names::BUCKETS.iter().map(|name| self.bucket_config(name));
        let buckets = buckets.collect::<Result<_, _>>()?;
        Ok(Topology { streams, buckets, ..Topology::default() })
    }

    pub(super) fn log(&self, realm: &Realm) -> Result<StreamConfig, bus::Error> {
        let events = names::log_filter(realm)?;
        let base = self.stream(names::log_stream(realm)?.as_str(), events.as_str())?;
        Ok(StreamConfig {
            subjects: vec![events, names::bridge_filter(realm)?],
            max_bytes: Some(self.log_max_bytes),
            duplicate_window: self.duplicate_window,
            ..base
        })
    }

    pub(super) fn prefill_stream(&self) -> Result<StreamConfig, bus::Error> {
        let base = self.stream(names::PREFILL_STREAM, "prefill.>")?;
        // A row is the event and two headers more: whatever a log took must fit here.
        let max_message_bytes = base.max_message_bytes + ROW_HEADERS_BYTES;
        Ok(StreamConfig { max_bytes: Some(self.prefill_max_bytes), max_message_bytes, ..base })
    }

    pub(super) fn dead_letters_stream(&self) -> Result<StreamConfig, bus::Error> {
        // A letter is an event and three headers more, as a row is.
        let base = self.stream(names::DEAD_LETTERS_STREAM, "dead.>")?;
        let max_message_bytes = base.max_message_bytes + ROW_HEADERS_BYTES;
        Ok(StreamConfig { max_bytes: Some(self.dead_letters_max_bytes), max_message_bytes, ..base })
    }

    pub(super) fn tasks_stream(&self) -> Result<StreamConfig, bus::Error> {
        let base = self.stream(names::TASKS_STREAM, "lockgate.tasks.*")?;
        Ok(StreamConfig { retention: Retention::WorkQueue, max_bytes: Some(64 << 20), ..base })
    }

    pub(super) fn bucket_config(&self, name: &str) -> Result<BucketConfig, bus::Error> {
        let replicas = self.replicas;
        let config = BucketConfig { replicas, ..BucketConfig::new(names::bucket(name)?) };
        Ok(match name {
            // In files as all the rest: a bucket in memory is gone when the server is restarted.
            names::TICKETS_BUCKET => BucketConfig { max_age: Some(TICKET_AGE), ..config },
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

/// What of Lockgate is on the bus, as it is declared there: nothing where it never ran. Changes
/// nothing.
pub(crate) async fn existing_topology(bus: &Bus) -> Result<Topology, bus::Error> {
    let realms = match bus.kv_for(names::REALMS_BUCKET, &[]).await {
        Ok(bucket) => bucket.keys(">").await?,
        Err(error) if error.is_not_found() => Vec::new(),
        Err(error) => return Err(error),
    };
    let realms: Vec<Realm> =
        realms.iter().filter_map(|key| Realm::new(key.as_str()).ok()).collect();
    let named = StoreOptions::default().topology(&realms)?;
    let driver = bus.driver();
    let streams = named.streams.into_iter().map(|config| {
        let driver = driver.clone();
        async move { found(driver.stream_info(&config.name).await.map(|info| info.config)) }
    });
    let buckets = named.buckets.into_iter().map(|config| {
        let driver = driver.clone();
        async move { found(driver.bucket_info(&config.name).await) }
    });
    let streams: Vec<_> = stream::iter(streams).buffered(BUS_WINDOW).try_collect().await?;
    let buckets: Vec<_> = stream::iter(buckets).buffered(BUS_WINDOW).try_collect().await?;
    let (streams, buckets) = (streams.into_iter().flatten(), buckets.into_iter().flatten());
    Ok(Topology { streams: streams.collect(), buckets: buckets.collect(), ..Topology::default() })
}

fn found<T>(looked: Result<T, bus::Error>) -> Result<Option<T>, bus::Error> {
    match looked {
        Err(error) if error.is_not_found() => Ok(None),
        looked => looked.map(Some),
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
    use super::super::Store;
    use super::*;

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
        assert_eq!((declared.streams.len(), declared.buckets.len()), (3, names::BUCKETS.len()));

        // And the other way round: what the file makes is what the program expects.
        let bus = Bus::connect("embedded:").await.unwrap();
        bus.ensure_topology(&declared).await.unwrap();
        Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        assert_eq!(bus.compare_topology(&declared).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_shown_is_what_is_there() {
        let bus = Bus::connect("embedded:").await.unwrap();
        assert_eq!(existing_topology(&bus).await.unwrap(), Topology::default());
        let store = Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        let realm = Realm::new("people").unwrap();
        store.ensure_realm(&realm).await.unwrap();
        let mut shown = Topology::parse(&existing_topology(&bus).await.unwrap().to_toml().unwrap());
        let shown = shown.as_mut().unwrap();
        assert_eq!((shown.streams.len(), shown.buckets.len()), (4, names::BUCKETS.len()));
        assert_eq!(bus.compare_topology(shown).await.unwrap(), []);
        assert!(shown.streams.iter().any(|config| config.name.as_str() == "events-people"));
        assert_eq!(store.drift().await.unwrap(), []);
    }
}
