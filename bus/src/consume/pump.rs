//! The loop proper: fetches, starts the work, notes its ends.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lines::{Lines, Place};
use super::work::{Counted, Shop, work};
use crate::consumer::Consumer;
use crate::engine::delivery::Delivery;
use crate::error::{Error, Result};
use crate::middleware::said;

const FETCH_WAIT: Duration = Duration::from_secs(5);
pub(super) const BACKEND_AWAY_PAUSE: Duration = Duration::from_millis(500);

/// Deliveries at work and in line: the place of each, where there are lines, and whether it was
/// settled for good.
pub(super) type Tasks = JoinSet<(Option<Place>, bool)>;

/// Why a consumer is not consumed from any more.
pub(super) enum End {
    /// It was asked to stop.
    Shutdown,
    /// Another process owns the consumer, or may.
    TermOver,
    /// The consumer is of no use.
    Failed(Error),
}

pub(super) struct Pump<'a> {
    shop: Arc<Shop>,
    consumer: Consumer,
    tasks: &'a mut Tasks,
    /// At most this many deliveries are held.
    limit: usize,
    lines: Option<Lines>,
    /// When the gate opens although not everything has come.
    gate_until: Instant,
    next_look: Instant,
}

impl<'a> Pump<'a> {
    pub(super) fn new(
        shop: Arc<Shop>,
        consumer: Consumer,
        tasks: &'a mut Tasks,
        limit: usize,
    ) -> Self {
        let (lines, now) = (shop.by_key.then(Lines::default), Instant::now());
        Self { shop, consumer, tasks, limit, lines, gate_until: now, next_look: now }
    }

    /// Consumes until `shutdown`, or until the consumer is of no use any more. What is at work
    /// then goes on; what stands in line is told that its turn does not come.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> End {
        self.close_gate();
        let term = self.shop.term.clone();
        let over = async {
            match &term {
                Some(term) => term.lost().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { biased;
            () = shutdown.cancelled() => End::Shutdown,
            () = over => End::TermOver,
            Err(error) = self.consume() => End::Failed(error),
        }
    }

    async fn consume(&mut self) -> Result<Infallible> {
        // Kept over the rounds: dropping a fetch leaves what it has fetched to its leases.
        let mut fetching = None;
        loop {
            let room = self.limit.saturating_sub(self.tasks.len());
            if fetching.is_none() && room > 0 {
                fetching = Some(self.fetch(room, Duration::ZERO));
            }
            tokio::select! { biased;
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.note(ended),
                () = tokio::time::sleep_until(self.next_look), if self.waits() => self.look().await?,
                fetched = poll(&mut fetching), if fetching.is_some() => match fetched {
                    Ok(deliveries) => {
                        fetching = None;
                        deliveries.into_iter().for_each(|delivery| self.start(delivery));
                    }
                    Err(error) if error.is_retryable() => {
                        let consumer = self.consumer.name();
                        tracing::warn!(%consumer, %error, "fetch failed, trying again");
                        // What the failed fetch was given is out, and unknown here.
                        self.close_gate();
                        fetching = Some(self.fetch(room.max(1), BACKEND_AWAY_PAUSE));
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    fn fetch(&self, room: usize, pause: Duration) -> Fetching {
        let consumer = self.consumer.clone();
        Box::pin(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            consumer.fetch_unscreened(room, FETCH_WAIT).await
        })
    }

    fn start(&mut self, delivery: Delivery) {
        let (shop, counted) = (self.shop.clone(), Counted::new(&self.shop));
        let Some(lines) = &mut self.lines else {
            self.tasks.spawn(async move {
                (None, unless_it_panics(work(shop, delivery, None, counted)).await)
            });
            return;
        };
        if lines.is_closed() && delivery.attempt() > 1 {
            self.gate_until = self.gate_until.max(Instant::now() + self.consumer.ack_wait() * 2);
        }
        let key = Bytes::copy_from_slice(delivery.message().order_key());
        let (place, turn) = lines.join(key, delivery.message().sequence);
        self.tasks.spawn(async move {
            let settled = unless_it_panics(work(shop, delivery, Some(turn), counted)).await;
            (Some(place), settled)
        });
    }

    fn note(&mut self, ended: Result<(Option<Place>, bool), JoinError>) {
        let until = Instant::now() + self.patience();
        if let (Ok((Some(place), settled)), Some(lines)) = (ended, &mut self.lines) {
            lines.leave(&place, settled, until);
        }
    }

    /// True while a message is waited for that may come again.
    fn waits(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.is_closed() || lines.misses_something())
    }

    /// How long a lease that somebody else had can keep a message away: one ack wait, and as much
    /// again for the backend to notice and for an extension that was on its way.
    fn patience(&self) -> Duration {
        self.consumer.ack_wait() * 2 + Duration::from_secs(1)
    }

    /// Deliveries may be out that are not held here: of an owner before this one, or of a fetch
    /// that failed. Until they have come again nothing new begins, because anything may follow
    /// one of them in its key. Where the backend keeps the keys of processes apart, others'
    /// deliveries are none of ours, and the backend hands out anew in order.
    fn close_gate(&mut self) {
        let until = Instant::now() + self.patience();
        let Some(lines) = &mut self.lines else { return };
        lines.wait_longer(until);
        if self.shop.term.is_some() {
            lines.close();
            (self.gate_until, self.next_look) = (until, Instant::now());
        }
    }

    /// The backend is asked first and what is held unsettled is counted afterwards: what counts
    /// then was unsettled when it answered.
    async fn holds_everything(&mut self) -> Result<bool> {
        match self.consumer.info().await {
            Ok(info) => Ok(info.unsettled <= self.shop.unsettled.load(Ordering::Relaxed)),
            Err(error) if error.is_retryable() => {
                self.close_gate();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Looks whether everything that is out is here, or was waited for long enough.
    async fn look(&mut self) -> Result<()> {
        let pause = self.consumer.ack_wait() / 8;
        let pause = pause.clamp(Duration::from_millis(20), Duration::from_secs(1));
        let everything = self.shop.term.is_some() && self.holds_everything().await?;
        let now = Instant::now();
        self.next_look = now + pause;
        let Some(lines) = &mut self.lines else { return Ok(()) };
        if everything {
            lines.open();
        } else if lines.is_closed() && now >= self.gate_until {
            let consumer = self.consumer.name();
            tracing::warn!(%consumer, "going on without deliveries that are out and never came");
            lines.open();
        } else if !lines.is_closed() {
            let overdue = lines.give_up_waiting(now);
            if overdue > 0 {
                tracing::warn!(overdue, "going on without messages that did not come again");
            }
        }
        Ok(())
    }
}

/// False where the work ends in a panic, wherever in it that is: its line must be told.
async fn unless_it_panics(work: impl Future<Output = bool>) -> bool {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| {
        tracing::error!(why = said(panic.as_ref()), "a panic left a delivery unsettled");
        false
    })
}

type Fetching = BoxFuture<'static, Result<Vec<Delivery>>>;

/// Polls what is there without taking it out.
fn poll(fetching: &mut Option<Fetching>) -> impl Future<Output = Result<Vec<Delivery>>> + '_ {
    std::future::poll_fn(|cx| match fetching {
        Some(fetching) => fetching.as_mut().poll(cx),
        None => std::task::Poll::Pending,
    })
}
