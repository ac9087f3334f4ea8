//! What is published, what is stored, and the receipt in between.

use std::time::SystemTime;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::headers::Headers;
use crate::name::Subject;

/// A message to publish.
///
/// A payload of `None` is a **tombstone**, which is not the same as an empty payload: both arrive
/// as they were sent, on every backend.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use bus::Message;
///
/// let message = Message::json("orders.created", &["two teas"])?
///     .key("order-42") // order is kept per key
///     .id("order-42") // a repeat is recognised
///     .header("ce-source", "/till")?;
/// assert_eq!(message.headers.get("content-type"), Some("application/json"));
/// assert!(Message::tombstone("orders.created")?.payload.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it goes.
    pub subject: Subject,
    /// The object the message is about; order is kept per key. `None` means the subject is the key.
    pub key: Option<Bytes>,
    /// Further attributes, in order, repeats allowed.
    pub headers: Headers,
    /// The body; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Recognised by the stream for the length of its de-duplication window.
    pub id: Option<String>,
    /// What must hold for the message to be stored.
    pub expect: Option<Expect>,
    /// No consumer gets it before this time.
    pub not_before: Option<SystemTime>,
    /// True when it takes the place of everything that its subject holds.
    pub rollup: bool,
}

/// A condition on the stream that the backend checks in the same step as it stores the message.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::Message;
///
/// let first = Message::new("orders.42", "created")?.expect_last(0);
/// let sequence = orders.publish(first.clone()).await?.sequence;
/// assert!(orders.publish(first).await.unwrap_err().is_conflict());
/// orders.publish(Message::new("orders.42", "paid")?.expect_last(sequence)).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The subject's last message has this sequence; `0` means that the subject has none.
    LastSubjectSequence(u64),
}

impl Message {
    /// A message with a body. Fails only for a malformed subject.
    pub fn new(subject: impl AsRef<str>, payload: impl Into<Bytes>) -> Result<Self> {
        Ok(Self { payload: Some(payload.into()), ..Self::tombstone(subject)? })
    }

    /// A message without a body, which deletes its key for everyone who keeps state.
    pub fn tombstone(subject: impl AsRef<str>) -> Result<Self> {
        Ok(Self {
            subject: Subject::new(subject)?,
            key: None,
            headers: Headers::new(),
            payload: None,
            id: None,
            expect: None,
            not_before: None,
            rollup: false,
        })
    }

    /// A message whose body is `value` as JSON, with the matching `content-type`.
    pub fn json<T: Serialize + ?Sized>(subject: impl AsRef<str>, value: &T) -> Result<Self> {
        let body = serde_json::to_vec(value).map_err(|source| {
            Error::with_source(ErrorKind::Invalid, "the value cannot be written as JSON", source)
        })?;
        Self::new(subject, body)?.header("content-type", "application/json")
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.key = Some(Bytes::copy_from_slice(key.as_ref()));
        self
    }

    /// Sets the id by which a repeated publish is recognised.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Adds a header. Fails for a name that no protocol can carry (see [`Headers::append`]).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Result<Self> {
        self.headers.append(name, value)?;
        Ok(self)
    }

    /// Delivers the message at this time or later; at once where it has passed. The stream must
    /// take such messages ([`crate::StreamConfig::delayed`]), and one with a condition
    /// ([`Message::expect_last`]) cannot wait: both are [`ErrorKind::Invalid`].
    ///
    /// What is promised is that no *consumer* gets it before. Some backends store it at once and
    /// others when it is due, which shows to readers and in sequences: the receipt's sequence need
    /// not be the delivered message's, and is 0 where it has no place yet.
    #[must_use]
    pub fn not_before(mut self, time: SystemTime) -> Self {
        self.not_before = Some(time);
        self
    }

    /// Stores the message in place of everything that its subject holds, in one step: what is kept is
    /// small and of one subject, such as a position. It takes a sequence of its own. Needs
    /// [`crate::Capability::Rollup`]; with a delay it is [`ErrorKind::Invalid`]. On `nats://` the
    /// stream must have been declared by this crate, or allow roll-ups.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), bus::Error> {
    /// # let bus = bus::Bus::connect("embedded:").await?;
    /// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
    /// for read in ["100", "200"] {
    ///     orders.publish(bus::Message::new("orders.position", read)?.rollup()).await?;
    /// }
    /// let info = orders.info().await?;
    /// assert_eq!((info.messages, info.last_sequence), (1, 2));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn rollup(mut self) -> Self {
        self.rollup = true;
        self
    }

    /// Stores the message only if its subject's last message has `sequence` (`0`: none at all).
    /// Otherwise the publish fails with [`ErrorKind::Conflict`].
    #[must_use]
    pub fn expect_last(mut self, sequence: u64) -> Self {
        self.expect = Some(Expect::LastSubjectSequence(sequence));
        self
    }
}

/// A message as the stream holds it.
///
/// Cheap to clone. Its bytes may share memory with what arrived beside it: copy the little that is
/// kept for long.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(bus::Message::json("orders.created", &42)?).await?;
/// let stored = orders.get(1).await?.expect("just published");
/// assert_eq!(stored.json::<u32>()?, 42);
/// assert_eq!(stored.order_key(), b"orders.created");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StoredMessage {
    /// Its place in the stream, from 1, without repeats, perhaps with gaps. In a stream of several
    /// partitions it grows with each message of a partition, and so of a key.
    pub sequence: u64,
    /// When the stream took it.
    pub timestamp: SystemTime,
    /// Where it was published.
    pub subject: Subject,
    /// The key, if one was set.
    pub key: Option<Bytes>,
    /// The headers that were set (those this crate adds are taken out again).
    pub headers: Headers,
    /// The body; `None` is a tombstone.
    pub payload: Option<Bytes>,
}

impl StoredMessage {
    /// Reads the body as JSON; a tombstone or anything else is [`ErrorKind::Invalid`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let body = self.payload.as_deref().ok_or_else(|| {
            Error::invalid(format!("message {} on {} is a tombstone", self.sequence, self.subject))
        })?;
        serde_json::from_slice(body).map_err(|source| {
            let what = format!("message {} on {} is not the JSON", self.sequence, self.subject);
            Error::with_source(ErrorKind::Invalid, format!("{what} that was expected"), source)
        })
    }

    /// The bytes of subject, key, headers and body.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        let body = self.payload.as_ref().map_or(0, Bytes::len);
        let key = self.key.as_ref().map_or(0, Bytes::len);
        self.subject.as_str().len() + key + headers.sum::<usize>() + body
    }

    /// What order is kept by: the key, or the subject where none was set.
    pub fn order_key(&self) -> &[u8] {
        self.key.as_deref().unwrap_or(self.subject.as_str().as_bytes())
    }

    /// True when there is no body.
    pub fn is_tombstone(&self) -> bool {
        self.payload.is_none()
    }

    /// What it counts against a limit on bytes: subject, key, headers and body.
    pub(crate) fn bytes(&self) -> u64 {
        self.size() as u64
    }
}

/// Proof that a stream holds a message: it survives what the stream's storage survives.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// let message = bus::Message::new("orders.created", "42")?.id("order-42");
/// let first = orders.publish(message.clone()).await?;
/// let again = orders.publish(message).await?;
/// assert!(again.duplicate && again.sequence == first.sequence);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence it was stored at; for a duplicate, that of the first one where known.
    pub sequence: u64,
    /// True when a message with the same id was stored before and this one was not.
    pub duplicate: bool,
}
