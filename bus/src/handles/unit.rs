//! The atomic unit: deliveries are settled and messages published together, as far as the backend
//! can, and the caller is told how far that is.
//!
//! ```
//! use std::time::Duration;
//! use bus::{Bus, Guarantee, Message, StreamConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! let bus = Bus::connect("embedded:").await?;
//! let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
//! let bills = bus.ensure_stream(&StreamConfig::parse("bills", &["bills.>"])?).await?;
//! orders.publish(Message::new("orders.created", "42")?).await?;
//!
//! let billing = bus.consumer("orders", "billing").open().await?;
//! for order in billing.fetch(10, Duration::from_secs(1)).await? {
//!     let bill = Message::new("bills.42", "12.50")?;
//!     let done = bus.unit().settle(order).publish(&bills, bill).commit().await?;
//!     assert_eq!(done.guarantee, Guarantee::Exactly);
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use crate::driver::{Driver, Unit, UnitInput};
use crate::engine::delivery::Delivery;
use crate::error::{Error, Result};
use crate::message::Message;
use crate::middleware::{Layers, tell};
use crate::name::StreamName;
use crate::stream::Stream;

pub use crate::driver::{Committed, Guarantee, by_ids};

/// Collects inputs and outputs; [`UnitBuilder::commit`] does them together.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// # let order = billing.fetch(1, std::time::Duration::from_secs(1)).await?.remove(0);
/// use bus::Message;
///
/// let paid = Message::new("orders.paid", "42")?;
/// bus.unit().settle(order).publish(&orders, paid).commit().await?;
/// assert_eq!(billing.info().await?.settled_sequence, 1);
/// assert_eq!(orders.info().await?.last_sequence, 2);
/// # Ok(())
/// # }
/// ```
#[must_use = "a unit does nothing before it is committed"]
pub struct UnitBuilder {
    driver: Arc<dyn Driver>,
    layers: Layers,
    deliveries: Vec<Delivery>,
    outputs: Vec<(StreamName, Message)>,
}

impl UnitBuilder {
    pub(crate) fn new(driver: Arc<dyn Driver>, layers: Layers) -> Self {
        Self { driver, layers, deliveries: Vec::new(), outputs: Vec::new() }
    }

    /// Acks this delivery with the unit.
    pub fn settle(mut self, delivery: Delivery) -> Self {
        self.deliveries.push(delivery);
        self
    }

    /// Publishes this message with the unit. On a backend without transactions an output without
    /// an id gets one that is made of the unit's inputs and its own place, so that a repeated unit
    /// must name its outputs in the same order. What an input brings once more because its consumer
    /// was moved or made anew, or its stream was, is no repetition: its outputs are stored again.
    pub fn publish(mut self, stream: &Stream, message: Message) -> Self {
        self.outputs.push((stream.name().clone(), message));
        self
    }

    /// Settles and publishes. An error hands the deliveries back unsettled; whether outputs are
    /// stored then is what the backend's guarantee says, and committing the same again is safe
    /// where that is not [`Guarantee::AtLeastOnce`].
    pub async fn commit(self) -> Result<Committed, UnitError> {
        let Self { driver, layers, deliveries, outputs } = self;
        let inputs: Result<Vec<UnitInput>> = deliveries.iter().map(Delivery::unit_input).collect();
        let committed = match inputs {
            Ok(inputs) => {
                commit(driver.as_ref(), &layers, Unit { inputs, outputs, atomic: false }).await
            }
            Err(stale) => Err(stale),
        };
        committed.map_err(|error| UnitError { error, deliveries })
    }
}

/// Commits a unit whose outputs go through the layers as any other publish does.
pub(crate) async fn commit(
    driver: &dyn Driver,
    layers: &Layers,
    mut unit: Unit,
) -> Result<Committed> {
    if layers.is_empty() {
        return driver.commit(&unit).await;
    }
    let publishing = |(stream, message): &mut (StreamName, Message)| {
        layers.publishing(driver.name(), stream, message)
    };
    let after: Vec<_> = unit.outputs.iter_mut().map(publishing).collect();
    let committed = driver.commit(&unit).await;
    match &committed {
        Ok(done) => {
            for (after, receipt) in after.into_iter().zip(&done.receipts) {
                tell(after, &Ok(*receipt));
            }
        }
        Err(error) => after.into_iter().for_each(|after| tell(after, &Err(error.told()))),
    }
    committed
}

/// A unit that failed, with its deliveries to try again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// # let order = billing.fetch(1, std::time::Duration::from_secs(1)).await?.remove(0);
/// use bus::{ErrorKind, Message};
///
/// let large = Message::new("orders.paid", vec![0; 2 << 20])?;
/// let mut failed = bus.unit().settle(order).publish(&orders, large).commit().await.unwrap_err();
/// assert_eq!(failed.error.kind(), ErrorKind::TooLarge);
/// let order = failed.deliveries.remove(0); // still ours
/// order.ack_confirmed().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[error("the unit was not committed: its {} inputs are unsettled", deliveries.len())]
pub struct UnitError {
    /// Why.
    #[source]
    pub error: Error,
    /// The deliveries, unsettled.
    pub deliveries: Vec<Delivery>,
}

impl From<UnitError> for Error {
    fn from(failed: UnitError) -> Self {
        failed.error
    }
}
