//! The one consume loop: handlers return an outcome, the loop settles.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::consumer::{Consumer, ConsumerBuilder, Opening};
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::message::StoredMessage;

const FETCH_WAIT: Duration = Duration::from_secs(5);
const BACKEND_AWAY_PAUSE: Duration = Duration::from_millis(500);

/// What becomes of a message its handler has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ack,
    /// Deliver it again, not before this long from now.
    Retry(Duration),
    /// Never deliver it again, for this reason.
    Reject(String),
}

/// What a handler may fail with; anything that implements [`std::error::Error`] converts by `?`.
/// A failed message is delivered again after the backoff.
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// What a handler can take as its argument.
pub trait FromMessage: Sized + Send + 'static {
    /// Reads the message. An error rejects it: a malformed message is malformed the next time too.
    fn from_message(received: Received) -> Result<Self>;
}

/// A message and which delivery of it this is.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: StoredMessage,
    /// 1 for the first delivery.
    pub attempt: u32,
}

impl FromMessage for Received {
    fn from_message(received: Received) -> Result<Self> {
        Ok(received)
    }
}

impl FromMessage for StoredMessage {
    fn from_message(received: Received) -> Result<Self> {
        Ok(received.message)
    }
}

/// The body of a message, read as JSON.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromMessage for Json<T> {
    fn from_message(received: Received) -> Result<Self> {
        received.message.json().map(Json)
    }
}

impl ConsumerBuilder {
    /// Opens the consumer and runs `handler` on every message until `shutdown` is cancelled.
    ///
    /// Delivery is at least once: a handler's effect may be repeated after a crash. At most
    /// `max_in_flight` handlers run at once; while one works its lease is extended, so that slow
    /// work is not delivered twice. A handler that fails or panics has its message retried after
    /// the backoff. When the backend is away the loop waits and goes on, and a consumer that was
    /// deleted meanwhile is made anew from its description, at its start.
    ///
    /// On shutdown it stops fetching, waits for the handlers at work, settles, and returns `Ok`.
    /// It returns early only when the consumer cannot be had: an unmet requirement, a mismatch, a
    /// stream that does not exist.
    pub async fn run<T, H, F>(self, shutdown: CancellationToken, handler: H) -> Result<()>
    where
        T: FromMessage,
        H: Fn(T) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Outcome, HandlerError>> + Send + 'static,
    {
        let (limit, backoff) = (self.max_in_flight, self.backoff);
        let opening = self.validate()?;
        let handler = Arc::new(move |received: Received| match T::from_message(received) {
            Ok(argument) => handler(argument).boxed(),
            Err(malformed) => {
                std::future::ready(Ok(Outcome::Reject(malformed.to_string()))).boxed()
            }
        });
        Loop { opening, handler, limit, backoff, at_work: JoinSet::new() }.run(shutdown).await
    }
}

type Handler = dyn Fn(Received) -> BoxFuture<'static, Result<Outcome, HandlerError>> + Send + Sync;

struct Loop {
    opening: Opening,
    handler: Arc<Handler>,
    limit: usize,
    backoff: Backoff,
    at_work: JoinSet<()>,
}

impl Loop {
    async fn run(mut self, shutdown: CancellationToken) -> Result<()> {
        let ended = loop {
            let opened = tokio::select! { biased;
                () = shutdown.cancelled() => break Ok(()),
                opened = self.opening.open() => opened,
            };
            let failed = match opened {
                Ok(consumer) => match self.consume(&consumer, &shutdown).await {
                    Ok(()) => break Ok(()),
                    // Deleted under us: made anew from its description, if its stream is there.
                    Err(error) if error.is_not_found() => error,
                    Err(error) => break Err(error),
                },
                Err(error) if error.is_retryable() => error,
                Err(error) => break Err(error),
            };
            tracing::warn!(error = %failed, "opening the consumer again");
            pause(&shutdown).await;
        };
        while self.at_work.join_next().await.is_some() {}
        ended
    }

    /// Consumes until `shutdown`, which is `Ok`, or until the consumer is of no use any more.
    async fn consume(&mut self, consumer: &Consumer, shutdown: &CancellationToken) -> Result<()> {
        loop {
            let room = self.limit.saturating_sub(self.at_work.len());
            if room == 0 {
                tokio::select! { biased;
                    () = shutdown.cancelled() => return Ok(()),
                    _ = self.at_work.join_next() => continue,
                }
            }
            // Cancelled by shutdown only: what was fetched by then comes again by its lease.
            let fetched = tokio::select! { biased;
                () = shutdown.cancelled() => return Ok(()),
                fetched = consumer.fetch(room, FETCH_WAIT) => fetched,
            };
            match fetched {
                Ok(deliveries) => {
                    deliveries.into_iter().for_each(|delivery| self.start(delivery, consumer));
                }
                Err(error) if error.is_retryable() => {
                    tracing::warn!(consumer = %consumer.name(), %error, "fetch failed, trying again");
                    pause(shutdown).await;
                }
                Err(error) => return Err(error),
            }
            while self.at_work.try_join_next().is_some() {}
        }
    }

    fn start(&mut self, delivery: Delivery, consumer: &Consumer) {
        let received =
            Received { message: delivery.message().clone(), attempt: delivery.attempt() };
        let (work, backoff) = ((self.handler)(received), self.backoff);
        let lease = consumer.ack_wait();
        self.at_work.spawn(async move {
            let sequence = delivery.message().sequence;
            if let Err(error) = work_and_settle(delivery, work, lease, backoff).await {
                tracing::warn!(sequence, %error, "not settled, it will be delivered again");
            }
        });
    }
}

async fn pause(shutdown: &CancellationToken) {
    tokio::select! { biased;
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(BACKEND_AWAY_PAUSE) => {}
    }
}

async fn work_and_settle(
    mut delivery: Delivery,
    work: BoxFuture<'static, Result<Outcome, HandlerError>>,
    lease: Duration,
    backoff: Backoff,
) -> Result<()> {
    let mut work = std::panic::AssertUnwindSafe(work).catch_unwind();
    let outcome = loop {
        tokio::select! { biased;
            outcome = &mut work => break outcome,
            () = tokio::time::sleep(lease / 3) => match delivery.extend().await {
                // There is time for two more tries before the lease ends.
                Err(error) if error.is_retryable() => {
                    tracing::warn!(sequence = delivery.message().sequence, %error, "lease not extended");
                }
                extended => extended?,
            },
        }
    };
    let failed = match outcome {
        Ok(Ok(Outcome::Ack)) => return Ok(delivery.ack_confirmed().await?),
        Ok(Ok(Outcome::Retry(delay))) => return Ok(delivery.retry(delay).await?),
        Ok(Ok(Outcome::Reject(reason))) => {
            tracing::warn!(sequence = delivery.message().sequence, reason, "message rejected");
            return Ok(delivery.reject(reason).await?);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => String::from("the handler panicked"),
    };
    let delay = backoff.delay(delivery.attempt());
    tracing::warn!(sequence = delivery.message().sequence, error = failed, ?delay, "retrying");
    delivery.retry(delay).await.map_err(Error::from)
}
