//! The one consume loop: handlers return an outcome, the loop settles.
//!
//! ```text
//! Loop (mod.rs): has the consumer, and opens it again
//!
//!    ┌► open ──────────► consume (Pump) ──────────► end
//!    │  where one process must own it,  │  shutdown: drain, return
//!    │  the lease first (ownership.rs)  │  lease lost, consumer deleted, bus away: again
//!    └──────────────────────────────────┘
//!
//! Pump (pump.rs): one task, which alone touches the lines
//!
//!    fetch ─► join the line of its key (lines.rs) ─► a task for each delivery (work.rs)
//!      ▲ room                                            │
//!      └──────────── note: leave the line ◄──────────────┘ settled, or not
//!
//! A delivery (work.rs)
//!
//!    in line ──turn──► slot ──► at work ──outcome──► settling ──► settled
//!       │ another delivery        │ its lease is        │ refused, or the bus away too long
//!       │ of the message came     │ renewed meanwhile   ▼
//!       └─────────────────────────┴──────────────► missing: its key waits for it to come again
//!
//! The gate (lines.rs): closed while deliveries may be out that are not held here, after a takeover
//! or a failed fetch; opened when the bus counts no more than are held, or after two ack waits.
//! ```

mod lines;
mod ownership;
mod pump;
mod settling;
mod verdict;
mod work;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::pump::{BACKEND_AWAY_PAUSE, End, Pump, Tasks};
use self::work::{Handler, Shop};
use crate::backoff::Backoff;
use crate::capability::{Capability, Support};
use crate::consumer::{Consumer, ConsumerBuilder, Opening};
use crate::engine::dead_letter::Policy;
use crate::error::{Result, require};
use crate::handler::{FromMessage, HandlerError, Outcome, Received};
use crate::lease::{Lease, LeaseStatus};

impl ConsumerBuilder {
    /// Opens the consumer and runs `handler` on every message until `shutdown` is cancelled.
    ///
    /// Delivery is at least once: a handler's effect may be repeated after a crash. At most
    /// `max_in_flight` handlers run at once; while one works its lease is extended, so that slow
    /// work is not delivered twice. A handler that fails or panics has its message retried after
    /// the backoff ([`ConsumerBuilder::retry`]); what is given up becomes a dead letter where the
    /// consumer has them ([`ConsumerBuilder::dead_letters`]). Order per key is kept on request
    /// ([`ConsumerBuilder::ordered_by_key`]). When the backend is away the loop waits and goes on,
    /// and a consumer that was deleted meanwhile is made anew from its description, at its start.
    ///
    /// On shutdown it stops fetching, lets the handlers at work finish
    /// ([`ConsumerBuilder::drain_within`]) and returns `Ok` when every settlement is recorded.
    /// It returns early only when the consumer cannot be had: an unmet requirement, a mismatch, a
    /// stream that does not exist. When its future is dropped the handlers are aborted.
    pub async fn run<T, H, F>(self, shutdown: CancellationToken, handler: H) -> Result<()>
    where
        T: FromMessage,
        H: Fn(T) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Outcome, HandlerError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let handler: Arc<Handler> = Arc::new(move |received: Received| {
            let handler = handler.clone();
            // Called when it is polled, so that a panic in any part of it is the handler's.
            async move {
                match T::from_message(received) {
                    Ok(argument) => handler(argument).await,
                    Err(malformed) => Ok(Outcome::Reject(work::chain(&malformed))),
                }
            }
            .boxed()
        });
        let (max_in_flight, backoff) = (self.max_in_flight, self.backoff);
        let (by_key, drain) = (self.by_key, self.drain);
        let opening = self.validate()?;
        let owned = by_key && needs_owner(&opening)?;
        let (stopping, tasks) = (CancellationToken::new(), Tasks::new());
        let consuming = Loop {
            opening,
            handler,
            max_in_flight,
            backoff,
            by_key,
            owned,
            drain,
            stopping,
            tasks,
        };
        consuming.run(shutdown).await
    }
}

/// Whether one process must own the consumer, because the backend would give messages of one key
/// to several.
fn needs_owner(opening: &Opening) -> Result<bool> {
    let (driver, origin) = (opening.driver.as_ref(), &opening.origin);
    let asks = |capability| {
        let who = format!("key order of consumer {origin}");
        require(driver.name(), capability, driver.support(capability), who)
    };
    asks(Capability::LeaseExtension)?;
    if driver.support(Capability::KeyAffinity) != Support::Unsupported {
        return Ok(false);
    }
    asks(Capability::KvCompareAndSet)?;
    Ok(true)
}

struct Loop {
    opening: Opening,
    handler: Arc<Handler>,
    max_in_flight: usize,
    backoff: Backoff,
    by_key: bool,
    owned: bool,
    drain: Duration,
    stopping: CancellationToken,
    tasks: Tasks,
}

impl Loop {
    async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        let ended = loop {
            let again = match self.tenure(&shutdown).await {
                Ok(End::Shutdown) => break Ok(()),
                Ok(End::TermOver) => {
                    tracing::warn!(consumer = %self.opening.origin, "another process took over");
                    continue;
                }
                // Deleted under us: made anew from its description, if its stream is there.
                Ok(End::Failed(error)) if error.is_not_found() => error,
                Ok(End::Failed(error)) => break Err(error),
                Err(error) if error.is_retryable() => error,
                Err(error) => break Err(error),
            };
            tracing::warn!(consumer = %self.opening.origin, error = %again, "opening again");
            tokio::select! { biased;
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(BACKEND_AWAY_PAUSE) => {}
            }
        };
        self.drain(None).await;
        ended
    }

    /// Has the consumer, and consumes, until one of them ends. An error means that it could not be
    /// had.
    async fn tenure(&mut self, shutdown: &CancellationToken) -> Result<End> {
        let opened = tokio::select! { biased;
            () = shutdown.cancelled() => return Ok(End::Shutdown),
            opened = self.open() => opened?,
        };
        let (held, consumer) = opened;
        let term = held.as_ref().map(Lease::status);
        let limit = match self.by_key {
            true => usize::try_from(self.opening.config.max_unsettled).unwrap_or(usize::MAX),
            false => self.max_in_flight,
        };
        let shop = Arc::new(self.shop(term.clone()));
        let end = Pump::new(shop, consumer, &mut self.tasks, limit.max(1)).run(shutdown).await;
        let ends = match &end {
            End::Shutdown => true,
            End::Failed(error) => !error.is_not_found(),
            End::TermOver => false,
        };
        if ends {
            self.drain(term.as_ref()).await;
        } else if self.by_key {
            // Whoever goes on begins with the same messages.
            self.tasks.shutdown().await;
        }
        if let Some(held) = held {
            held.release().await;
        }
        Ok(end)
    }

    async fn open(&self) -> Result<(Option<Lease>, Consumer)> {
        self.opening.ensure().await?;
        let mut held = None;
        if self.owned {
            let Opening { driver, origin, config, .. } = &self.opening;
            let contending = ownership::contend(driver.as_ref(), origin, config.ack_wait);
            held = Some(contending.await?.take().await?);
        }
        match self.opening.bind().await {
            Ok(consumer) => Ok((held, consumer)),
            Err(error) => {
                if let Some(held) = held {
                    held.release().await;
                }
                Err(error)
            }
        }
    }

    fn shop(&self, term: Option<LeaseStatus>) -> Shop {
        let policy = Policy::read(&self.opening.config.metadata);
        // Without dead letters and lines the backend counts, and ends deliveries by itself.
        let max_attempts = match policy {
            Some(policy) => policy.max_attempts,
            None => self.opening.config.max_attempts.filter(|_| self.by_key),
        };
        Shop {
            handler: self.handler.clone(),
            layers: self.opening.layers.clone(),
            backoff: self.backoff,
            max_attempts,
            by_key: self.by_key,
            slots: Semaphore::new(self.max_in_flight.min(Semaphore::MAX_PERMITS)),
            stopping: self.stopping.clone(),
            term,
            unsettled: AtomicU64::new(0),
        }
    }

    /// Begins nothing any more and lets what is at work finish, as long as it may take and, where
    /// this process must own the consumer, as long as it does.
    async fn drain(&mut self, term: Option<&LeaseStatus>) {
        self.stopping.cancel();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        let over = async {
            match term {
                Some(term) => term.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { biased;
            () = drained => return,
            () = over => {}
            () = tokio::time::sleep(self.drain) => {}
        }
        let left = self.tasks.len();
        tracing::warn!(consumer = %self.opening.origin, left, "aborting what does not finish");
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
#[cfg(feature = "fault")]
mod tests;
