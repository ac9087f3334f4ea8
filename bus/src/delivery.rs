//! A message in the hands of a consumer, and its settling.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::driver::{ConsumerDriver, LeaseToken, RawDelivery, Settlement, UnitInput};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;
use crate::name::{ConsumerName, StreamName};

/// A delivered message and the lease on it.
///
/// Settling consumes the delivery, so that settling twice does not compile; a settlement that
/// fails hands it back. Dropping a delivery settles nothing: it is delivered again when its lease
/// ends. When the lease is over by this process' clock, settling is refused as
/// [`ErrorKind::Stale`], because someone else may have the message by then.
pub struct Delivery {
    raw: RawDelivery,
    ack_wait: Duration,
    consumer: Arc<dyn ConsumerDriver>,
    origin: Arc<Origin>,
}

/// The stream and consumer that deliveries come from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) stream: StreamName,
    pub(crate) consumer: ConsumerName,
}

impl Delivery {
    pub(crate) fn new(
        raw: RawDelivery,
        ack_wait: Duration,
        consumer: Arc<dyn ConsumerDriver>,
        origin: Arc<Origin>,
    ) -> Self {
        Self { raw, ack_wait, consumer, origin }
    }

    /// The message.
    pub fn message(&self) -> &StoredMessage {
        &self.raw.message
    }

    /// 1 for the first delivery; exact until the consumer is made anew.
    pub fn attempt(&self) -> u32 {
        self.raw.attempt
    }

    /// When the lease ends.
    pub fn expires(&self) -> Instant {
        self.raw.expires
    }

    /// Names this delivery; another process can settle by it with [`crate::Consumer::settle`].
    pub fn token(&self) -> &LeaseToken {
        &self.raw.token
    }

    /// Done. The ack is sent, and not waited for: if it is lost the message comes again.
    pub async fn ack(self) -> Result<(), SettleError> {
        if self.check_lease().is_ok()
            && let Some(sent) = self.consumer.ack_now(&self.raw.token)
        {
            return sent.map_err(|error| SettleError { error, delivery: Box::new(self) });
        }
        self.settle(Settlement::Ack, false).await
    }

    /// Done, and recorded by the backend when this returns: never delivered again.
    pub async fn ack_confirmed(self) -> Result<(), SettleError> {
        self.settle(Settlement::Ack, true).await
    }

    /// Deliver it again, not before `delay` from now.
    pub async fn retry(self, delay: Duration) -> Result<(), SettleError> {
        self.settle(Settlement::Retry(delay), true).await
    }

    /// Never deliver it again, for `reason`.
    pub async fn reject(self, reason: impl Into<String>) -> Result<(), SettleError> {
        self.settle(Settlement::Reject(reason.into()), true).await
    }

    /// The work goes on: the lease starts anew and lasts another ack wait.
    pub async fn extend(&mut self) -> Result<()> {
        self.check_lease()?;
        let renewed = Instant::now() + self.ack_wait;
        self.consumer.settle(&self.raw.token, &Settlement::Extend, true).await?;
        self.raw.expires = renewed;
        Ok(())
    }

    /// This delivery as an input of a unit; `Stale` when its lease is over.
    pub(crate) fn unit_input(&self) -> Result<UnitInput> {
        self.check_lease()?;
        Ok(UnitInput {
            stream: self.origin.stream.clone(),
            consumer: self.origin.consumer.clone(),
            sequence: self.raw.message.sequence,
            token: self.raw.token.clone(),
            via: self.consumer.clone(),
        })
    }

    async fn settle(self, how: Settlement, confirm: bool) -> Result<(), SettleError> {
        let settled = match self.check_lease() {
            Ok(()) => self.consumer.settle(&self.raw.token, &how, confirm).await,
            Err(stale) => Err(stale),
        };
        settled.map_err(|error| SettleError { error, delivery: Box::new(self) })
    }

    fn check_lease(&self) -> Result<()> {
        if Instant::now() < self.raw.expires {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Stale,
            format!(
                "the lease on message {} ended: it is delivered again; extend while working",
                self.raw.message.sequence
            ),
        ))
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("subject", &self.raw.message.subject)
            .field("sequence", &self.raw.message.sequence)
            .field("attempt", &self.raw.attempt)
            .finish_non_exhaustive()
    }
}

/// A settlement that failed, with the delivery to try again.
#[derive(Debug, thiserror::Error)]
#[error("message {} was not settled", delivery.message().sequence)]
pub struct SettleError {
    /// Why.
    #[source]
    pub error: Error,
    /// The delivery, unsettled.
    pub delivery: Box<Delivery>,
}

impl From<SettleError> for Error {
    fn from(failed: SettleError) -> Self {
        failed.error
    }
}
