//! What a handler says, and what that means for the message.

use std::error::Error as StdError;
use std::time::Duration;

use crate::message::Message;
use crate::name::StreamName;

/// What becomes of a message its handler has seen.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
/// use bus::{Message, Received};
/// use tokio_util::sync::CancellationToken;
///
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// let (shutdown, stop) = (CancellationToken::new(), CancellationToken::new());
/// # let stop = shutdown.clone();
/// bus.consumer("orders", "billing")
///     .run(shutdown, move |order: Received| {
///         let stop = stop.clone();
///         async move {
///             if order.attempt == 1 {
///                 return bus::retry(Duration::from_millis(1));
///             }
///             stop.cancel();
///             bus::ack()
///         }
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done.
    Ack,
    /// Done, and these are published with it as a unit, in their order, each to its stream: see
    /// [`crate::UnitBuilder`] for how surely that happens once.
    AckAnd(Vec<(StreamName, Message)>),
    /// Deliver it again, not before this long from now.
    Retry(Duration),
    /// Give it up, for this reason. Without dead letters it is never delivered again.
    Reject(String),
}

impl Outcome {
    /// Done, and this is published with it. Call [`Outcome::and`] for more.
    pub fn ack_and(stream: impl AsRef<StreamName>, message: Message) -> Self {
        Self::AckAnd(vec![(stream.as_ref().clone(), message)])
    }

    /// Adds what is published with an ack; what is not acked publishes nothing.
    #[must_use]
    pub fn and(self, stream: impl AsRef<StreamName>, message: Message) -> Self {
        let output = (stream.as_ref().clone(), message);
        match self {
            Self::Ack => Self::AckAnd(vec![output]),
            Self::AckAnd(mut outputs) => {
                outputs.push(output);
                Self::AckAnd(outputs)
            }
            not_acked => not_acked,
        }
    }
}

/// What a handler may fail with; anything that implements [`std::error::Error`] converts by `?`.
/// A failed message is tried again after the backoff.
///
/// ```
/// use bus::{HandlerError, Outcome, StoredMessage};
///
/// async fn bill(order: StoredMessage) -> Result<Outcome, HandlerError> {
///     let price: u32 = std::str::from_utf8(order.payload.as_deref().unwrap_or_default())?.parse()?;
///     if price == 0 {
///         return Err("nothing to pay".into()); // text will do
///     }
///     Ok(Outcome::Ack)
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "free")?).await?;
/// let free = orders.get(1).await?.expect("just published");
/// let failed = bill(free).await.unwrap_err();
/// assert_eq!(failed.to_string(), "invalid digit found in string");
/// # Ok(())
/// # }
/// ```
pub type HandlerError = Box<dyn StdError + Send + Sync>;

/// What a handler returns that has done its work: [`Outcome::Ack`], with its error's type known.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let shutdown = tokio_util::sync::CancellationToken::new();
/// # let stop = shutdown.clone();
/// bus.consumer("orders", "billing")
///     .run(shutdown, move |order: bus::StoredMessage| {
///         assert_eq!(order.sequence, 1);
/// #       stop.cancel();
///         async { bus::ack() }
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
pub fn ack() -> Result<Outcome, HandlerError> {
    Ok(Outcome::Ack)
}

/// What a handler returns that wants the message again, not before this long from now:
/// [`Outcome::Retry`], with its error's type known.
///
/// ```
/// use std::time::Duration;
///
/// use bus::{HandlerError, Outcome, Received};
///
/// async fn wait_for_the_third_time(received: Received) -> Result<Outcome, HandlerError> {
///     if received.attempt < 3 { bus::retry(Duration::from_secs(5)) } else { bus::ack() }
/// }
/// ```
pub fn retry(delay: Duration) -> Result<Outcome, HandlerError> {
    Ok(Outcome::Retry(delay))
}
