//! Publishing through one idempotent producer, within a bounded window.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use super::failure::{code, failed};
use super::link::Link;
use super::sequence::Place;
use super::settings::Logged;
use super::threads::closed;
use super::window::Window;
use crate::error::Result;
use crate::message::Receipt;

/// What closing waits for at most; longer than the producer tries.
const DRAIN_LIMIT: Duration = Duration::from_secs(125);

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
    pub(super) headers: Option<OwnedHeaders>,
}

type Record<'a> = BaseRecord<'a, [u8], [u8], Box<Ticket>>;
/// Why a record was not taken, and the record.
type Refused<'a> = Box<(KafkaError, Record<'a>)>;

/// One producer, shared.
pub(super) struct Publisher {
    producer: Option<ThreadedProducer<Reports>>,
    window: Arc<Window>,
}

impl Publisher {
    pub(super) fn start(link: &Link) -> Result<Self> {
        let window = Arc::new(Window::default());
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
        let place = self.window.enter().await?;
        let (answer, receipt) = oneshot::channel();
        let ticket = Box::new(Ticket { answer, partitions: to.partitions });
        let mut record = BaseRecord::with_opaque_to(to.topic, ticket).partition(to.partition);
        (record.key, record.payload) = (content.key, content.value);
        record.headers = content.headers;
        if let Err(refused) = self.send(record) {
            Box::pin(self.send_again(refused)).await?;
        }
        place.keep();
        Ok(receipt)
    }

    /// Waits while the queue is full of bytes: each record that leaves it makes room.
    async fn send_again(&self, refused: Refused<'_>) -> Result<()> {
        let mut held = Some(refused);
        let sent = self.window.until(|| {
            let (error, record) = *held.take()?;
            if code(&error) != Some(Code::QueueFull) {
                return Some(Err(failed(format!("publish to {}", record.topic), error)));
            }
            held = self.send(record).err();
            held.is_none().then_some(Ok(()))
        });
        sent.await?
    }

    /// Writes to a table's topic; returns the offset when it is durable.
    pub(super) async fn put(&self, topic: &str, key: &str, value: Option<Bytes>) -> Result<i64> {
        let to = To { topic, partition: 0, partitions: 1 };
        let content = Content { key: Some(key.as_bytes()), value: value.as_deref(), headers: None };
        let receipt = self.submit(to, content).await?.await.map_err(|_| closed())??;
        Ok(Place::of(receipt.sequence, 1).map_or(0, |place| place.offset))
    }

    /// Refuses what comes, and waits for the receipts of what came.
    pub(super) async fn close(&self) {
        // What is not reported by then is reported when the producer goes.
        let _ = tokio::time::timeout(DRAIN_LIMIT, self.window.close()).await;
    }

    fn send<'a>(&self, record: Record<'a>) -> Result<(), Refused<'a>> {
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
        self.window.report();
    }
}
