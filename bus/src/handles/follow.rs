//! Readers, watches and consumers as [`futures_util::Stream`]s, for whoever composes them.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};

use super::consumer::Consumer;
use super::kv::Watch;
use super::stream::Reader;
use crate::driver::KvChange;
use crate::engine::delivery::Delivery;
use crate::error::{Error, Result};
use crate::message::StoredMessage;

/// Messages that a reader takes at once.
const PAGE: usize = 256;
/// How long one question to the backend waits; the stream asks again.
const WAIT: Duration = Duration::from_secs(5);

impl Reader {
    /// Every message from here on, in stream order; it never ends by itself.
    ///
    /// An error is an item. After one that is worth a repetition ([`Error::is_retryable`]) the
    /// stream goes on where it was, without gap or repeat, when it is polled again; any other is
    /// the last item. Of what was read ahead, up to 256 messages, nothing is kept when the stream
    /// is dropped: the position is that of the last item.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
    /// use futures_util::TryStreamExt;
    ///
    /// orders.publish(bus::Message::new("orders.created", "42")?).await?;
    /// orders.publish(bus::Message::new("orders.created", "43")?).await?;
    /// let mut all = orders.reader(&[], bus::Start::Beginning).await?.into_stream();
    /// let mut sequences = Vec::new();
    /// while let Some(message) = all.try_next().await? {
    ///     sequences.push(message.sequence);
    ///     if message.sequence == 2 {
    ///         break;
    ///     }
    /// }
    /// assert_eq!(sequences, [1, 2]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> BoxStream<'static, Result<StoredMessage>> {
        let start = (Some(self), VecDeque::new());
        let messages = stream::unfold(start, |(mut reader, mut ahead)| async move {
            loop {
                if let Some(message) = ahead.pop_front() {
                    return Some((Ok(message), (reader, ahead)));
                }
                match reader.as_mut()?.next(PAGE, WAIT).await {
                    Ok(page) => ahead.extend(page),
                    Err(error) => {
                        let reader = reader.filter(|_| error.is_retryable());
                        return Some((Err(error), (reader, ahead)));
                    }
                }
            }
        });
        messages.boxed()
    }
}

impl Watch {
    /// Every change from here on; it never ends by itself. Errors are items, as those of
    /// [`Reader::into_stream`]; a watch repeats no revision after one.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # use bus::{BucketConfig, BucketName, KvChange};
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # let state = bus.ensure_kv(&BucketConfig::new(BucketName::new("state")?)).await?;
    /// use futures_util::{StreamExt, future::ready};
    ///
    /// state.put("a", "1").await?;
    /// state.put("b", "2").await?;
    /// let changes = state.watch(">").await?.into_stream();
    /// let held = changes.take_while(|change| ready(!matches!(change, Ok(KvChange::Synced))));
    /// assert_eq!(held.count().await, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> BoxStream<'static, Result<KvChange>> {
        let changes = stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            let change = watch.next().await;
            let goes_on = change.as_ref().err().is_none_or(Error::is_retryable);
            Some((change, goes_on.then_some(watch)))
        });
        changes.boxed()
    }
}

impl Consumer {
    /// Deliveries, one at a time, redeliveries first; it never ends by itself. Each is a lease that
    /// begins when the item comes, so none ages in a buffer here; what is to be fetched ahead is
    /// [`crate::ConsumerBuilder::prefetch`]'s to say. Errors are items, as those of
    /// [`Reader::into_stream`].
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
    /// use futures_util::{StreamExt, TryStreamExt};
    ///
    /// for n in ["1", "2", "3"] {
    ///     orders.publish(bus::Message::new("orders.created", n)?).await?;
    /// }
    /// let billing = bus.consumer("orders", "billing").open().await?;
    /// let three = billing.deliveries().take(3);
    /// three
    ///     .try_for_each(async |delivery| delivery.ack_confirmed().await.map_err(|failed| failed.error))
    ///     .await?;
    /// assert_eq!(billing.info().await?.settled_sequence, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn deliveries(&self) -> BoxStream<'static, Result<Delivery>> {
        let deliveries = stream::unfold(Some(self.clone()), |consumer| async move {
            let consumer = consumer?;
            loop {
                match consumer.fetch(1, WAIT).await.map(|mut one| one.pop()) {
                    Ok(None) => {}
                    Ok(Some(delivery)) => return Some((Ok(delivery), Some(consumer))),
                    Err(error) => {
                        let consumer = error.is_retryable().then_some(consumer);
                        return Some((Err(error), consumer));
                    }
                }
            }
        });
        deliveries.boxed()
    }
}
