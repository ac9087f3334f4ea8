//! Publishing through one idempotent producer, within a bounded window.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::sync::{Notify, Semaphore, oneshot};

use super::failure::{code, failed};
use super::link::Link;
use super::sequence::Place;
use super::settings::Logged;
use super::threads::closed;
use crate::error::Result;
use crate::message::Receipt;

/// How many records are on their way at most.
const WINDOW: u32 = 10_000;
/// What closing waits for at most; longer than the producer tries.
const DRAIN_LIMIT: Duration = Duration::from_secs(35);

/// Where a record goes.
#[derive(Clone, Copy)]
pub(super) struct To<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    /// Of the topic, for the receipt's sequence.
    pub(super) partitions: u32,
}

/// A record's own content.
pub(super) struct Content<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: OwnedHeaders,
}

/// One producer, shared.
pub(super) struct Publisher {
    producer: Option<ThreadedProducer<Reports>>,
    window: Arc<Window>,
}

struct Window {
    places: Semaphore,
    /// Told after each record, to whoever met a full queue.
    freed: Notify,
}

impl Publisher {
    pub(super) fn start(link: &Link) -> Result<Self> {
        let places = Semaphore::new(WINDOW as usize);
        let window = Arc::new(Window { places, freed: Notify::new() });
        let reports = Reports { window: window.clone() };
        let producer =
            ThreadedProducer::from_config_and_context(&link.settings.producer(), reports)
                .map_err(|e| failed("start a producer", e))?;
        Ok(Self { producer: Some(producer), window })
    }

    /// Hands a record over and returns once it has a place in the window.
    pub(super) async fn submit(
        &self,
        to: To<'_>,
        content: Content<'_>,
    ) -> Result<oneshot::Receiver<Result<Receipt>>> {
        let place = self.window.places.acquire().await.map_err(|_| closed())?;
        let (answer, receipt) = oneshot::channel();
        let ticket = Box::new(Ticket { answer, partitions: to.partitions });
        let mut record = BaseRecord::with_opaque_to(to.topic, ticket).partition(to.partition);
        (record.key, record.payload) = (content.key, content.value);
        record.headers = Some(content.headers);
        let mut refused = match self.send(record) {
            Ok(()) => {
                place.forget();
                return Ok(receipt);
            }
            Err(refused) => refused,
        };
        // The queue is full of bytes: each record that leaves it makes room.
        loop {
            let (error, record) = *refused;
            if code(&error) != Some(Code::QueueFull) {
                return Err(failed(format!("publish to {}", to.topic), error));
            }
            let mut freed = std::pin::pin!(self.window.freed.notified());
            freed.as_mut().enable();
            refused = match self.send(record) {
                Ok(()) => break,
                Err(refused) => refused,
            };
            freed.await;
        }
        place.forget();
        Ok(receipt)
    }

    /// Writes to a table's topic; returns the offset when it is durable.
    pub(super) async fn put(&self, topic: &str, key: &str, value: Option<Bytes>) -> Result<i64> {
        let to = To { topic, partition: 0, partitions: 1 };
        let headers = OwnedHeaders::new_with_capacity(0);
        let content = Content { key: Some(key.as_bytes()), value: value.as_deref(), headers };
        let receipt = self.submit(to, content).await?.await.map_err(|_| closed())??;
        Ok(Place::of(receipt.sequence, 1).map_or(0, |place| place.offset))
    }

    /// Refuses what comes, and waits for the receipts of what came.
    pub(super) async fn close(&self) {
        let all = tokio::time::timeout(DRAIN_LIMIT, self.window.places.acquire_many(WINDOW));
        if let Ok(Ok(all)) = all.await {
            all.forget();
        }
        self.window.places.close();
    }

    #[expect(clippy::type_complexity, reason = "the record comes back, to be sent again")]
    fn send<'a>(
        &self,
        record: BaseRecord<'a, [u8], [u8], Box<Ticket>>,
    ) -> Result<(), Box<(KafkaError, BaseRecord<'a, [u8], [u8], Box<Ticket>>)>> {
        match &self.producer {
            Some(producer) => producer.send(record).map_err(Box::new),
            None => Err(Box::new((KafkaError::Canceled, record))),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The producer waits for its own threads, which a runtime's thread must not.
        if let Some(producer) = self.producer.take() {
            let dropped = std::thread::Builder::new().name("kafka-drop".to_owned());
            // Without a thread it is dropped here, late.
            let _ = dropped.spawn(move || drop(producer));
        }
    }
}

/// Who waits for the report of a record.
struct Ticket {
    answer: oneshot::Sender<Result<Receipt>>,
    partitions: u32,
}

/// Takes the reports, in the producer's thread.
struct Reports {
    window: Arc<Window>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        Logged.log(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logged.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let Ticket { answer, partitions } = *ticket;
        let receipt = match result {
            Ok(record) => {
                let place = Place { partition: record.partition(), offset: record.offset() };
                Ok(Receipt { sequence: place.sequence(partitions), duplicate: false })
            }
            Err((error, record)) => {
                Err(failed(format!("publish to {}", record.topic()), error.clone()))
            }
        };
        // Whoever dropped the receipt does not want to know.
        let _ = answer.send(receipt);
        self.window.places.add_permits(1);
        self.window.freed.notify_waiters();
    }
}
