//! Batches on their way to Kafka. Everything here blocks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel as Level;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::position::Kept;
use crate::config::{KafkaCluster, Mode, Route};
use crate::failure::Failure;
use crate::mapping::Record;
use crate::{kafka, names};

/// The broker aborts a transaction that is open for longer.
const TRANSACTION_MS: &str = "30000";
/// Less than that, as the client demands.
const DELIVERY_MS: &str = "25000";
const STEP: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);

/// A route's producer.
pub(super) struct Producer {
    client: BaseProducer<Deliveries>,
    route: Route,
}

/// Why a batch is not in Kafka. None of it is, where it was a transaction.
pub(super) enum Refused {
    /// One of the records cannot be stored, and why. Which one is not known: a broker refuses what
    /// came with it in the same breath.
    One(String),
    /// Something else.
    All(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::All(failure)
    }
}

/// What became of the records of the batch under way.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Count>>);

#[derive(Default)]
struct Count {
    open: usize,
    /// Why the first of them failed.
    failed: Option<KafkaError>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: Level, fac: &str, line: &str) {
        kafka::note(level, fac, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        kafka::note_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        let mut count = self.lock();
        count.open = count.open.saturating_sub(1);
        if let Err((error, _)) = delivered {
            // That one was too large says more than that the others were purged for it.
            let says_more =
                is_of_one(error) && count.failed.as_ref().is_none_or(|known| !is_of_one(known));
            if count.failed.is_none() || says_more {
                count.failed = Some(error.clone());
            }
        }
    }
}

/// True for an error that is about one record and would be the same again.
fn is_of_one(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::MessageSizeTooLarge
                | Code::InvalidMessage
                | Code::InvalidRecord
                | Code::InvalidTimestamp
        )
    )
}

impl Producer {
    /// Starts it. In transactions nothing of an earlier one of this route comes after this returns.
    pub(super) fn start(cluster: &KafkaCluster, route: &Route) -> Result<Self, Failure> {
        let doing = || String::from("start a producer");
        let mut config = kafka::producer(cluster)?;
        config.set("message.timeout.ms", DELIVERY_MS);
        if route.mode == Mode::Transactions {
            config.set("transactional.id", names::kafka_id(&route.name));
            config.set("transaction.timeout.ms", TRANSACTION_MS);
        }
        let client: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(Failure::kafka(doing()))?;
        if route.mode == Mode::Transactions {
            let doing = "fence earlier producers of the route";
            client.init_transactions(STEP).map_err(Failure::kafka(doing))?;
        }
        Ok(Self { client, route: route.clone() })
    }

    /// Stores records and the position behind them. When this returns in order both are there.
    pub(super) fn store<'r>(
        &self,
        records: impl IntoIterator<Item = &'r Record>,
        position: &Kept,
    ) -> Result<(), Refused> {
        if self.route.mode == Mode::Idempotent {
            self.send_all(records)?;
            return self.send_position(position);
        }
        let doing = |what: &str| format!("{what} a transaction");
        self.client.begin_transaction().map_err(Failure::kafka(doing("begin")))?;
        let sent = self.send_all(records).and_then(|()| self.send_position(position));
        if let Err(refused) = sent {
            self.client.abort_transaction(STEP).map_err(Failure::kafka(doing("abort")))?;
            return Err(refused);
        }
        // All is delivered: this need not flush, which takes a tenth of a second.
        Ok(self.client.commit_transaction(STEP).map_err(Failure::kafka(doing("commit")))?)
    }

    /// Sends records without a position, and waits until they are there.
    pub(super) fn send_all<'r>(
        &self,
        records: impl IntoIterator<Item = &'r Record>,
    ) -> Result<(), Refused> {
        *self.client.context().lock() = Count::default();
        for record in records {
            self.send(&self.route.kafka_topic, record)?;
        }
        self.delivered()
    }

    fn send_position(&self, position: &Kept) -> Result<(), Refused> {
        let value = serde_json::to_vec(position).map_err(|e| Failure::Again(e.to_string()))?;
        let record = Record {
            key: Some(position.key(&self.route).into()),
            value: Some(value.into()),
            ..Record::default()
        };
        *self.client.context().lock() = Count::default();
        self.send(&names::position_topic(&self.route.name), &record)?;
        match self.delivered() {
            // It is no record of the batch.
            Err(Refused::One(why)) => Err(Failure::Again(format!("the position: {why}")).into()),
            done => done,
        }
    }

    fn send(&self, topic: &str, record: &Record) -> Result<(), Refused> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (name, value) in &record.headers {
            headers = headers.insert(Header { key: name, value: value.as_deref() });
        }
        let mut next = BaseRecord::<[u8], [u8], ()>::to(topic);
        next.key = record.key.as_deref();
        next.payload = record.value.as_deref();
        next.timestamp = record.timestamp;
        next = if record.headers.is_empty() { next } else { next.headers(headers) };
        self.client.context().lock().open += 1;
        loop {
            match self.client.send(next) {
                Ok(()) => return Ok(()),
                Err((error, again)) if error.rdkafka_error_code() == Some(Code::QueueFull) => {
                    next = again;
                    self.client.poll(POLL);
                }
                Err((error, _)) if is_of_one(&error) => {
                    return Err(Refused::One(error.to_string()));
                }
                Err((source, _)) => {
                    return Err(Failure::Kafka { doing: format!("send to {topic}"), source }.into());
                }
            }
        }
    }

    /// Waits until all that was sent is there.
    fn delivered(&self) -> Result<(), Refused> {
        let deadline = Instant::now() + STEP;
        loop {
            {
                let mut count = self.client.context().lock();
                if count.open == 0 {
                    return match count.failed.take() {
                        None => Ok(()),
                        Some(error) if is_of_one(&error) => Err(Refused::One(error.to_string())),
                        Some(source) => {
                            let doing = format!("store in {}", self.route.kafka_topic);
                            Err(Failure::Kafka { doing, source }.into())
                        }
                    };
                }
            }
            if Instant::now() >= deadline {
                let what = format!("kafka: no word of a batch within {STEP:?}");
                return Err(Failure::Again(what).into());
            }
            self.client.poll(POLL);
        }
    }
}
