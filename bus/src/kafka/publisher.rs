//! Publishing through idempotent producers, within a bounded window. Nearly all goes through one
//! of them: see [`super::batches`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext};
use tokio::sync::oneshot;

use super::batches::{Producer, Singly, Smaller, start};
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
    /// The largest batch that the topic takes, in bytes, as far as that is known.
    pub(super) takes: u32,
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

/// The producers of a connection.
pub(super) struct Publisher {
    /// The usual one, and the others; none once it is dropped.
    producers: Option<(Producer, Smaller)>,
    window: Arc<Window>,
}

impl Publisher {
    pub(super) fn start(link: &Link) -> Result<Self> {
        let window = Arc::new(Window::default());
        let config = link.settings.producer();
        let smaller = Smaller::new(config.clone(), &window);
        let reports = Reports { window: window.clone(), singly: Some(smaller.singly.clone()) };
        Ok(Self { producers: Some((start(&config, reports)?, smaller)), window })
    }

    /// Hands a record over and returns once it has a place in the window.
    pub(super) async fn submit(
        &self,
        to: To<'_>,
        content: Content<'_>,
    ) -> Result<oneshot::Receiver<Result<Receipt>>> {
        let place = self.window.enter().await?;
        let (usual, smaller) = self.producers.as_ref().ok_or_else(closed)?;
        let other = smaller.of(to.topic, to.takes)?;
        let producer = other.as_ref().unwrap_or(usual);
        let (answer, receipt) = oneshot::channel();
        let ticket = Box::new(Ticket { answer, partitions: to.partitions });
        let mut record = BaseRecord::with_opaque_to(to.topic, ticket).partition(to.partition);
        (record.key, record.payload) = (content.key, content.value);
        record.headers = content.headers;
        if let Err(refused) = send(producer, record) {
            Box::pin(self.send_again(producer, refused)).await?;
        }
        place.keep();
        Ok(receipt)
    }

    /// Waits while the queue is full of bytes: each record that leaves it makes room.
    async fn send_again(&self, producer: &Producer, refused: Refused<'_>) -> Result<()> {
        let mut held = Some(refused);
        let sent = self.window.until(|| {
            let (error, record) = *held.take()?;
            if code(&error) != Some(Code::QueueFull) {
                return Some(Err(failed(format!("publish to {}", record.topic), error)));
            }
            held = send(producer, record).err();
            held.is_none().then_some(Ok(()))
        });
        sent.await?
    }

    /// Writes to a table's topic; returns the offset when it is durable.
    pub(super) async fn put(&self, topic: &str, key: &str, value: Option<Bytes>) -> Result<i64> {
        let to = To { topic, partition: 0, partitions: 1, takes: u32::MAX };
        let content = Content { key: Some(key.as_bytes()), value: value.as_deref(), headers: None };
        let receipt = self.submit(to, content).await?.await.map_err(|_| closed())??;
        Ok(Place::of(receipt.sequence, 1).map_or(0, |place| place.offset))
    }

    /// Refuses what comes, and waits for the receipts of what came.
    pub(super) async fn close(&self) {
        // What is not reported by then is reported when the producer goes.
        let _ = tokio::time::timeout(DRAIN_LIMIT, self.window.close()).await;
    }
}

fn send<'a>(producer: &Producer, record: Record<'a>) -> Result<(), Refused<'a>> {
    producer.send(record).map_err(Box::new)
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // A producer waits for its own threads, which a runtime's thread must not.
        if let Some(producers) = self.producers.take() {
            let dropped = std::thread::Builder::new().name("kafka-drop".to_owned());
            // Without a thread they are dropped here, late.
            let _ = dropped.spawn(move || drop(producers));
        }
    }
}

/// Who waits for the report of a record.
pub(super) struct Ticket {
    answer: oneshot::Sender<Result<Receipt>>,
    partitions: u32,
}

impl Ticket {
    /// Reports the record, and gives its place in the window back.
    pub(super) fn answer(self, window: &Window, receipt: Result<Receipt>) {
        // Whoever dropped the receipt does not want to know.
        let _ = self.answer.send(receipt);
        window.report();
    }
}

/// Takes the reports, in the producer's thread.
pub(super) struct Reports {
    pub(super) window: Arc<Window>,
    /// Where the records of a batch go that was refused for its size; none where each was a batch.
    pub(super) singly: Option<Arc<Singly>>,
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
        let receipt = match result {
            Ok(record) => {
                let place = Place { partition: record.partition(), offset: record.offset() };
                Ok(Receipt { sequence: place.sequence(ticket.partitions), duplicate: false })
            }
            Err((error, record)) => {
                if let (Some(singly), true) = (&self.singly, is_too_large(error)) {
                    return singly.send_again(record, ticket);
                }
                Err(failed(format!("publish to {}", record.topic()), error.clone()))
            }
        };
        ticket.answer(&self.window, receipt);
    }
}

/// True for the broker's verdict on a batch, which says nothing of each record in it.
pub(super) fn is_too_large(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge))
}
