//! One delivery, from its turn to its end: handled, tried again, settled.

use std::any::Any;
use std::error::Error as StdError;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lines::Turn;
use super::settling::{self, Settling};
use super::verdict::{Verdict, judge};
use crate::backoff::Backoff;
use crate::driver::Settlement;
use crate::engine::delivery::{Delivery, Screened};
use crate::error::{Error, ErrorKind, Result};
use crate::handler::Received;
use crate::lease::LeaseStatus;
use crate::middleware::{Disposition, Handling, Layers, Work, said};
use crate::random::hash;

pub(super) type Handler = dyn Fn(Received) -> Handling + Send + Sync;

/// What the deliveries of one consumer at work have in common.
pub(super) struct Shop {
    pub(super) handler: Arc<Handler>,
    pub(super) layers: Layers,
    pub(super) backoff: Backoff,
    /// The limit on attempts, where the loop keeps it and not the backend.
    pub(super) max_attempts: Option<u32>,
    pub(super) by_key: bool,
    /// One for each handler that may be at work.
    pub(super) slots: Semaphore,
    /// Cancelled when no further attempt is to begin.
    pub(super) stopping: CancellationToken,
    /// Under which this process owns the consumer, where it must.
    pub(super) term: Option<LeaseStatus>,
    /// Deliveries held here whose settlement has not begun: each of them is unsettled in the
    /// backend too.
    pub(super) unsettled: AtomicU64,
}

/// Counts a delivery as held and unsettled, until its settlement begins or it is let go.
pub(super) struct Counted {
    shop: Arc<Shop>,
    counts: bool,
}

impl Counted {
    pub(super) fn new(shop: &Arc<Shop>) -> Self {
        shop.unsettled.fetch_add(1, Ordering::Relaxed);
        Self { shop: shop.clone(), counts: true }
    }

    /// From now on nobody knows whether it is settled.
    pub(super) fn settling(&mut self) {
        if std::mem::replace(&mut self.counts, false) {
            self.shop.unsettled.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// It is known not to be settled after all.
    pub(super) fn unsettled(&mut self) {
        if !std::mem::replace(&mut self.counts, true) {
            self.shop.unsettled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.settling();
    }
}

/// Works on a delivery once it has its turn. True when it is settled for good, so that the next
/// of its key may begin.
pub(super) async fn work(
    shop: Arc<Shop>,
    delivery: Delivery,
    turn: Option<oneshot::Receiver<Turn>>,
    counted: Counted,
) -> bool {
    let (sequence, attempt) = (delivery.message().sequence, delivery.attempt());
    let first = shop.seen(&delivery, attempt);
    // A middleware is somebody's code: its panic must not leave a key waiting for ever.
    let worked = AssertUnwindSafe(process(&shop, delivery, turn, counted)).catch_unwind().await;
    let how = match worked {
        Ok(Ok(how)) => how,
        Ok(Err(error)) => {
            tracing::warn!(sequence, %error, "not settled, it will be delivered again");
            Disposition::Left
        }
        Err(panic) => {
            let why = said(panic.as_ref());
            tracing::error!(sequence, why, "a panic left it unsettled, it will be delivered again");
            Disposition::Left
        }
    };
    // A retry is told as it happens when the key is held here.
    shop.tell(first.as_ref(), how);
    !matches!(how, Disposition::Left | Disposition::Retried)
}

async fn process(
    shop: &Arc<Shop>,
    mut delivery: Delivery,
    turn: Option<oneshot::Receiver<Turn>>,
    counted: Counted,
) -> Result<Disposition> {
    let mut behind = false;
    if let Some(turn) = turn {
        match keep(&mut delivery, shop.unless_stopping(turn)).await? {
            Some(Ok(turn)) => behind = turn.behind,
            Some(Err(_)) if !shop.stopping.is_cancelled() => return Ok(Disposition::Left),
            _ => return settling::give_back(shop, delivery, counted).await,
        }
    }
    let mut decided = match delivery.screen() {
        Screened::Handle => None,
        Screened::Skip => {
            settling::settle(shop, delivery, Settlement::Ack, counted).await?;
            return Ok(Disposition::Skipped);
        }
        // Its deliveries were spent in line, behind what brought the processes down.
        Screened::GiveUp(_) if behind => None,
        Screened::GiveUp(reason) => Some(Verdict::GiveUp(reason)),
    };
    let mut settling = Settling { shop, delivery, counted, attempt: 0 };
    settling.attempt = settling.delivery.attempt();
    loop {
        let verdict = match decided.take() {
            Some(verdict) => verdict,
            None => match shop.attempt(&mut settling.delivery, settling.attempt).await? {
                Some(verdict) => verdict,
                None => return settling.give_back().await,
            },
        };
        let (delay, next) = match settling.carry_out(verdict).await? {
            settling::Next::Done(how) => return Ok(how),
            settling::Next::Later(delay, next) => (delay, next),
        };
        if !shop.by_key {
            return settling.retry(delay).await;
        }
        let (delivery, pause) = (&mut settling.delivery, tokio::time::sleep(delay));
        if keep(delivery, shop.unless_stopping(pause)).await?.is_none() {
            return settling.give_back().await;
        }
        settling.attempt = settling.attempt.saturating_add(1);
        decided = next;
    }
}

impl Shop {
    /// One attempt of the handler; `None` when none is to begin any more.
    async fn attempt(&self, delivery: &mut Delivery, attempt: u32) -> Result<Option<Verdict>> {
        let slot = keep(delivery, self.unless_stopping(self.slots.acquire())).await?;
        let Some(Ok(_slot)) = slot else { return Ok(None) };
        self.check_term()?;
        let received = Received { message: delivery.message().clone(), attempt };
        let (handler, layers) = (self.handler.clone(), &self.layers);
        let handling: Handling = match self.seen(delivery, attempt) {
            None => handler(received),
            Some(work) => layers.handle(&work, Box::pin(async move { handler(received).await })),
        };
        let handled = keep(delivery, AssertUnwindSafe(handling).catch_unwind()).await?;
        let ended = match handled {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(chain(error.as_ref())),
            Err(panic) => Err(panicked(panic.as_ref())),
        };
        let delay = self.delay(delivery, attempt);
        Ok(Some(judge(ended, attempt, self.max_attempts, delay)))
    }

    /// The backoff after this attempt, spread by which message of which consumer it is: the same
    /// on every run, and another one for its neighbours.
    pub(super) fn delay(&self, delivery: &Delivery, attempt: u32) -> Duration {
        let (origin, sequence) = (&delivery.bound().origin, delivery.message().sequence);
        let (stream, consumer) = (origin.stream.as_str(), origin.consumer.as_str());
        let parts = [stream.as_bytes(), consumer.as_bytes(), &sequence.to_be_bytes()];
        self.backoff.spread(attempt, hash(&parts))
    }

    /// Fails when another process may own the consumer by now: it settles, this one must not.
    pub(super) fn check_term(&self) -> Result<()> {
        match &self.term {
            Some(term) if !term.holds() => Err(Error::new(
                ErrorKind::Stale,
                "this process does not own the consumer any more: another one goes on",
            )),
            _ => Ok(()),
        }
    }

    /// What `wanted` gives, or `None` when the loop stops first. What is there already is taken.
    async fn unless_stopping<T>(&self, wanted: impl Future<Output = T>) -> Option<T> {
        tokio::select! { biased;
            done = wanted => Some(done),
            () = self.stopping.cancelled() => None,
        }
    }

    /// What middlewares see of a delivery; nothing is copied where there are none.
    pub(super) fn seen(&self, delivery: &Delivery, attempt: u32) -> Option<Arc<Work>> {
        if self.layers.is_empty() {
            return None;
        }
        let (bound, message) = (delivery.bound(), delivery.message().clone());
        Some(Arc::new(Work {
            backend: bound.driver.name(),
            stream: bound.origin.stream.clone(),
            consumer: bound.origin.consumer.clone(),
            received: Received { message, attempt },
        }))
    }

    pub(super) fn tell(&self, work: Option<&Arc<Work>>, how: Disposition) {
        if let Some(work) = work {
            self.layers.settled(work, how);
        }
    }
}

/// Does `work` while the lease is kept alive beside it. An error means that the lease is lost, and
/// `work` was dropped where it stood.
pub(super) async fn keep<T>(delivery: &mut Delivery, work: impl Future<Output = T>) -> Result<T> {
    let mut work = pin!(work);
    if let Some(done) = (&mut work).now_or_never() {
        return Ok(done);
    }
    let sequence = delivery.message().sequence;
    let extending = async {
        loop {
            let left = delivery.expires().saturating_duration_since(Instant::now());
            tokio::time::sleep((left / 3).max(Duration::from_millis(1))).await;
            match delivery.extend().await {
                Ok(()) => {}
                // There is time for more tries before the lease ends, which ends this loop.
                Err(error) if error.is_retryable() => {
                    tracing::warn!(sequence, %error, "lease not extended");
                }
                Err(error) => return error,
            }
        }
    };
    tokio::select! { biased;
        done = work => Ok(done),
        lost = extending => Err(lost),
    }
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    format!("the handler panicked: {}", said(panic))
}
