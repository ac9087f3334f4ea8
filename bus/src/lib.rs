//! Streams, consumers and key-value over one contract, on every backend.
//!
//! Five nouns carry through the crate: a [`Bus`] is a connection to a backend; a [`Stream`] is an
//! ordered log of [`Message`]s on subjects; a durable [`Consumer`] hands them out under leases; a
//! [`KeyValue`] bucket keeps small state with compare-and-set and a watch.
//!
//! ```
//! use std::time::Duration;
//!
//! use bus::driver::KvChange;
//! use bus::{Backoff, BucketConfig, BucketName, Bus, Message, StreamConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! // The same program runs on `nats://127.0.0.1:4222`.
//! let bus = Bus::connect("embedded:").await?;
//!
//! // Declare, then publish. A receipt means that the stream holds the message.
//! let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
//! let receipt = orders.publish(Message::new("orders.created", "42")?.id("order-42")).await?;
//! assert_eq!(receipt.sequence, 1);
//!
//! // A second publish with the same id stores nothing.
//! let again = orders.publish(Message::new("orders.created", "42")?.id("order-42")).await?;
//! assert!(again.duplicate);
//!
//! // Consume: a delivery is a lease on a message, and settling consumes the delivery.
//! let billing = bus.consumer("orders", "billing").filter("orders.created").open().await?;
//! for delivery in billing.fetch(10, Duration::from_secs(1)).await? {
//!     assert_eq!(delivery.message().payload.as_deref(), Some(&b"42"[..]));
//!     if delivery.attempt() < 2 {
//!         // Not now: deliver it again, not before the backoff is over.
//!         let delay = Backoff::fixed(Duration::from_millis(1)).delay(delivery.attempt());
//!         delivery.retry(delay).await?;
//!     }
//! }
//! for delivery in billing.fetch(10, Duration::from_secs(1)).await? {
//!     assert_eq!(delivery.attempt(), 2);
//!     delivery.ack_confirmed().await?; // never again
//! }
//! assert_eq!(billing.info().await?.unsettled, 0);
//!
//! // Keep state: one writer wins each revision, and a watch says when it is in step.
//! let state = bus.ensure_kv(&BucketConfig::new(BucketName::new("state")?)).await?;
//! let revision = state.create("order.42", "paid").await?;
//! let mut watch = state.watch("order.>").await?;
//! assert!(matches!(watch.next().await?, KvChange::Put(entry) if entry.revision == revision));
//! assert_eq!(watch.next().await?, KvChange::Synced);
//!
//! state.update("order.42", "shipped", revision).await?;
//! assert!(matches!(watch.next().await?, KvChange::Put(entry) if entry.value == "shipped"));
//! assert!(state.update("order.42", "lost", revision).await.unwrap_err().is_conflict());
//! # Ok(())
//! # }
//! ```
//!
//! For a service's consume loop there is [`ConsumerBuilder::run`]: the handler returns an
//! [`Outcome`], the loop extends leases, settles, retries and drains on shutdown.
//!
//! # The delivery contract
//!
//! **Publishing.** A [`Receipt`] proves that the stream holds the message. A failed publish was
//! not stored, except for [`ErrorKind::Timeout`], where nobody knows: publish again with the same
//! [`Message::id`], and the stream's de-duplication window keeps one. Messages submitted one after
//! another are stored in that order unless one fails. [`Message::expect_last`] makes a publish
//! conditional; the check and the write are one step.
//!
//! **Delivery is at least once.** A delivery is a lease. It ends in one of four ways, and in the
//! first two the message is delivered again, with [`Delivery::attempt`] one higher:
//!
//! | What happens | Then the message |
//! |---|---|
//! | nothing: dropped, crashed, too slow | comes again when the lease ends |
//! | [`Delivery::retry`] | comes again, not before the delay is over |
//! | [`Delivery::ack`], [`Delivery::ack_confirmed`] | never comes again to this consumer |
//! | [`Delivery::reject`] | never comes again to this consumer |
//!
//! A plain `ack` may be lost on its way, and the message comes again; `ack_confirmed` returns when
//! the backend has recorded it. After a lease ended, its holder's settlement is refused as
//! [`ErrorKind::Stale`], so that a slow holder cannot undo a faster one's work; whoever works
//! longer calls [`Delivery::extend`]. With [`ConsumerBuilder::max_attempts`] a message is
//! delivered at most that often, and then given up: whoever must not lose it publishes it
//! elsewhere before it rejects it.
//!
//! **Order.** First deliveries come in stream order; redeliveries come first, in stream order
//! among themselves. A retried message is overtaken by later ones. Competing clones of a consumer
//! see each delivery once, in no order between them.
//!
//! **Holding back.** At most [`ConsumerBuilder::max_unsettled`] deliveries are out, over all
//! processes. A stream at its limit drops its oldest message or refuses the publish, as
//! [`WhenFull`] says; one that refuses loses nothing that it accepted.
//!
//! **When the backend is away.** Bound consumers, readers and watches survive it: a call in
//! between fails with [`ErrorKind::Unavailable`] and the next tries again. A reader goes on where
//! it stopped, a watch repeats no revision.
//!
//! **What a backend cannot do** is a [`Capability`] that is checked when a consumer is opened and
//! not later; nothing is silently downgraded.

pub mod backoff;
mod bus;
pub mod capability;
pub mod config;
mod consume;
mod consumer;
pub mod dead_letter;
mod delivery;
pub mod driver;
mod error;
mod headers;
mod kv;
mod message;
pub mod middleware;
mod name;
mod publish;
mod random;
mod request;
mod stream;
mod text;
pub mod topology;
pub mod unit;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
#[cfg(feature = "fault")]
pub mod fault;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "testkit")]
pub mod testkit;

pub use backoff::{Backoff, Jitter};
pub use bus::{Bus, ConnectOptions};
pub use capability::{Capability, Support};
pub use config::{
    BucketConfig, ConsumerConfig, ConsumerInfo, Entry, Placement, Retention, Start, Storage,
    StreamConfig, StreamInfo, WhenFull,
};
pub use consume::{FromMessage, HandlerError, Json, Outcome, Received};
pub use consumer::{Consumer, ConsumerBuilder};
pub use dead_letter::{DeadLetter, DeadLetters};
pub use delivery::{Delivery, SettleError};
pub use driver::{KvChange, LeaseToken, Settlement};
pub use error::{Error, ErrorKind, Result};
pub use headers::Headers;
pub use kv::{KeyValue, Watch};
pub use message::{Expect, Message, Receipt, StoredMessage};
pub use name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
pub use publish::PendingReceipt;
pub use request::{Request, Responder};
pub use stream::{Reader, Stream};
pub use topology::Topology;
pub use unit::{Committed, Guarantee, UnitBuilder, UnitError};
