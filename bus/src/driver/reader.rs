//! Reading without settling.

use std::time::Duration;

use async_trait::async_trait;

use crate::error::Result;
use crate::message::StoredMessage;

/// A reader gives no more at once when it has given so many bytes, however many messages are asked
/// for: whoever asks holds them all.
pub(crate) const READ_BYTES: usize = 8 << 20;

/// Who is told the places of a state, [`super::Driver::state`]: a subject, and the sequence of its
/// last message.
pub type Tell<'a> = dyn FnMut(&str, u64) + Send + 'a;

/// An open reader.
///
/// ```
/// use std::collections::VecDeque;
/// use std::time::Duration;
///
/// use async_trait::async_trait;
/// use bus::driver::ReaderDriver;
/// use bus::{Result, StoredMessage};
///
/// /// A stream that nobody writes to any more.
/// struct Archive(VecDeque<StoredMessage>);
///
/// #[async_trait]
/// impl ReaderDriver for Archive {
///     async fn next(
///         &mut self,
///         max: usize,
///         max_bytes: usize,
///         wait: Duration,
///     ) -> Result<Vec<StoredMessage>> {
///         if self.0.is_empty() {
///             tokio::time::sleep(wait).await; // for the first and not for more
///         }
///         let (mut page, mut bytes) = (Vec::new(), 0);
///         while page.len() < max
///             && (page.is_empty() || bytes < max_bytes)
///             && let Some(message) = self.0.pop_front()
///         {
///             bytes += message.size();
///             page.push(message);
///         }
///         Ok(page)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # for body in ["1", "2", "3"] {
/// #     orders.publish(bus::Message::new("orders.created", body)?).await?;
/// # }
/// # let mut reader = orders.reader(&[], bus::Start::Beginning).await?;
/// # let all = reader.next(10, Duration::from_secs(1)).await?;
/// let mut archive = Archive(all.into());
/// assert_eq!(archive.next(2, 1000, Duration::ZERO).await?.len(), 2);
/// assert_eq!(archive.next(2, 1000, Duration::ZERO).await?[0].sequence, 3);
/// assert!(archive.next(2, 1000, Duration::ZERO).await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait ReaderDriver: Send {
    /// Up to `max` messages in stream order, waiting up to `wait` for the first; the one that
    /// brings their [`StoredMessage::size`] to `max_bytes` is the last. Of what comes after them,
    /// about as many bytes may be on their way to this process. Goes on by itself where it stopped
    /// when the backend was away. [`crate::ErrorKind::NotFound`] when the stream is gone.
    async fn next(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>>;
}
