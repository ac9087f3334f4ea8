//! What goes around publishing and handling, for every stream and consumer of a bus.
//!
//! A middleware is put on a whole [`crate::Bus`] ([`crate::Bus::with_middleware`]) or on one
//! consumer's loop ([`crate::ConsumerBuilder::layer`]). This crate brings two: [`Tracing`] makes
//! spans and carries the W3C trace context in headers, [`Metrics`] counts and times for Prometheus.
//! A bus without any publishes as if this module did not exist.
//!
//! ```
//! use bus::middleware::prometheus_client::encoding::text::encode;
//! use bus::middleware::prometheus_client::registry::Registry;
//! use bus::middleware::{Metrics, Tracing};
//! use bus::{Bus, Message, StreamConfig};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut registry = Registry::default();
//! let bus = Bus::connect("embedded:").await?
//!     .with_middleware(Tracing::new())
//!     .with_middleware(Metrics::register(&mut registry));
//! let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
//! orders.publish(Message::new("orders.created", "42")?).await?;
//!
//! let stored = orders.get(1).await?.expect("just published");
//! assert!(stored.headers.get("traceparent").is_some());
//! let mut page = String::new();
//! encode(&mut page, &registry)?;
//! assert!(page.contains("bus_published_total{stream=\"orders\"} 1"));
//! # Ok(())
//! # }
//! ```

mod metrics;
mod spans;
mod trace_context;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::driver::Driver;
use crate::error::Result;
use crate::handler::{HandlerError, Outcome, Received};
use crate::message::{Message, Receipt};
use crate::name::{ConsumerName, StreamName};
use crate::publish::PendingReceipt;

pub use metrics::Metrics;
pub use prometheus_client;
pub use spans::Tracing;
pub use trace_context::TraceContext;

/// Code around publishing and handling. Every point does nothing unless it is written.
///
/// The points are called on the path of each message, from many tasks at once: they do not block.
/// Of several middlewares the first one added is the outermost.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use std::sync::Arc;
///
/// use bus::middleware::{AfterPublish, Disposition, Handling, Middleware, Publishing, Work};
/// use bus::{Message, StoredMessage};
///
/// /// Names this service on what it publishes, and counts what it has done.
/// struct Signed(Arc<AtomicU64>);
///
/// impl Middleware for Signed {
///     fn publish(&self, _to: Publishing<'_>, message: &mut Message) -> Option<AfterPublish> {
///         message.headers.set("from", "till").ok()?;
///         None // the result does not matter here
///     }
///
///     fn settled(&self, _work: &Work, how: Disposition) {
///         self.0.fetch_add(u64::from(how == Disposition::Acked), Ordering::Relaxed);
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let (shutdown, done) = (tokio_util::sync::CancellationToken::new(), Arc::new(AtomicU64::new(0)));
/// # let stop = shutdown.clone();
/// let bus = bus::Bus::connect("embedded:").await?.with_middleware(Signed(done.clone()));
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// bus.consumer("orders", "billing")
///     .run(shutdown, move |order: StoredMessage| {
///         assert_eq!(order.headers.get("from"), Some("till"));
///         stop.cancel();
///         async { bus::ack() }
///     })
///     .await?;
/// assert_eq!(done.load(Ordering::Relaxed), 1);
/// # Ok(())
/// # }
/// ```
pub trait Middleware: Send + Sync + 'static {
    /// Before a message goes to the backend; may add headers. What is returned is called with the
    /// result once that is known, and dropped without a call if nobody waits for the receipt.
    fn publish(&self, to: Publishing<'_>, message: &mut Message) -> Option<AfterPublish> {
        let _ = (to, message);
        None
    }

    /// Around the handling of one delivery by [`crate::ConsumerBuilder::run`]. `next` does the
    /// work when it is polled; dropping it unpolled skips the handler, so that whatever is
    /// returned instead of it decides.
    fn handle(&self, work: &Arc<Work>, next: Handling) -> Handling {
        let _ = work;
        next
    }

    /// After a delivery of [`crate::ConsumerBuilder::run`] was settled, or given up to its lease.
    /// A panic here is logged and changes nothing; one in [`Middleware::handle`] or
    /// [`Middleware::publish`] leaves the delivery to its lease.
    fn settled(&self, work: &Work, how: Disposition) {
        let _ = (work, how);
    }
}

/// Where a message is about to be published.
///
/// ```
/// use bus::Message;
/// use bus::middleware::{AfterPublish, Middleware, Publishing};
///
/// /// Says on which backend and stream a message began its way.
/// struct Begun;
///
/// impl Middleware for Begun {
///     fn publish(&self, to: Publishing<'_>, message: &mut Message) -> Option<AfterPublish> {
///         message.headers.set("begun", format!("{}{}", to.backend, to.stream)).ok()?;
///         None
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?.with_middleware(Begun);
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// let stored = orders.get(1).await?.expect("just published");
/// assert_eq!(stored.headers.get("begun"), Some("embedded:orders"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Publishing<'a> {
    /// The backend, as [`crate::Bus::backend`] names it.
    pub backend: &'static str,
    /// The stream.
    pub stream: &'a StreamName,
}

/// Takes the result of a publish.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// use bus::Message;
/// use bus::middleware::{AfterPublish, Middleware, Publishing};
///
/// /// How far a stream is known to be written.
/// struct Written(Arc<AtomicU64>);
///
/// impl Middleware for Written {
///     fn publish(&self, _to: Publishing<'_>, _message: &mut Message) -> Option<AfterPublish> {
///         let written = self.0.clone();
///         Some(Box::new(move |result| {
///             if let Ok(receipt) = result {
///                 written.fetch_max(receipt.sequence, Ordering::Relaxed);
///             }
///         }))
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// let written = Arc::new(AtomicU64::new(0));
/// # let bus = bus::Bus::connect("embedded:").await?.with_middleware(Written(written.clone()));
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
/// assert_eq!(written.load(Ordering::Relaxed), 1);
/// # Ok(())
/// # }
/// ```
pub type AfterPublish = Box<dyn FnOnce(&Result<Receipt>) + Send>;

/// A handler at work.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use bus::Outcome;
/// use bus::middleware::{Handling, Middleware, Work};
///
/// /// Gives a handler a second, and then the message comes again.
/// struct Deadline;
///
/// impl Middleware for Deadline {
///     fn handle(&self, _work: &Arc<Work>, next: Handling) -> Handling {
///         Box::pin(async move {
///             match tokio::time::timeout(Duration::from_secs(1), next).await {
///                 Ok(ended) => ended,
///                 Err(_) => Ok(Outcome::Retry(Duration::ZERO)),
///             }
///         })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let shutdown = tokio_util::sync::CancellationToken::new();
/// # let stop = shutdown.clone();
/// bus.consumer("orders", "billing")
///     .layer(Deadline)
///     .run(shutdown, move |order: bus::Received| {
///         let stop = stop.clone();
///         async move {
///             if order.attempt == 1 {
///                 std::future::pending::<()>().await; // the bank does not answer
///             }
///             stop.cancel();
///             bus::ack()
///         }
///     })
///     .await?;
/// assert_eq!(bus.consumer_info("orders", "billing").await?.settled_sequence, 1);
/// # Ok(())
/// # }
/// ```
pub type Handling = BoxFuture<'static, Result<Outcome, HandlerError>>;

/// A delivery in the hands of the consume loop.
///
/// ```
/// use std::sync::Arc;
///
/// use bus::Outcome;
/// use bus::middleware::{Handling, Middleware, Work};
///
/// /// Whoever has failed five times is given up before the handler sees it.
/// struct FiveTimes;
///
/// impl Middleware for FiveTimes {
///     fn handle(&self, work: &Arc<Work>, next: Handling) -> Handling {
///         if work.received.attempt <= 5 {
///             return next;
///         }
///         let reason = format!("{} failed five times", work.consumer);
///         Box::pin(async { Ok(Outcome::Reject(reason)) })
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # use bus::{ConsumerName, Received};
/// # let message = orders.get(1).await?.expect("just published");
/// let work = Work {
///     backend: bus.backend(),
///     stream: orders.name().clone(),
///     consumer: ConsumerName::new("billing")?,
///     received: Received { message, attempt: 6 },
/// };
/// let next: Handling = Box::pin(async { Ok(Outcome::Ack) });
/// let ended = FiveTimes.handle(&Arc::new(work), next).await.unwrap();
/// assert_eq!(ended, Outcome::Reject("billing failed five times".into()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Work {
    /// The backend, as [`crate::Bus::backend`] names it.
    pub backend: &'static str,
    /// The stream it came from.
    pub stream: StreamName,
    /// The consumer it was handed to.
    pub consumer: ConsumerName,
    /// The message and its attempt.
    pub received: Received,
}

/// What became of a delivery.
///
/// ```
/// use std::sync::{Arc, Mutex};
///
/// use bus::middleware::{Disposition, Middleware, Work};
/// use bus::{HandlerError, Outcome, StoredMessage};
///
/// /// Tells somebody of what is lost.
/// struct Lost(Arc<Mutex<Vec<u64>>>);
///
/// impl Middleware for Lost {
///     fn settled(&self, work: &Work, how: Disposition) {
///         if how == Disposition::Rejected {
///             self.0.lock().unwrap().push(work.received.message.sequence);
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// # let shutdown = tokio_util::sync::CancellationToken::new();
/// # let stop = shutdown.clone();
/// let lost = Arc::new(Mutex::new(Vec::new()));
/// bus.consumer("orders", "billing")
///     .layer(Lost(lost.clone()))
///     .run(shutdown, move |_: StoredMessage| {
///         stop.cancel();
///         async { Ok::<_, HandlerError>(Outcome::Reject("nobody lives there".into())) }
///     })
///     .await?;
/// assert_eq!(*lost.lock().unwrap(), [1]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Disposition {
    /// It is done.
    Acked,
    /// It comes again.
    Retried,
    /// It was given up, and is kept nowhere.
    Rejected,
    /// It was given up, and a copy is among the dead letters.
    DeadLettered,
    /// It was redriven for another consumer, and passed over.
    Skipped,
    /// It could not be settled: it comes again when its lease ends.
    Left,
}

/// The middlewares of a bus, outermost first.
#[derive(Clone, Default)]
pub(crate) struct Layers(Option<Arc<[Arc<dyn Middleware>]>>);

impl Layers {
    pub(crate) fn with(&self, inner: Arc<dyn Middleware>) -> Self {
        let outer = self.0.iter().flat_map(|layers| layers.iter().cloned());
        Self(Some(outer.chain([inner]).collect()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Submits through the layers; without any, straight to the driver.
    pub(crate) async fn submit(
        &self,
        driver: &dyn Driver,
        stream: &StreamName,
        mut message: Message,
    ) -> Result<PendingReceipt> {
        if self.is_empty() {
            return driver.submit(stream, message).await;
        }
        let after = self.publishing(driver.name(), stream, &mut message);
        match driver.submit(stream, message).await {
            Ok(receipt) => Ok(PendingReceipt::later(async move {
                let result = receipt.await;
                tell(after, &result);
                result
            })),
            Err(error) => {
                let result = Err(error);
                tell(after, &result);
                result.map(|receipt| PendingReceipt::ready(Ok(receipt)))
            }
        }
    }

    /// Lets every layer see a message that is about to be published.
    pub(crate) fn publishing(
        &self,
        backend: &'static str,
        stream: &StreamName,
        message: &mut Message,
    ) -> Vec<AfterPublish> {
        let layers = self.0.iter().flat_map(|layers| layers.iter());
        layers.filter_map(|l| l.publish(Publishing { backend, stream }, message)).collect()
    }

    pub(crate) fn handle(&self, work: &Arc<Work>, handling: Handling) -> Handling {
        let layers = self.0.iter().flat_map(|layers| layers.iter());
        layers.rev().fold(handling, |next, layer| layer.handle(work, next))
    }

    /// Tells every layer. It has happened, so that a layer that panics changes nothing about it, and
    /// keeps it from no other.
    pub(crate) fn settled(&self, work: &Work, how: Disposition) {
        for layer in self.0.iter().flat_map(|layers| layers.iter()).rev() {
            unharmed("settled", || layer.settled(work, how));
        }
    }
}

/// Tells the result to whoever asked for it, the innermost first; a panic of one is no other's.
pub(crate) fn tell(after: Vec<AfterPublish>, result: &Result<Receipt>) {
    for done in after.into_iter().rev() {
        unharmed("publish", || done(result));
    }
}

/// Tells somebody's code of what has happened, whatever becomes of that code.
fn unharmed(point: &'static str, told: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(told)) {
        tracing::error!(point, why = said(panic.as_ref()), "a middleware panicked");
    }
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    said.unwrap_or("it did not say why")
}
