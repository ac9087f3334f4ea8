//! A stream, held by name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::capability::Capability;
use crate::config::{Start, StreamInfo};
use crate::driver::{Driver, READ_BYTES, ReaderDriver, Unit};
use crate::error::{Error, Result, require};
use crate::message::{Message, Receipt, StoredMessage};
use crate::middleware::Layers;
use crate::name::{StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;
use crate::unit::commit;

/// How many messages [`Stream::publish_all`] keeps on their way at once.
const PUBLISH_WINDOW: usize = 512;
/// How many subjects a driver is asked for at a time.
const STATE_PAGE: usize = 1000;

/// An ordered log of messages on subjects. Cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// let subjects = orders.subjects(&bus::SubjectFilter::new("orders.>")?).await?;
/// let state = orders.last_at(&subjects, orders.info().await?.last_sequence).await?;
/// assert_eq!(state.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Stream {
    driver: Arc<dyn Driver>,
    layers: Layers,
    name: StreamName,
}

/// Its name, where a name will do.
impl AsRef<StreamName> for Stream {
    fn as_ref(&self) -> &StreamName {
        &self.name
    }
}

impl Stream {
    pub(crate) fn new(driver: Arc<dyn Driver>, layers: Layers, name: StreamName) -> Self {
        Self { driver, layers, name }
    }

    /// The stream's name.
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// The stream as it is now.
    pub async fn info(&self) -> Result<StreamInfo> {
        self.driver.stream_info(&self.name).await
    }

    /// Publishes one message and waits until it is durable.
    ///
    /// A time-out does not mean that it was not stored: publish again **with the same id**.
    pub async fn publish(&self, message: Message) -> Result<Receipt> {
        self.submit(message).await?.await
    }

    /// Publishes `value` as JSON and waits until it is durable; see [`Message::json`].
    pub async fn publish_json<T: Serialize + ?Sized>(
        &self,
        subject: impl AsRef<str>,
        value: &T,
    ) -> Result<Receipt> {
        self.publish(Message::json(subject, value)?).await
    }

    /// Hands a message over and returns when it has a place in the backend's bounded window;
    /// await the receipt to know that it is durable. Messages submitted one after another are
    /// stored in that order unless one fails, or had to be sent again because the leader of the
    /// stream changed or the connection was lost before it was written; those that are sent again
    /// keep their order, and none that is submitted later passes them. Where order per key matters
    /// whatever happens, await the receipt before the next message of the key.
    pub async fn submit(&self, message: Message) -> Result<PendingReceipt> {
        self.layers.submit(self.driver.as_ref(), &self.name, message).await
    }

    /// Publishes many messages through a window; one result for each, in their order.
    pub async fn publish_all(
        &self,
        messages: impl IntoIterator<Item = Message>,
    ) -> Vec<Result<Receipt>> {
        let (mut results, mut window) = (Vec::new(), VecDeque::new());
        for message in messages {
            if window.len() >= PUBLISH_WINDOW {
                results.push(resolve(window.pop_front()).await);
            }
            window.push_back(self.submit(message).await);
        }
        while !window.is_empty() {
            results.push(resolve(window.pop_front()).await);
        }
        results
    }

    /// Stores all of the messages in one step and in their order, or none of them: no reader ever
    /// sees a part, and conditions ([`Message::expect_last`]) are checked in the same step. On
    /// `nats://` at most 1000, which follow each other in the stream without a gap. Returns their
    /// receipts.
    ///
    /// Nothing is repeated that may have happened: after [`crate::ErrorKind::Timeout`] it is not
    /// known whether they are stored, and a condition or a look at the stream tells. Ids that the
    /// stream remembers are for [`crate::Bus::unit`]. A stream that cannot do it refuses by name.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
    /// use bus::Message;
    ///
    /// // What was read elsewhere, and how far: whoever does it again from an old position is refused.
    /// let position = |last| Ok::<_, bus::Error>(
    ///     Message::new("orders.position", "2")?.rollup().expect_last(last));
    /// let copied = || Message::new("orders.created", "42");
    /// orders.publish_atomic(vec![copied()?, copied()?, position(0)?]).await?;
    /// let again = orders.publish_atomic(vec![copied()?, copied()?, position(0)?]).await;
    /// assert!(again.unwrap_err().is_conflict());
    /// assert_eq!(orders.info().await?.last_sequence, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_atomic(&self, messages: Vec<Message>) -> Result<Vec<Receipt>> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let outputs = messages.into_iter().map(|message| (self.name.clone(), message)).collect();
        let unit = Unit { inputs: Vec::new(), outputs, atomic: true };
        Ok(commit(self.driver.as_ref(), &self.layers, unit).await?.receipts)
    }

    /// The message at `sequence`, if the stream still holds it.
    pub async fn get(&self, sequence: u64) -> Result<Option<StoredMessage>> {
        self.driver.get(&self.name, sequence).await
    }

    /// The subjects that hold a message now and match, sorted, each once: complete, or an error.
    pub async fn subjects(&self, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        self.driver.subjects(&self.name, filter).await
    }

    /// For each subject the last message held **at or before** sequence `up_to`: the state as it
    /// was then, whatever was published since. Subjects without one are left out.
    pub async fn last_at(&self, subjects: &[Subject], up_to: u64) -> Result<Vec<StoredMessage>> {
        let mut found = Vec::with_capacity(subjects.len());
        for page in subjects.chunks(STATE_PAGE) {
            found.extend(self.driver.last_at(&self.name, page, up_to).await?);
        }
        Ok(found)
    }

    /// How many messages held **after** sequence `after` match one of `filters` (none:
    /// everything). Nothing is read, and nothing is kept in the backend.
    ///
    /// Filters that overlap are [`crate::ErrorKind::Invalid`]. Where a copy of the stream answers
    /// that is a moment behind, so is the count.
    pub async fn count(&self, filters: &[SubjectFilter], after: u64) -> Result<u64> {
        self.check_countable(filters)?;
        self.driver.count(&self.name, filters, after).await
    }

    fn check_countable(&self, filters: &[SubjectFilter]) -> Result<()> {
        let support = self.driver.support(Capability::Counting);
        let asked_by = format_args!("a count on stream {}", self.name);
        require(self.driver.name(), Capability::Counting, support, asked_by)?;
        for (at, one) in filters.iter().enumerate() {
            if let Some(other) = filters.iter().skip(at + 1).find(|other| one.overlaps(other)) {
                return Err(Error::invalid(format!(
                    "filters {one} and {other} of a count on stream {} overlap: keep the wider one",
                    self.name
                )));
            }
        }
        Ok(())
    }

    /// Tells, of every subject that matches one of `filters` (none: of all), the sequence of the
    /// last message held **at or before** `up_to`: where the state stands in the log, without the
    /// messages. Complete, or an error; in no promised order, and a place may be told more than
    /// once. It costs the backend one pass over the subjects and the caller what it keeps, which
    /// is how a state of millions of subjects is read in little memory: keep the sequences, sort
    /// them, and read those messages.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
    /// for subject in ["orders.41", "orders.42", "orders.41", "orders.43"] {
    ///     orders.publish(bus::Message::new(subject, "paid")?).await?;
    /// }
    /// let mut places = Vec::new();
    /// orders.state(&[], 3, |_, sequence| places.push(sequence)).await?;
    /// places.sort_unstable();
    /// places.dedup();
    /// assert_eq!(places, [2, 3], "order 42, and order 41 as it was written last by then");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn state(
        &self,
        filters: &[SubjectFilter],
        up_to: u64,
        mut tell: impl FnMut(&str, u64) + Send,
    ) -> Result<()> {
        self.driver.state(&self.name, filters, up_to, &mut tell).await
    }

    /// Opens a reader on what matches one of `filters` (none: everything).
    pub async fn reader(&self, filters: &[SubjectFilter], start: Start) -> Result<Reader> {
        Ok(Reader(self.driver.reader(&self.name, filters, start).await?))
    }

    /// Removes the messages that match; the stream and its sequence stay. Returns how many.
    pub async fn purge(&self, filter: &SubjectFilter) -> Result<u64> {
        self.driver.purge(&self.name, filter).await
    }
}

async fn resolve(submitted: Option<Result<PendingReceipt>>) -> Result<Receipt> {
    match submitted {
        Some(receipt) => receipt?.await,
        None => Err(Error::invalid("the publish window is empty")),
    }
}

/// Reads a stream without acks; the position is the caller's. It survives a restart of the
/// backend and goes on where it stopped, without gap or repeat.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
///
/// orders.publish(bus::Message::new("orders.created", "42")?).await?;
/// let mut reader = orders.reader(&[], bus::Start::Beginning).await?;
/// let read = reader.next(100, Duration::from_secs(1)).await?;
/// assert_eq!((read.len(), read[0].sequence), (1, 1));
/// # Ok(())
/// # }
/// ```
pub struct Reader(Box<dyn ReaderDriver>);

impl Reader {
    /// Up to `max` messages in stream order, waiting up to `wait` for the first and not for more;
    /// empty when none came. Fewer are no sign of the end: of large ones about 8 MiB come at a
    /// time.
    pub async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<StoredMessage>> {
        self.0.next(max, READ_BYTES, wait).await
    }

    /// The same, and not more than about `max_bytes` of them: the message that brings their
    /// [`StoredMessage::size`] to it is the last. On `nats://` about as much is read ahead, in
    /// place of 16 MiB, so that a reader whose caller is slow stays small.
    pub async fn next_within(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>> {
        self.0.next(max, max_bytes.min(READ_BYTES), wait).await
    }
}
