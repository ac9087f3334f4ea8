//! A message in the hands of a consumer, and its settling.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::driver::{ConsumerDriver, Driver, LeaseToken, RawDelivery, Settlement, UnitInput};
use crate::engine::dead_letter::{self, GivenUp, Origin, Policy};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;
use crate::middleware::Layers;

/// A delivered message and the lease on it.
///
/// Settling consumes the delivery, so that settling twice does not compile; a settlement that
/// fails hands it back. Dropping a delivery settles nothing: it is delivered again when its lease
/// ends. When the lease is over by this process' clock, settling is refused as
/// [`ErrorKind::Stale`], because someone else may have the message by then.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
///
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// let mut order = billing.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// order.extend().await?; // the work goes on
/// order.retry(Duration::ZERO).await?; // not now
/// let order = billing.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// assert_eq!(order.attempt(), 2);
/// order.ack_confirmed().await?; // never again
/// # Ok(())
/// # }
/// ```
pub struct Delivery {
    raw: RawDelivery,
    bound: Arc<Bound>,
}

/// What deliveries of one bound consumer share.
pub(crate) struct Bound {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) layers: Layers,
    pub(crate) via: Arc<dyn ConsumerDriver>,
    pub(crate) origin: Origin,
    pub(crate) ack_wait: Duration,
    /// Where its dead letters go, if it has any.
    pub(crate) policy: Option<Policy>,
}

/// What is known of a delivery before anybody has looked into it.
pub(crate) enum Screened {
    /// It is to be handled.
    Handle,
    /// It was redriven for another consumer.
    Skip,
    /// Its attempts are used up.
    GiveUp(String),
}

impl Delivery {
    pub(crate) fn new(raw: RawDelivery, bound: Arc<Bound>) -> Self {
        Self { raw, bound }
    }

    pub(crate) fn bound(&self) -> &Arc<Bound> {
        &self.bound
    }

    pub(crate) fn screen(&self) -> Screened {
        let policy = self.bound.policy.as_ref();
        if dead_letter::is_for_another(self.message(), &self.bound.origin.consumer) {
            return Screened::Skip;
        }
        match policy.and_then(|policy| policy.max_attempts) {
            Some(max) if self.attempt() > max => Screened::GiveUp(format!(
                "delivered {} times and never settled: whoever had it crashed or was too slow",
                max
            )),
            _ => Screened::Handle,
        }
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
            && let Some(sent) = self.bound.via.ack_now(&self.raw.token)
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

    /// Never deliver it again, for `reason`. No copy is kept: see [`Delivery::dead_letter`].
    pub async fn reject(self, reason: impl Into<String>) -> Result<(), SettleError> {
        self.settle(Settlement::Reject(reason.into()), true).await
    }

    /// Gives it up for `reason`: a copy goes to the consumer's dead letters, and once that is
    /// durable the message is never delivered again. [`ErrorKind::Invalid`] where the consumer has
    /// none ([`crate::ConsumerBuilder::dead_letters`]). When it fails the message is unsettled;
    /// doing it again keeps one copy where the backend recognises ids.
    pub async fn dead_letter(self, reason: impl Into<String>) -> Result<(), SettleError> {
        let reason = reason.into();
        match self.copying(self.attempt(), reason.clone()).await {
            Ok(()) => self.reject(reason).await,
            Err(error) => Err(SettleError { error, delivery: Box::new(self) }),
        }
    }

    /// The work goes on: the lease starts anew and lasts another ack wait.
    pub async fn extend(&mut self) -> Result<()> {
        self.check_lease()?;
        let renewed = Instant::now() + self.bound.ack_wait;
        self.bound.via.settle(&self.raw.token, &Settlement::Extend, true).await?;
        self.raw.expires = renewed;
        Ok(())
    }

    /// This delivery as an input of a unit; `Stale` when its lease is over.
    pub(crate) fn unit_input(&self) -> Result<UnitInput> {
        self.check_lease()?;
        Ok(UnitInput {
            stream: self.bound.origin.stream.clone(),
            consumer: self.bound.origin.consumer.clone(),
            sequence: self.raw.message.sequence,
            published: self.raw.message.timestamp,
            token: self.raw.token.clone(),
            via: self.bound.via.clone(),
        })
    }

    /// Copies the message to the dead letters, without settling it. The future does not borrow the
    /// delivery, so that its lease can be extended meanwhile.
    pub(crate) fn copying(
        &self,
        attempts: u32,
        reason: String,
    ) -> impl Future<Output = Result<()>> + use<> {
        let (bound, message) = (self.bound.clone(), self.message().clone());
        async move {
            let Bound { driver, layers, origin, policy, .. } = bound.as_ref();
            let Some(Policy { dead, .. }) = policy else {
                return Err(Error::invalid(format!(
                    "consumer {origin} has no dead letters: give it some with \
                     ConsumerBuilder::dead_letters"
                )));
            };
            let given_up = GivenUp { origin, message: &message, attempts, reason: &reason };
            dead_letter::keep_copy(driver.as_ref(), layers, dead, given_up).await
        }
    }

    /// Settles without giving the delivery away; confirmed when this returns.
    pub(crate) async fn try_settle(&self, how: &Settlement) -> Result<()> {
        self.check_lease()?;
        self.bound.via.settle(&self.raw.token, how, true).await
    }

    async fn settle(self, how: Settlement, confirm: bool) -> Result<(), SettleError> {
        let settled = match self.check_lease() {
            Ok(()) => self.bound.via.settle(&self.raw.token, &how, confirm).await,
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
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
///
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").ack_wait(Duration::from_millis(1)).open().await?;
/// let slow = billing.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// tokio::time::sleep(Duration::from_millis(5)).await; // longer than its lease
/// let failed = slow.ack_confirmed().await.unwrap_err();
/// assert_eq!(failed.error.kind(), bus::ErrorKind::Stale);
/// assert_eq!(failed.delivery.message().sequence, 1, "the delivery comes back");
/// # Ok(())
/// # }
/// ```
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
