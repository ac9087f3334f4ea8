//! A bound consumer: deliveries, and what becomes of them.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::token::LeaseToken;
use crate::error::Result;
use crate::message::StoredMessage;

/// A message that was handed to a consumer, with the lease to settle it by.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// use std::time::Duration;
/// use bus::Settlement;
///
/// let via = bus.driver().bind(orders.name(), billing.name(), 0).await?;
/// let delivery = via.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// assert_eq!((delivery.message.sequence, delivery.attempt), (1, 1));
/// via.settle(&delivery.token, &Settlement::Ack, true).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RawDelivery {
    /// The message.
    pub message: StoredMessage,
    /// 1 for the first delivery, and one more for each that follows.
    pub attempt: u32,
    /// When the lease ends, by this process' clock.
    pub expires: Instant,
    /// What [`ConsumerDriver::settle`] takes; plain text that may travel to another process.
    pub token: LeaseToken,
}

/// What becomes of a delivery.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// use std::time::Duration;
/// use bus::Settlement;
///
/// let delivery = billing.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// billing.settle(delivery.token(), Settlement::Extend).await?; // it takes longer
/// billing.settle(delivery.token(), Settlement::Retry(Duration::ZERO)).await?; // somebody else's turn
/// let again = billing.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// assert_eq!(again.attempt(), 2);
/// billing.settle(again.token(), Settlement::Reject("twice is enough".into())).await?;
/// assert_eq!(billing.info().await?.unsettled, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Done: never delivered again. Twice is as good as once.
    Ack,
    /// Deliver again, not before this long from now.
    Retry(Duration),
    /// Never deliver again, for this reason.
    Reject(String),
    /// The work goes on: start the lease anew.
    Extend,
}

/// A bound consumer.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use async_trait::async_trait;
/// use bus::driver::{ConsumerDriver, RawDelivery};
/// use bus::{LeaseToken, Result, Settlement};
///
/// /// Around another one, for what must never be lost: every ack is confirmed.
/// struct Surely(Arc<dyn ConsumerDriver>);
///
/// #[async_trait]
/// impl ConsumerDriver for Surely {
///     async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
///         self.0.fetch(max, wait).await
///     }
///
///     fn ack_now(&self, _token: &LeaseToken) -> Option<Result<()>> {
///         None // then it is settled
///     }
///
///     async fn settle(&self, token: &LeaseToken, how: &Settlement, _confirm: bool) -> Result<()> {
///         self.0.settle(token, how, true).await
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// let surely = Surely(bus.driver().bind(orders.name(), billing.name(), 0).await?);
/// let order = surely.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// assert!(surely.ack_now(&order.token).is_none());
/// surely.settle(&order.token, &Settlement::Ack, false).await?;
/// assert_eq!(billing.info().await?.settled_sequence, 1);
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait ConsumerDriver: Send + Sync {
    /// Up to `max` deliveries in stream order (redeliveries first), waiting up to `wait` for the
    /// first and not for more. Empty after `wait` is normal. Survives a restart of the backend by
    /// itself: [`crate::ErrorKind::Unavailable`] says it is away, the next call tries again.
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>>;

    /// Acks without a confirmation and without waiting. `None` when that cannot be done at this
    /// moment: [`ConsumerDriver::settle`] it then.
    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>>;

    /// Settles a delivery. With `confirm`, `Ok` means that the backend has recorded it and has a
    /// consumer to record it on; without, that it was sent. A token of an earlier delivery of the
    /// same message is [`crate::ErrorKind::Stale`] where the backend can tell.
    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()>;
}
