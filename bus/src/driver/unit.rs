//! What is settled and published in one step.

use std::sync::Arc;
use std::time::SystemTime;

use super::{ConsumerDriver, LeaseToken};
use crate::message::Message;
use crate::name::{ConsumerName, StreamName};

/// Inputs to settle and outputs to publish, together.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::driver::Unit;
/// use bus::{Guarantee, Message};
///
/// let output = (orders.name().clone(), Message::new("orders.created", "42")?);
/// let done = bus.driver().commit(&Unit { inputs: Vec::new(), outputs: vec![output] }).await?;
/// assert_eq!((done.receipts[0].sequence, done.guarantee), (1, Guarantee::Exactly));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Unit {
    /// Deliveries to ack.
    pub inputs: Vec<UnitInput>,
    /// Where to publish what, in order.
    pub outputs: Vec<(StreamName, Message)>,
}

/// A delivery that a [`Unit`] acks.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// use std::time::Duration;
/// use bus::driver::{Unit, UnitInput};
///
/// let via = bus.driver().bind(orders.name(), billing.name(), 0).await?;
/// let delivery = via.fetch(1, Duration::from_secs(1)).await?.remove(0);
/// let input = UnitInput {
///     stream: orders.name().clone(),
///     consumer: billing.name().clone(),
///     sequence: delivery.message.sequence,
///     published: delivery.message.timestamp,
///     token: delivery.token,
///     via,
/// };
/// bus.driver().commit(&Unit { inputs: vec![input], outputs: Vec::new() }).await?;
/// assert_eq!(billing.info().await?.settled_sequence, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UnitInput {
    /// The stream it came from.
    pub stream: StreamName,
    /// The consumer it was handed to.
    pub consumer: ConsumerName,
    /// Which message it is.
    pub sequence: u64,
    /// When the stream had taken it.
    pub published: SystemTime,
    /// Its lease.
    pub token: LeaseToken,
    /// What it was fetched through.
    pub via: Arc<dyn ConsumerDriver>,
}
