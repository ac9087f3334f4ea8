//! What a handler can take as its argument.

use serde::de::DeserializeOwned;

use crate::error::Result;
use crate::message::StoredMessage;

/// What a handler can take as its argument.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::{Error, FromMessage, Received, Result};
///
/// /// A handler may ask for this.
/// struct Price(u32);
///
/// impl FromMessage for Price {
///     fn from_message(received: Received) -> Result<Self> {
///         let text = String::from_utf8_lossy(received.message.payload.as_deref().unwrap_or_default());
///         let price = text.parse().map_err(|_| Error::invalid(format!("{text:?} is no price")))?;
///         Ok(Self(price))
///     }
/// }
/// # let _ = Price(1).0;
/// # Ok(())
/// # }
/// ```
pub trait FromMessage: Sized + Send + 'static {
    /// Reads the message. An error rejects it: a malformed message is malformed the next time too.
    fn from_message(received: Received) -> Result<Self>;
}

/// A message and which delivery of it this is.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::{FromMessage, Message, Received};
///
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// let message = orders.get(1).await?.expect("just published");
/// let received = Received::from_message(Received { message, attempt: 1 })?;
/// assert_eq!((received.attempt, received.message.sequence), (1, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: StoredMessage,
    /// 1 for the first time it is handled, and one more for each that follows.
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
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::{Json, Message};
/// use tokio_util::sync::CancellationToken;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order {
///     cents: u32,
/// }
///
/// orders.publish(Message::json("orders.created", &Order { cents: 42 })?).await?;
/// let shutdown = CancellationToken::new();
/// let stop = shutdown.clone();
/// bus.consumer("orders", "billing")
///     .run(shutdown, move |Json(order): Json<Order>| {
///         assert_eq!(order.cents, 42);
///         stop.cancel();
///         async { bus::ack() }
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + Send + 'static> FromMessage for Json<T> {
    fn from_message(received: Received) -> Result<Self> {
        received.message.json().map(Json)
    }
}
