//! A broker takes a batch or refuses it as a whole, by its size, and the client library fails every
//! record of one that was refused. So a topic that takes less than others gets smaller batches, and
//! the records of a batch that is refused all the same are sent again one by one: then each has a
//! verdict of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::producer::{BaseRecord, ThreadedProducer};

use super::failure::{code, failed};
use super::publisher::{Reports, Ticket};
use super::settings::{BATCH_BYTES, RECORD_OVERHEAD};
use super::window::Window;
use crate::error::Result;

/// What the client library's batches have at most, unless told otherwise.
pub(super) const USUAL: u32 = BATCH_BYTES - RECORD_OVERHEAD;
/// Below this a record of its own is a batch.
const SMALLEST: u32 = 1 << 10;
/// How long a topic that refused a batch gets its records one by one.
const SINGLY_FOR: Duration = Duration::from_secs(60);
/// More topics than refuse at once.
const TOPICS: usize = 1000;
/// How soon a full queue is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

pub(super) type Producer = ThreadedProducer<Reports>;

/// The size of batches for a topic that takes batches of so many bytes: a power of two, so that
/// there are few of them. `None` where the usual ones fit.
fn batch_bytes(takes: u32) -> Option<u32> {
    if takes >= USUAL {
        return None;
    }
    // The client library counts a little less than the broker.
    let room = takes - takes / 16;
    Some(if room < SMALLEST { 1 } else { 1 << room.ilog2() })
}

/// The producers of a connection beside the usual one, each made when it is needed.
pub(super) struct Smaller {
    config: ClientConfig,
    window: Arc<Window>,
    by_bytes: Mutex<BTreeMap<u32, Producer>>,
    pub(super) singly: Arc<Singly>,
}

impl Smaller {
    /// Producers that are set as in `config` but for their batches.
    pub(super) fn new(config: ClientConfig, window: &Arc<Window>) -> Self {
        let singly = Arc::new(Singly {
            config: one_by_one(config.clone()),
            window: window.clone(),
            producer: OnceLock::new(),
            refused: Mutex::default(),
            any: AtomicBool::new(false),
        });
        Self { config, window: window.clone(), by_bytes: Mutex::default(), singly }
    }

    /// The producer for a topic that takes batches of so many bytes; `None` for the usual one.
    pub(super) fn of(&self, topic: &str, takes: u32) -> Result<Option<Producer>> {
        if self.singly.is_for(topic) {
            return self.singly.producer().map(Some);
        }
        match batch_bytes(takes) {
            None => Ok(None),
            Some(1) => self.singly.producer().map(Some),
            Some(bytes) => self.sized(bytes).map(Some),
        }
    }

    fn sized(&self, bytes: u32) -> Result<Producer> {
        let mut by_bytes = self.by_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(producer) = by_bytes.get(&bytes) {
            return Ok(producer.clone());
        }
        let mut config = self.config.clone();
        config.set("batch.size", bytes.to_string());
        let reports = Reports { window: self.window.clone(), singly: Some(self.singly.clone()) };
        let producer = start(&config, reports)?;
        by_bytes.insert(bytes, producer.clone());
        Ok(producer)
    }
}

/// Sends each record in a batch of its own, in the order in which they come.
pub(super) struct Singly {
    config: ClientConfig,
    window: Arc<Window>,
    producer: OnceLock<Producer>,
    /// Topics that refused a batch, and until when they get their records one by one.
    refused: Mutex<BTreeMap<String, Instant>>,
    /// False while there is none of these: looked at for each record.
    any: AtomicBool,
}

impl Singly {
    fn is_for(&self, topic: &str) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let (mut refused, now) = (self.refused(), Instant::now());
        refused.retain(|_, until| *until > now);
        self.any.store(!refused.is_empty(), Ordering::Relaxed);
        refused.contains_key(topic)
    }

    fn producer(&self) -> Result<Producer> {
        if let Some(producer) = self.producer.get() {
            return Ok(producer.clone());
        }
        let made = start(&self.config, Reports { window: self.window.clone(), singly: None })?;
        Ok(self.producer.get_or_init(|| made).clone())
    }

    /// Sends a record again that was part of a batch which the broker refused for its size. Waits
    /// while the queue is full, in the thread of the producer that failed.
    pub(super) fn send_again(&self, record: &BorrowedMessage<'_>, ticket: Box<Ticket>) {
        self.note(record.topic());
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => return ticket.answer(&self.window, Err(error)),
        };
        let mut again = BaseRecord::with_opaque_to(record.topic(), ticket);
        again.partition = Some(record.partition());
        (again.key, again.payload) = (record.key(), record.payload());
        again.headers = record.headers().map(|headers| headers.detach());
        while let Err((error, back)) = producer.send(again) {
            if code(&error) != Some(Code::QueueFull) {
                let error = failed(format!("publish to {}", back.topic), error);
                return back.delivery_opaque.answer(&self.window, Err(error));
            }
            // Its own thread sends meanwhile.
            std::thread::sleep(LOOK_AGAIN);
            again = back;
        }
    }

    fn note(&self, topic: &str) {
        let mut refused = self.refused();
        if refused.len() < TOPICS || refused.contains_key(topic) {
            refused.insert(topic.to_owned(), Instant::now() + SINGLY_FOR);
            self.any.store(true, Ordering::Relaxed);
        }
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each record is a batch.
pub(super) fn one_by_one(mut config: ClientConfig) -> ClientConfig {
    config.set("batch.num.messages", "1");
    config
}

pub(super) fn start(config: &ClientConfig, reports: Reports) -> Result<Producer> {
    let started = Producer::from_config_and_context(config, reports);
    started.map_err(|e| failed("start a producer", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_fit_into_what_a_topic_takes() {
        assert_eq!((batch_bytes(u32::MAX), batch_bytes(USUAL)), (None, None));
        assert_eq!(batch_bytes(USUAL - 1), Some(1 << 19));
        assert_eq!(batch_bytes(10_000), Some(8192));
        assert_eq!(batch_bytes(8192), Some(4096), "with room for what is counted otherwise");
        assert_eq!((batch_bytes(1000), batch_bytes(0)), (Some(1), Some(1)));
    }
}
