//! The promise of a receipt, between handing a message over and its being durable.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};
use crate::message::Receipt;

/// Resolves when the message is durable, or says why it is not.
///
/// Dropping it does not take the message back: it may be stored all the same.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::Message;
///
/// // Both are on their way at once.
/// let first = orders.submit(Message::new("orders.created", "1")?).await?;
/// let second = orders.submit(Message::new("orders.created", "2")?).await?;
/// assert!(first.await?.sequence < second.await?.sequence);
/// # Ok(())
/// # }
/// ```
#[must_use = "a dropped receipt is a lost error: await it"]
pub struct PendingReceipt(Inner);

enum Inner {
    Ready(Option<Result<Receipt>>),
    Channel(oneshot::Receiver<Result<Receipt>>),
    Later(BoxFuture<'static, Result<Receipt>>),
}

impl PendingReceipt {
    /// A receipt that is known already.
    pub fn ready(result: Result<Receipt>) -> Self {
        Self(Inner::Ready(Some(result)))
    }

    /// A receipt that a backend's task will send. A sender that is dropped without sending is
    /// [`ErrorKind::Closed`].
    pub fn channel(receipt: oneshot::Receiver<Result<Receipt>>) -> Self {
        Self(Inner::Channel(receipt))
    }

    /// A receipt that a backend will deliver.
    pub fn later(receipt: impl Future<Output = Result<Receipt>> + Send + 'static) -> Self {
        Self(Inner::Later(Box::pin(receipt)))
    }
}

impl Future for PendingReceipt {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match &mut self.0 {
            Inner::Channel(receipt) => Pin::new(receipt).poll(cx).map(|sent| {
                let closed = "publish: the bus was closed before the answer came";
                sent.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed, closed)))
            }),
            Inner::Later(receipt) => receipt.as_mut().poll(cx),
            // Polled after completion: a caller's bug that must not bring the process down.
            Inner::Ready(result) => result.take().map_or(Poll::Pending, Poll::Ready),
        };
        if polled.is_ready() {
            self.0 = Inner::Ready(None);
        }
        polled
    }
}
