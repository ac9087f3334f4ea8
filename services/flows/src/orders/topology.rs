//! The streams and buckets that the roles stand on.

use bus::{BucketConfig, BucketName, Bus, KeyValue, Stream, StreamConfig, StreamName};
use futures_util::future::try_join_all;

use super::event::Event;
use super::settings::Settings;
use super::topic::Topic;
use crate::flow::{Context, Failure};

/// Where what no consumer can use is kept with its reason. The twelfth stream: the document has no
/// place for it, and nothing may be lost in silence.
pub const DEAD_LETTERS: &str = "orders-dead-letters";

/// The buckets, one for each system that keeps something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bucket {
    Orders,
    Payments,
    Deliveries,
    Notices,
    Log,
}

impl Bucket {
    const ALL: [Self; 5] =
        [Self::Orders, Self::Payments, Self::Deliveries, Self::Notices, Self::Log];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Orders => "orders-orders",
            Self::Payments => "orders-payments",
            Self::Deliveries => "orders-deliveries",
            Self::Notices => "orders-notices",
            Self::Log => "orders-log",
        }
    }

    /// Opens it. It must have compare-and-set.
    pub(super) async fn open(self, state: &Bus) -> bus::Result<KeyValue> {
        state.kv_for(self.name(), &[bus::Capability::KvCompareAndSet]).await
    }
}

/// Creates what is missing and alters nothing that is there. May be done by many at once.
pub(super) async fn prepare(context: Context) -> Result<(), Failure> {
    let settings = Settings::of(&context.settings)?;
    prepare_with(&context, &settings).await
}

/// Creates the streams and buckets of the flow by settings that are at hand, where they are missing;
/// it alters nothing that is there. May be done by many at once.
pub async fn prepare_with(context: &Context, settings: &Settings) -> Result<(), Failure> {
    let Settings { partitions, replicas, .. } = *settings;
    for topic in Topic::ALL {
        let config = StreamConfig::parse(topic.name(), &[topic.name()])?;
        let config = StreamConfig { partitions, replicas, ..config };
        context.bus.create_stream_if_missing(&config).await?;
    }
    let dead = StreamConfig::dead_letters(StreamName::new(DEAD_LETTERS)?);
    context.bus.create_stream_if_missing(&StreamConfig { replicas, ..dead }).await?;
    for bucket in Bucket::ALL {
        let config =
            BucketConfig { replicas, ..BucketConfig::new(BucketName::new(bucket.name())?) };
        context.state.create_kv_if_missing(&config).await?;
    }
    Ok(())
}

/// The topics, open for publishing.
#[derive(Clone)]
pub(super) struct Topics {
    streams: Vec<Stream>,
    ids: bool,
}

impl Topics {
    /// Opens all of them; a missing one is an error.
    pub(super) async fn open(bus: &Bus) -> bus::Result<Self> {
        let streams = try_join_all(Topic::ALL.map(|topic| bus.stream(topic.name()))).await?;
        let support = bus.support(bus::Capability::Deduplication);
        Ok(Self { streams, ids: support != bus::Support::Unsupported })
    }

    /// Publishes each event to its topic and waits until all are durable. Publishing an event
    /// again is harmless: the backend recognises its id, or its consumers recognise the event.
    pub(super) async fn publish(&self, events: &[Event]) -> bus::Result<()> {
        let sent = events.iter().map(|event| async move {
            let stream = self.streams.get(event.topic.index()).ok_or_else(|| {
                bus::Error::not_found(format!("topic {} is not open", event.topic.name()))
            })?;
            stream.publish(event.message(self.ids)?).await
        });
        try_join_all(sent).await?;
        Ok(())
    }
}
