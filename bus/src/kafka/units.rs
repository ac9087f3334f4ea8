//! Atomic units: outputs are published and inputs settled in one transaction.
//!
//! The positions that settle the inputs are sent with the group's own metadata, so that a member
//! that lost its partitions cannot commit: the broker fences it by its epoch, whichever producer it
//! uses. Producers are therefore nobody's own: a few are kept and lent out. What a process that
//! died had begun is aborted by the broker after [`TRANSACTION_LIMIT_MS`]; until then readers do
//! not see past it, looking behind it is an error (see [`super::scan`]), and the next owner of its
//! inputs waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::batches::{USUAL, one_by_one};
use super::consumers::Consumers;
use super::entry::StreamEntry;
use super::failure::failed;
use super::link::Link;
use super::member::Member;
use super::publisher::is_too_large;
use super::record::{partition_of, written};
use super::sequence::Place;
use super::settings::Logged;
use super::submit::check;
use super::threads::closed;
use super::token::Slot;
use super::token::instance;
use crate::driver::{Committed, Guarantee};
use crate::driver::{LeaseToken, Unit, UnitInput};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, Receipt};
use crate::name::{ConsumerName, StreamName};

/// The broker aborts a transaction that is open for longer.
const TRANSACTION_LIMIT_MS: &str = "15000";
/// Less than that, as the client demands.
const DELIVERY_LIMIT_MS: &str = "10000";
const DELIVERY_LIMIT: Duration = Duration::from_secs(11);
/// How long one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// How long it is tried to learn whether a transaction was committed.
const VERDICT_LIMIT: Duration = Duration::from_secs(25);
/// How often a unit is tried that was aborted for no reason of its own.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);
/// How many units are under way at once.
const UNITS: usize = 8;

type Producer = FutureProducer<Logged>;

/// The transactional producers of a connection.
pub(super) struct Units {
    idle: Mutex<Vec<Producer>>,
    /// Those whose batches have one record each.
    idle_singly: Mutex<Vec<Producer>>,
    lent: Arc<Semaphore>,
}

impl Default for Units {
    fn default() -> Self {
        let lent = Arc::new(Semaphore::new(UNITS));
        Self { idle: Mutex::default(), idle_singly: Mutex::default(), lent }
    }
}

impl Units {
    /// Lets the producers go; blocks.
    pub(super) fn close(&self) {
        for singly in [false, true] {
            let idle = std::mem::take(&mut *self.idle(singly));
            drop(idle);
        }
    }

    /// A producer; `singly` for one whose batches have one record each.
    fn take(&self, link: &Link, singly: bool) -> Result<Producer> {
        let idle = self.idle(singly).pop();
        if let Some(producer) = idle {
            return Ok(producer);
        }
        let mut config = link.settings.producer();
        if singly {
            config = one_by_one(config);
        }
        config.set("transactional.id", format!("lockgate-{}", instance()));
        config.set("transaction.timeout.ms", TRANSACTION_LIMIT_MS);
        config.set("message.timeout.ms", DELIVERY_LIMIT_MS);
        let doing = "start a transactional producer";
        let producer =
            Producer::from_config_and_context(&config, Logged).map_err(|e| failed(doing, e))?;
        producer.init_transactions(STEP_LIMIT).map_err(|e| failed(doing, e))?;
        Ok(producer)
    }

    fn idle(&self, singly: bool) -> MutexGuard<'_, Vec<Producer>> {
        let idle = if singly { &self.idle_singly } else { &self.idle };
        idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let mut idle = std::mem::take(&mut *self.idle(false));
        idle.append(&mut self.idle(true));
        if !idle.is_empty() {
            // A producer waits for its own threads, which a runtime's thread must not.
            let dropped = std::thread::Builder::new().name("kafka-drop".to_owned());
            let _ = dropped.spawn(move || drop(idle));
        }
    }
}

/// See [`crate::driver::Driver::commit`].
pub(super) async fn commit(
    units: &Arc<Units>,
    consumers: &Consumers,
    streams: &[Arc<StreamEntry>],
    unit: &Unit,
) -> Result<Committed> {
    let outputs = unit.outputs.iter().zip(streams);
    let outputs = outputs.map(|((_, message), stream)| Output::new(stream, message));
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    let inputs = inputs(consumers, &unit.inputs)?;
    let singly = streams.iter().any(|stream| stream.largest_batch() < USUAL);
    let permit = units.lent.clone().acquire_owned().await.map_err(|_| closed())?;
    let (units, link, runtime) = (units.clone(), consumers.link.clone(), Handle::current());
    let of = link.clone();
    let done = link.apart(move || {
        let _permit = permit;
        Attempt { units: &units, link: &of, runtime, inputs: &inputs, outputs: &outputs, singly }
            .run()
    });
    Ok(Committed { receipts: done.await?, guarantee: Guarantee::Exactly })
}

/// Something to publish.
struct Output {
    topic: String,
    place: Place,
    partitions: u32,
    key: Option<Bytes>,
    payload: Option<Bytes>,
    headers: Option<OwnedHeaders>,
}

impl Output {
    fn new(stream: &StreamEntry, message: &Message) -> Result<Self> {
        check(&stream.config, message)?;
        let partitions = stream.config.partitions;
        let (key, headers) = written(message, &stream.keyed)?;
        let place = Place { partition: partition_of(message, partitions), offset: 0 };
        Ok(Self {
            topic: stream.config.name.to_string(),
            place,
            partitions,
            key: key.map(Bytes::copy_from_slice),
            payload: message.payload.clone(),
            headers,
        })
    }
}

/// What a unit settles of one consumer.
struct Input {
    member: Arc<Member>,
    tokens: Vec<LeaseToken>,
}

fn inputs(consumers: &Consumers, given: &[UnitInput]) -> Result<Vec<Input>> {
    // In the order of their names, so that no two units wait for each other's turns.
    let mut inputs: BTreeMap<(&StreamName, &ConsumerName), Input> = BTreeMap::new();
    for UnitInput { stream, consumer, token, .. } in given {
        let member = consumers.member(stream, consumer).ok_or_else(|| {
            let what = format!("the input of consumer {consumer} on {stream} is none of this bus'");
            Error::new(ErrorKind::Stale, what)
        })?;
        let input = inputs.entry((stream, consumer));
        input.or_insert_with(|| Input { member, tokens: Vec::new() }).tokens.push(token.clone());
    }
    Ok(inputs.into_values().collect())
}

struct Attempt<'a> {
    units: &'a Units,
    link: &'a Link,
    runtime: Handle,
    inputs: &'a [Input],
    outputs: &'a [Output],
    /// Each record in a batch of its own: a topic takes less than the usual batches.
    singly: bool,
}

/// How a transaction failed.
enum Failed {
    /// Nothing of it holds; the same may succeed another time.
    Again(Error),
    /// Nothing of it holds.
    Aborted(Error),
    /// Nobody knows.
    Unknown(Error),
}

impl Attempt<'_> {
    fn run(mut self) -> Result<Vec<Receipt>> {
        let mut attempt = 1;
        loop {
            match self.once() {
                Ok(receipts) => return Ok(receipts),
                Err(Failed::Again(error)) if attempt < ATTEMPTS => {
                    tracing::debug!(%error, attempt, "the unit was aborted, trying again");
                    attempt += 1;
                    std::thread::sleep(PAUSE);
                }
                // The broker's verdict on a batch: sent one by one, each record has its own.
                Err(Failed::Aborted(error))
                    if error.kind() == ErrorKind::TooLarge && !self.singly =>
                {
                    tracing::debug!(%error, "a batch of the unit was refused, trying one by one");
                    self.singly = true;
                }
                Err(Failed::Again(error) | Failed::Aborted(error)) => return Err(error),
                Err(Failed::Unknown(error)) => return Err(error),
            }
        }
    }

    fn once(&self) -> Result<Vec<Receipt>, Failed> {
        let producer = self.units.take(self.link, self.singly).map_err(Failed::Again)?;
        // No commit of these members may pass between here and the end of the transaction.
        let members: Vec<_> = self.inputs.iter().map(|input| input.member.shared()).collect();
        let _turns: Vec<_> = members
            .iter()
            .map(|shared| shared.commits.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        let slots = self.hold()?;
        let done = self.transact(&producer, &slots);
        for (shared, slots) in members.iter().zip(&slots) {
            let mut state = shared.state();
            for slot in slots {
                match done {
                    Ok(_) => state.desk.finish(*slot),
                    Err(_) => state.desk.release(*slot),
                }
            }
            // What is committed says whether it was: the group is joined again from there.
            state.rejoin |= matches!(done, Err(Failed::Unknown(_)));
            drop(state);
            shared.arrived.notify_waiters();
            shared.bell.ring();
        }
        match &done {
            Err(Failed::Unknown(_)) => {
                for shared in members {
                    let parts = shared.state().desk.parts();
                    shared.give_up(&parts);
                }
            }
            _ if producer.client().fatal_error().is_none() => {
                self.units.idle(self.singly).push(producer);
            }
            _ => {}
        }
        done
    }

    /// Keeps the leases of the inputs from ending meanwhile; all of them, or an error.
    fn hold(&self) -> Result<Vec<Vec<Slot>>, Failed> {
        let mut held: Vec<Vec<Slot>> = Vec::with_capacity(self.inputs.len());
        for Input { member, tokens } in self.inputs {
            let now = Instant::now();
            let slots = member.shared().lock().and_then(|mut state| state.desk.hold(tokens, now));
            match slots {
                Ok(slots) => held.push(slots),
                Err(stale) => {
                    for (input, slots) in self.inputs.iter().zip(held) {
                        let mut state = input.member.shared().state();
                        slots.into_iter().for_each(|slot| state.desk.release(slot));
                    }
                    return Err(Failed::Aborted(stale));
                }
            }
        }
        Ok(held)
    }

    fn transact(&self, producer: &Producer, slots: &[Vec<Slot>]) -> Result<Vec<Receipt>, Failed> {
        producer.begin_transaction().map_err(|e| self.abort(producer, e))?;
        let receipts = match self.publish(producer) {
            Ok(receipts) => receipts,
            Err(error) => return Err(self.abort(producer, error)),
        };
        for (input, slots) in self.inputs.iter().zip(slots) {
            let shared = input.member.shared();
            let (positions, client) = {
                let state = shared.state();
                (state.desk.positions_with(slots), state.client.clone())
            };
            let Some(group) = client.and_then(|client| client.group_metadata()) else {
                return Err(self.abort(producer, KafkaError::Canceled));
            };
            let sent = shared.of.list(&positions).and_then(|list| {
                retried(|| producer.send_offsets_to_transaction(&list, &group, STEP_LIMIT))
            });
            sent.map_err(|e| self.abort(producer, e))?;
        }
        match retried(|| producer.commit_transaction(STEP_LIMIT)) {
            Ok(()) => Ok(receipts),
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                Err(self.abort(producer, KafkaError::Transaction(error)))
            }
            Err(error) => {
                let error = failed("commit a unit: it may have happened", error);
                Err(Failed::Unknown(Error::with_source(
                    ErrorKind::Timeout,
                    error.to_string(),
                    error,
                )))
            }
        }
    }

    /// Publishes, and waits until all of it is stored: committing before would wait longer.
    fn publish(&self, producer: &Producer) -> Result<Vec<Receipt>, KafkaError> {
        let mut pending = Vec::with_capacity(self.outputs.len());
        for output in self.outputs {
            let record = FutureRecord {
                topic: &output.topic,
                partition: Some(output.place.partition),
                payload: output.payload.as_deref(),
                key: output.key.as_deref(),
                timestamp: None,
                headers: output.headers.clone(),
            };
            pending.push(producer.send_result(record).map_err(|(error, _)| error)?);
        }
        let stored = futures_util::future::join_all(pending);
        let stored = async { tokio::time::timeout(DELIVERY_LIMIT, stored).await };
        let timed_out =
            || KafkaError::MessageProduction(rdkafka::types::RDKafkaErrorCode::MessageTimedOut);
        let stored = self.runtime.block_on(stored).map_err(|_| timed_out())?;
        // One batch that was refused takes the others with it: its verdict is the one that counts.
        let verdict = stored.iter().flatten().filter_map(|stored| stored.as_ref().err());
        if let Some((error, _)) = verdict.into_iter().find(|(error, _)| is_too_large(error)) {
            return Err(error.clone());
        }
        let receipt = |(output, stored): (&Output, _)| {
            let stored: Result<Result<rdkafka::producer::future_producer::Delivery, _>, _> = stored;
            let stored = stored.map_err(|_| KafkaError::Canceled)?.map_err(|(error, _)| error)?;
            let place = Place { partition: stored.partition, offset: stored.offset };
            Ok(Receipt { sequence: place.sequence(output.partitions), duplicate: false })
        };
        self.outputs.iter().zip(stored).map(receipt).collect()
    }

    /// Ends the transaction: nothing of it holds.
    fn abort(&self, producer: &Producer, why: KafkaError) -> Failed {
        let refused = match &why {
            // The group has moved on since: the next attempt finds out whether the inputs have.
            KafkaError::Transaction(_) | KafkaError::Canceled => false,
            // The broker does not take an output, and will not another time.
            error => !super::failure::is_passing(error),
        };
        if let Err(error) = retried(|| producer.abort_transaction(STEP_LIMIT)) {
            tracing::debug!(%error, "not aborted: the broker does it in time");
        }
        let error = failed("commit a unit", why);
        if refused { Failed::Aborted(error) } else { Failed::Again(error) }
    }
}

/// Repeats a step for as long as the client says that it may be.
fn retried(mut step: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let deadline = Instant::now() + VERDICT_LIMIT;
    loop {
        match step() {
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && Instant::now() < deadline =>
            {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}
