//! Streams, consumers and key-value over one contract, on every backend.
//!
//! Five nouns carry through the crate: a [`Bus`] is a connection to a backend; a [`Stream`] is an
//! ordered log of [`Message`]s on subjects; a durable [`Consumer`] hands them out under leases; a
//! [`KeyValue`] bucket keeps small state with compare-and-set and a watch. A URL chooses the
//! backend:
//!
//! | URL | What it is | Feature |
//! |---|---|---|
//! | `embedded:` | in this process, in memory: for tests, and to begin with | |
//! | `embedded:///path` | in this process, in a folder | `disk` |
//! | `nats://host:4222` | NATS JetStream | `nats` |
//! | `kafka://host:9092` | Apache Kafka | `kafka` |
//!
//! ```
//! use std::time::Duration;
//!
//! use bus::{Backoff, BucketConfig, BucketName, Bus, KvChange, Message, StreamConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! // The same program runs on a folder and on NATS. Kafka knows no ids and no compare-and-set:
//! // there it is told so.
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
//! ```
//! use std::time::Duration;
//!
//! use bus::{Backoff, Bus, Jitter, Message, StoredMessage, StreamConfig, StreamName};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! let bus = Bus::connect("embedded:").await?;
//! let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
//! bus.ensure_stream(&StreamConfig::dead_letters(StreamName::new("dead")?)).await?;
//! orders.publish(Message::new("orders.created", "not a number")?.key("anna")).await?;
//! orders.publish(Message::new("orders.created", "42")?.key("anna")).await?;
//!
//! let shutdown = CancellationToken::new();
//! let stop = shutdown.clone();
//! bus.consumer("orders", "billing")
//!     .ordered_by_key() // one message of a key at a time, different keys in parallel
//!     .max_in_flight(64)
//!     .retry(Backoff::exponential(Duration::from_millis(1)).jitter(Jitter::Equal))
//!     .max_attempts(3)
//!     .dead_letters("dead")
//!     .run(shutdown, move |order: StoredMessage| {
//!         let stop = stop.clone();
//!         async move {
//!             let text = String::from_utf8_lossy(order.payload.as_deref().unwrap_or_default());
//!             let price: u32 = text.parse()?; // fails three times, then it is a dead letter
//!             assert_eq!(price, 42);
//!             stop.cancel();
//!             bus::ack()
//!         }
//!     })
//!     .await?;
//!
//! let dead = bus.dead_letters("dead").await?.list(None, 10).await?;
//! assert_eq!((dead[0].sequence, dead[0].attempts), (1, 3));
//! assert_eq!(dead[0].reason, "attempt 3 of 3 failed: invalid digit found in string");
//! # Ok(())
//! # }
//! ```
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
//! delivered at most that often, and then given up.
//!
//! **What is given up** by a consumer with [`ConsumerBuilder::dead_letters`] is copied to that
//! stream first, and settled when the copy is durable: nothing is lost in between, whatever
//! crashes, and where the backend has [`Capability::Deduplication`] there is one copy. Elsewhere a
//! crash between the two may leave two. A backend's own limit on attempts is not used then: the
//! loop and [`Consumer::fetch`] keep it. [`DeadLetters::redrive`] hands the copies again to the
//! one consumer that gave them up, in their order. Without dead letters what is given up is gone.
//!
//! **Retries** wait for a [`Backoff`], spread by a hash of the stream, the consumer and the
//! sequence: different for each message, the same on every run. The backend holds the delay, so
//! that it outlives a crash; by key the process holds it, and a crash cuts it short.
//!
//! **Order.** First deliveries come in stream order; redeliveries come first, in stream order
//! among themselves. A retried message is overtaken by later ones. Competing clones of a consumer
//! see each delivery once, in no order between them.
//!
//! **Order per key** is kept by [`ConsumerBuilder::ordered_by_key`]: the next message of a key
//! begins when the one before it is settled for good, over retries, crashes and processes. One
//! process at a time owns such a consumer by a lease in a bucket, unless the backend has
//! [`Capability::KeyAffinity`]. Before a new owner begins, and after a fetch that failed, it holds
//! back until everything that is out has come to it, at most for two ack waits and a second after
//! the last sign: a message that stays out longer (a retry with a long delay by somebody who
//! fetches beside the loop) is overtaken. An owner that may have lost its lease settles nothing.
//! What already ran in it cannot be taken back: a process that was stopped for longer than its
//! lease and goes on may finish the step it was in.
//!
//! **Units.** A handler that returns [`Outcome::AckAnd`] has its outputs published with its ack;
//! [`Guarantee`] says how surely once.
//!
//! **Stopping.** On shutdown the loop fetches no more, lets handlers finish for
//! [`ConsumerBuilder::drain_within`], aborts the others, and returns with every settlement
//! recorded and no task left. What it did not finish comes again.
//!
//! **Holding back.** At most [`ConsumerBuilder::max_unsettled`] deliveries are out, over all
//! processes (Kafka: of each connection). A stream at its limit drops its oldest message or refuses the publish, as
//! [`WhenFull`] says; one that refuses loses nothing that it accepted.
//!
//! **When the backend is away.** Bound consumers, readers and watches survive it: a call in
//! between fails with [`ErrorKind::Unavailable`] and the next tries again. A reader goes on where
//! it stopped, a watch repeats no revision.
//!
//! **What a backend cannot do** is refused as [`ErrorKind::Unsupported`], which names the
//! [`Capability`]; nothing is silently downgraded. A stream, a consumer or a bucket that asks for
//! too much is refused when it is declared or opened, an id or a condition on a message when it is
//! published. To know at the start: [`ConsumerBuilder::requires`], [`Bus::kv_for`] and
//! [`Bus::support`]. "Emulated" means that this crate does it on top, with the limits that the
//! backend's module names.
//!
#![doc = include_str!("capabilities.md")]
//!
#![doc = include_str!("words.md")]
//!
//! # Further
//!
//! [`dead_letter`] keeps and redrives what was given up, [`Bus::unit`] settles and publishes in one
//! step, [`topology`] declares streams, consumers and buckets in a file, [`middleware`] goes around
//! publishing and handling and brings traces and metrics. A [`Lease`] lets one process at a time do
//! what must not be done twice at once. A backend of your own begins at
//! [`driver::Driver`]. For tests there are the features `conformance` (what every backend must do),
//! `fault` (a backend that fails on purpose) and `testkit` (real servers).

mod connect;
mod consume;
pub mod dead_letter;
pub mod driver;
mod engine;
mod handles;
mod lease;
mod nouns;
pub mod topology;
mod util;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod embedded;
#[cfg(feature = "fault")]
pub mod fault;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "testkit")]
pub mod testkit;

// The floors from below, under the names that the crate uses: no file names the floor of another.
use handles::{bus, consumer, kv, request, stream};
use nouns::{
    backoff, capability, config, creation, difference, error, handler, headers, message, name,
    options, publish,
};
#[cfg(any(feature = "nats", feature = "kafka"))]
use util::arena;
use util::{door, due, random, text};

pub use engine::middleware;
pub use handles::unit;

pub use backoff::{Backoff, Jitter};
pub use bus::Bus;
pub use capability::{Capability, Support};
pub use config::{
    BucketConfig, ConsumerConfig, ConsumerInfo, Entry, Placement, Retention, Start, Storage,
    StreamConfig, StreamInfo, WhenFull,
};
pub use consumer::{Consumer, ConsumerBuilder};
pub use creation::Creation;
pub use dead_letter::{DeadLetter, DeadLetters};
pub use driver::{Committed, Guarantee, KvChange, LeaseToken, Settlement};
pub use engine::delivery::{Delivery, SettleError};
pub use error::{Error, ErrorKind, Result};
pub use handler::{FromMessage, HandlerError, Json, Outcome, Received, ack, retry};
pub use handles::create::Opened;
pub use headers::Headers;
pub use kv::{KeyValue, Watch};
pub use lease::{Attempt, Contender, Lease, LeaseStatus};
pub use message::{Expect, Message, Receipt, StoredMessage};
pub use name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
pub use options::{ConnectOptions, JetStream, Sasl, Tls};
pub use publish::PendingReceipt;
pub use request::{Request, Responder};
pub use stream::{Reader, Stream};
pub use topology::Topology;
pub use unit::{UnitBuilder, UnitError};
