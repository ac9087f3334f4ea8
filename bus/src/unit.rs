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
use std::time::Duration;

use futures_util::StreamExt;

use crate::delivery::Delivery;
use crate::driver::{Driver, Settlement, Unit, UnitInput};
use crate::error::{Error, Result};
use crate::life::Life;
use crate::message::{Message, Receipt};
use crate::middleware::{Layers, tell};
use crate::name::StreamName;
use crate::stream::Stream;

/// How many acks of a unit are waited for at once.
const ACKS_AT_ONCE: usize = 64;

/// How surely the outputs of a unit are there once, whatever crashes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let billing = bus.consumer("orders", "billing").open().await?;
/// # let order = billing.fetch(1, std::time::Duration::from_secs(1)).await?.remove(0);
/// use bus::{Guarantee, Message};
///
/// let done = bus.unit().settle(order).publish(&orders, Message::new("orders.paid", "")?).commit().await?;
/// // A program that bills twice if its unit is repeated says so at its first one.
/// assert!(done.guarantee > Guarantee::AtLeastOnce, "{:?}", done.guarantee);
/// assert!(Guarantee::Exactly > Guarantee::Effectively(std::time::Duration::MAX));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// A crash may repeat the unit, and its outputs are then stored again.
    AtLeastOnce,
    /// A crash may repeat the unit, and its outputs are recognised by their ids for this long.
    Effectively(Duration),
    /// Inputs are settled and outputs stored in one step: all of it happens, or nothing.
    Exactly,
}

/// What a unit did.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::Message;
///
/// let done = bus
///     .unit()
///     .publish(&orders, Message::new("orders.paid", "")?)
///     .publish(&orders, Message::new("orders.shipped", "")?)
///     .commit()
///     .await?;
/// let sequences: Vec<_> = done.receipts.iter().map(|receipt| receipt.sequence).collect();
/// assert_eq!(sequences, [1, 2]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// One receipt for each output, in their order.
    pub receipts: Vec<Receipt>,
    /// What the backend gave for these inputs and outputs.
    pub guarantee: Guarantee,
}

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
            Ok(inputs) => commit(driver.as_ref(), &layers, Unit { inputs, outputs }).await,
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

/// A unit on a backend without transactions: outputs are published under ids that a repetition
/// repeats, and when all are stored the inputs are acked and confirmed.
///
/// Gives [`Guarantee::Effectively`] with the shortest de-duplication window of the streams that
/// were published to, and [`Guarantee::AtLeastOnce`] where `windows` says that one has none.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::Guarantee;
/// use bus::driver::Unit;
///
/// // What `Driver::commit` of a backend without transactions comes to.
/// let driver = bus.driver();
/// let output = (orders.name().clone(), bus::Message::new("orders.paid", "42")?.id("paid-42"));
/// let unit = Unit { inputs: Vec::new(), outputs: vec![output] };
/// let window = async |stream: &bus::StreamName| {
///     Ok(Some(driver.stream_info(stream).await?.config.duplicate_window))
/// };
/// for repeated in [false, true] {
///     let done = bus::unit::by_ids(driver.as_ref(), &unit, window).await?;
///     assert_eq!(done.receipts[0].duplicate, repeated);
///     assert_eq!(done.guarantee, Guarantee::Effectively(std::time::Duration::from_secs(120)));
/// }
/// # Ok(())
/// # }
/// ```
pub async fn by_ids(
    driver: &dyn Driver,
    unit: &Unit,
    window: impl AsyncFn(&StreamName) -> Result<Option<Duration>>,
) -> Result<Committed> {
    let (mut shortest, mut pending) = (Some(Duration::MAX), Vec::with_capacity(unit.outputs.len()));
    let mut life = None;
    for (at, (stream, message)) in unit.outputs.iter().enumerate() {
        shortest = shortest.min(window(stream).await?);
        let mut message = message.clone();
        if message.id.is_none()
            && shortest.is_some()
            && let Some(UnitInput { stream, consumer, .. }) = unit.inputs.first()
        {
            let known = match life {
                Some(known) => known,
                None => *life.insert(Life::ask(driver, stream, consumer).await?),
            };
            message.id = output_id(unit, known, at);
        }
        pending.push(driver.submit(stream, message).await?);
    }
    let mut receipts = Vec::with_capacity(pending.len());
    for receipt in pending {
        receipts.push(receipt.await?);
    }
    ack_inputs(unit).await?;
    let guarantee = match shortest {
        Some(_) if unit.outputs.is_empty() => Guarantee::Exactly,
        Some(shortest) => Guarantee::Effectively(shortest),
        None => Guarantee::AtLeastOnce,
    };
    Ok(Committed { receipts, guarantee })
}

/// Acks the inputs; when this returns the backend has recorded it.
pub(crate) async fn ack_inputs(unit: &Unit) -> Result<()> {
    let ack = |input: &UnitInput| {
        let UnitInput { via, token, .. } = input.clone();
        async move { via.settle(&token, &Settlement::Ack, true).await }
    };
    let acks: Vec<_> = unit.inputs.iter().map(ack).collect();
    let mut acked = futures_util::stream::iter(acks).buffered(ACKS_AT_ONCE);
    while let Some(acked) = acked.next().await {
        acked?;
    }
    Ok(())
}

/// The id of the output at `at` where it has none: what a repetition of the unit has in common with
/// it is its first input in this life of its consumer, and the place of each output.
pub(crate) fn output_id(unit: &Unit, life: Life, at: usize) -> Option<String> {
    let UnitInput { stream, consumer, sequence, published, .. } = unit.inputs.first()?;
    Some(format!("unit/{stream}/{consumer}/{sequence}/{}/{at}", life.of(*published)))
}
