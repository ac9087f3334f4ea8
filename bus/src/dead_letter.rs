//! Dead letters: copies of messages that were given up, kept on a stream until someone redrives
//! them.
//!
//! ```
//! use std::time::Duration;
//! use bus::{Bus, Message, StreamConfig, StreamName};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! let bus = Bus::connect("embedded:").await?;
//! let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
//! bus.ensure_stream(&StreamConfig::dead_letters(StreamName::new("dead")?)).await?;
//! orders.publish(Message::new("orders.created", "not a number")?).await?;
//!
//! let billing = bus.consumer("orders", "billing").dead_letters("dead").open().await?;
//! for delivery in billing.fetch(10, Duration::from_secs(1)).await? {
//!     delivery.dead_letter("the price is not a number").await?;
//! }
//!
//! let dead = bus.dead_letters("dead").await?;
//! let letter = dead.list(None, 10).await?.remove(0);
//! assert_eq!(letter.reason, "the price is not a number");
//! assert_eq!((letter.origin.stream.as_str(), letter.sequence), ("orders", 1));
//!
//! // The reason is mended: hand them to billing again, in order.
//! let done = dead.redrive(None).await?.remove(0);
//! assert_eq!((done.redriven, done.failed.is_none()), (1, true));
//! assert_eq!(billing.fetch(10, Duration::from_secs(1)).await?.len(), 1);
//! # Ok(())
//! # }
//! ```

pub use crate::engine::dead_letter::{DeadLetter, Origin, REDRIVE_TO, subject};
pub use crate::handles::redrive::{DeadLetters, Redriven};
