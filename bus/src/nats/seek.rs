//! Moving a consumer: by a reset where the server allows one, by making it anew otherwise.
//!
//! A reset (server 2.14) takes any sequence for a consumer that began at the beginning, and any
//! behind its start for one that began at a sequence or a time; the server refuses the rest
//! (10204). It counts deliveries from 1 again, so that the ack subject of a delivery from before
//! may be the same, letter by letter, as that of a delivery after. So each token carries the
//! process and the moves it had seen, and a process refuses its own tokens from before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_nats::jetstream::consumer::Info;
use async_nats::jetstream::stream::RetentionPolicy;
use serde_json::json;
use tokio::sync::{RwLock, RwLockReadGuard, watch};

use super::consumers::{self, CreateRequest, deliver_policy};
use super::failure::Failure;
use super::link::Link;
use super::pull::Prefetch;
use super::streams::{self, Removed};
use crate::config::Start;
use crate::driver::life::Life;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName};

const RESET_NOT_ALLOWED: u64 = 10204;
const EXISTS: u64 = 10148;
const NAME_EXISTS: u64 = 10013;
/// Someone else may make the consumer between its removal and its creation here.
const ATTEMPTS: u32 = 5;

/// Of each consumer that this process has bound, who fetches from it and who moves it.
#[derive(Default)]
pub(super) struct Gates(Mutex<BTreeMap<(StreamName, ConsumerName), Weak<Gate>>>);

/// Fetches pass through together; a move waits until none is under way, and tells them to stop.
pub(super) struct Gate {
    moves: watch::Sender<u64>,
    /// The same number, for whoever only looks: each delivery and each ack does.
    moved: AtomicU64,
    passage: RwLock<()>,
    prefetches: Mutex<Vec<Weak<Prefetch>>>,
    /// The life that the consumer was last seen in, unless there are signs of another one.
    life: Mutex<Option<Life>>,
}

/// A fetch under way.
pub(super) struct Passage<'a> {
    moves: watch::Receiver<u64>,
    _open: RwLockReadGuard<'a, ()>,
}

impl Gates {
    pub(super) fn gate(&self, stream: &StreamName, consumer: &ConsumerName) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (stream.clone(), consumer.clone());
        if let Some(gate) = gates.get(&place).and_then(Weak::upgrade) {
            return gate;
        }
        gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = Arc::new(Gate {
            moves: watch::Sender::new(0),
            moved: AtomicU64::new(0),
            passage: RwLock::default(),
            prefetches: Mutex::default(),
            life: Mutex::default(),
        });
        gates.insert(place, Arc::downgrade(&gate));
        gate
    }
}

impl Gate {
    /// What is fetched ahead through `prefetch` is given up when the consumer is moved.
    pub(super) fn watch_over(&self, prefetch: &Arc<Prefetch>) {
        let mut all = self.prefetches.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|prefetch| prefetch.strong_count() > 0);
        all.push(Arc::downgrade(prefetch));
    }

    /// The life that the consumer was last seen in.
    pub(super) fn life(&self) -> Option<Life> {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the life that the consumer is in; `None` where that has to be asked again.
    pub(super) fn set_life(&self, life: Option<Life>) {
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// How often this process has moved the consumer.
    pub(super) fn moves(&self) -> u64 {
        self.moved.load(Ordering::Acquire)
    }

    /// Waits until no move is under way.
    pub(super) async fn pass(&self) -> Passage<'_> {
        let open = self.passage.read().await;
        let mut moves = self.moves.subscribe();
        moves.mark_unchanged();
        Passage { moves, _open: open }
    }

    async fn give_up_ahead(&self) {
        let all: Vec<_> = {
            let all = self.prefetches.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for prefetch in all {
            prefetch.give_up().await;
        }
    }
}

impl Passage<'_> {
    /// Returns when the consumer is being moved: what is on its way is void.
    pub(super) async fn moved(&mut self) {
        if self.moves.changed().await.is_err() {
            // The gate lives as long as this does.
            std::future::pending::<()>().await;
        }
    }
}

/// See [`crate::driver::Driver::seek_consumer`].
///
/// A move that makes the consumer anew and is cut short by a crash may leave none: declaring it
/// again makes it, at its declared start.
pub(super) async fn seek(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
    to: Start,
) -> Result<()> {
    let fail = |failure| consumers::explained(stream, name, failure);
    let mut existing = consumers::raw_info(link, stream, name).await.map_err(fail)?;
    let gate = link.gates.gate(stream, name);
    // Whoever fetches at this moment lets go, and what the server sends from here on finds no
    // inbox of before: the connection keeps the order.
    gate.moves.send_modify(|moves| {
        *moves += 1;
        gate.moved.store(*moves, Ordering::Release);
    });
    let _closed = gate.passage.write().await;
    gate.set_life(None);
    gate.give_up_ahead().await;
    // First the count: whatever comes after the move finds it.
    existing.config = consumers::counted(&existing.config);
    if let Some(sequence) = sequence(link, stream, to).await?
        && link.client.is_server_compatible(2, 14, 0)
    {
        count(link, stream, name, &existing).await?;
        let operation = format!("CONSUMER.RESET.{stream}.{name}");
        match link.api_repeated::<Info>(&operation, &json!({ "seq": sequence })).await {
            Ok(_) => return Ok(()),
            Err(Failure::Api(code, _)) if code.0 == RESET_NOT_ALLOWED => {}
            Err(failure) => return Err(fail(failure)),
        }
    }
    make_anew(link, stream, name, &existing, to).await
}

/// Has the server keep how often the consumer was moved.
async fn count(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
    counted: &Info,
) -> Result<()> {
    let (stream_name, config) = (stream.as_str(), &counted.config);
    let request = CreateRequest { stream_name, config, action: "update" };
    let operation = format!("CONSUMER.CREATE.{stream}.{name}");
    let updated = link.api_repeated::<Info>(&operation, &request).await;
    updated.map(|_| ()).map_err(|failure| consumers::explained(stream, name, failure))
}

/// The sequence to go on at, where it can be told beforehand.
async fn sequence(link: &Link, stream: &StreamName, to: Start) -> Result<Option<u64>> {
    Ok(match to {
        Start::Beginning => Some(1),
        Start::Sequence(sequence) => Some(sequence.max(1)),
        Start::New => Some(streams::raw_info(link, stream).await?.state.last_sequence + 1),
        Start::Time(_) | Start::LastPerSubject => None,
    })
}

async fn make_anew(
    link: &Link,
    stream: &StreamName,
    name: &ConsumerName,
    existing: &Info,
    to: Start,
) -> Result<()> {
    let fail = |failure| consumers::explained(stream, name, failure);
    // Its creation would be refused when the old one is gone.
    if streams::raw_info(link, stream).await?.config.retention == RetentionPolicy::WorkQueue {
        let what = format!("consumer {name} on work queue {stream} cannot be moved to {to:?}");
        return Err(Error::invalid(what));
    }
    let config = consumers::moved(&existing.config, deliver_policy(to)?);
    let request = CreateRequest { stream_name: stream.as_str(), config: &config, action: "create" };
    for _ in 0..ATTEMPTS {
        let operation = format!("CONSUMER.DELETE.{stream}.{name}");
        match link.api_repeated::<Removed>(&operation, &()).await {
            Ok(Removed {}) => {}
            Err(failure) if failure.is_consumer_missing() => {}
            Err(failure) => return Err(fail(failure)),
        }
        match link.api_repeated::<Info>(&format!("CONSUMER.CREATE.{stream}.{name}"), &request).await
        {
            Ok(_) => return Ok(()),
            // Someone declared it meanwhile.
            Err(Failure::Api(code, _)) if code.0 == EXISTS || code.0 == NAME_EXISTS => {}
            Err(failure) => return Err(fail(failure)),
        }
    }
    let what = format!("consumer {name} on stream {stream} is made by others at this moment");
    Err(Error::new(ErrorKind::Unavailable, format!("{what}: move it again")))
}
