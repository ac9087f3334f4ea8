//! What is settled and published in one step.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;

use super::life::Life;
use super::{ConsumerDriver, Driver, LeaseToken, Settlement};
use crate::error::Result;
use crate::message::{Message, Receipt};
use crate::name::{ConsumerName, StreamName};

/// How many acks of a unit are waited for at once.
const ACKS_AT_ONCE: usize = 64;

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
/// let done = bus.driver().commit(&Unit { outputs: vec![output], ..Unit::default() }).await?;
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
    /// True when a backend that cannot store all outputs in one step must store none: then there
    /// are no inputs, and the outputs are for one stream. Nothing is repeated that may have
    /// happened: [`crate::ErrorKind::Timeout`] tells so.
    pub atomic: bool,
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
/// bus.driver().commit(&Unit { inputs: vec![input], ..Unit::default() }).await?;
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
/// let unit = Unit { outputs: vec![output], ..Unit::default() };
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
