//! What a consumer gives up, and where the copy goes. Redriving is [`crate::handles::redrive`]'s.

mod letter;

use std::collections::BTreeMap;
use std::fmt;

pub use letter::DeadLetter;

use crate::capability::{Capability, Support};
use crate::config::StreamConfig;
use crate::driver::Driver;
use crate::driver::life::Life;
use crate::error::{Error, Result};
use crate::message::StoredMessage;
use crate::middleware::Layers;
use crate::name::{ConsumerName, StreamName, Subject};

/// The metadata of a consumer that names the stream of its dead letters.
pub(crate) const TARGET_METADATA: &str = "bus.dead-letters";
/// The metadata of a consumer with dead letters that holds its limit on attempts: the backend is
/// told of none, so that it ends no delivery in silence.
pub(crate) const ATTEMPTS_METADATA: &str = "bus.max-attempts";
/// The header of a redriven message that names the one consumer it is for. A consumer of another
/// name acks it and passes it over.
pub const REDRIVE_TO: &str = "Redrive-To";

/// Where deliveries come from: a consumer of a stream.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # bus.ensure_stream(&bus::StreamConfig::dead_letters(bus::StreamName::new("dead")?)).await?;
/// # let billing = bus.consumer("orders", "billing").dead_letters("dead").open().await?;
/// # orders.publish(bus::Message::new("orders.created", "forty-two")?).await?;
/// # for delivery in billing.fetch(1, std::time::Duration::from_secs(1)).await? {
/// #     delivery.dead_letter("the price is not a number").await?;
/// # }
/// use bus::dead_letter::Origin;
///
/// let dead = bus.dead_letters("dead").await?;
/// let billing = Origin::new("orders", "billing")?;
/// assert_eq!(dead.list(Some(&billing), 10).await?.len(), 1);
/// assert_eq!(dead.list(Some(&Origin::new("orders", "shipping")?), 10).await?, []);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The stream.
    pub stream: StreamName,
    /// The consumer.
    pub consumer: ConsumerName,
}

impl Origin {
    /// Parses the two names.
    pub fn new(stream: impl AsRef<str>, consumer: impl AsRef<str>) -> Result<Self> {
        Ok(Self { stream: StreamName::new(stream)?, consumer: ConsumerName::new(consumer)? })
    }
}

/// `stream/consumer`
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.consumer)
    }
}

/// Where the dead letters of `origin` are on the stream `dead`: `<dead>.<stream>.<consumer>`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// # bus.ensure_stream(&bus::StreamConfig::dead_letters(bus::StreamName::new("dead")?)).await?;
/// # let billing = bus.consumer("orders", "billing").dead_letters("dead").open().await?;
/// # orders.publish(bus::Message::new("orders.created", "forty-two")?).await?;
/// # for delivery in billing.fetch(1, std::time::Duration::from_secs(1)).await? {
/// #     delivery.dead_letter("the price is not a number").await?;
/// # }
/// use bus::dead_letter::{DeadLetter, Origin, subject};
/// use bus::StreamName;
///
/// // A consumer of its own on what billing gives up: to tell somebody, for example.
/// let of_billing = subject(&StreamName::new("dead")?, &Origin::new("orders", "billing")?)?;
/// assert_eq!(of_billing.as_str(), "dead.orders.billing");
/// let alarm = bus.consumer("dead", "alarm").filter(of_billing.as_str()).open().await?;
/// for copy in alarm.fetch(10, std::time::Duration::from_secs(1)).await? {
///     let letter = DeadLetter::parse(copy.message().clone()).expect("written by this crate");
///     assert_eq!(letter.reason, "the price is not a number");
///     copy.ack_confirmed().await?;
/// }
/// # Ok(())
/// # }
/// ```
pub fn subject(dead: &StreamName, origin: &Origin) -> Result<Subject> {
    Subject::new(format!("{dead}.{}.{}", origin.stream, origin.consumer))
}

/// What a consumer does with messages it gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) dead: StreamName,
    pub(crate) max_attempts: Option<u32>,
}

impl Policy {
    /// What the consumer's metadata say. A target that is no name is a consumer that somebody
    /// else has made: it has none.
    pub(crate) fn read(metadata: &BTreeMap<String, String>) -> Option<Self> {
        let dead = StreamName::new(metadata.get(TARGET_METADATA)?).ok()?;
        let max_attempts = metadata.get(ATTEMPTS_METADATA).and_then(|text| text.parse().ok());
        Some(Self { dead, max_attempts })
    }

    /// Fails unless the dead letters of `origin` have somewhere to go: told when the consumer is
    /// opened, and not when the first message must be kept.
    pub(crate) async fn check(&self, driver: &dyn Driver, origin: &Origin) -> Result<()> {
        let dead = &self.dead;
        let doing = || format!("open the dead letters of consumer {origin}");
        let info = driver.stream_info(dead).await.map_err(|error| error.context(doing()))?;
        let (subject, captured) = (subject(dead, origin)?, &info.config.subjects);
        if captured.iter().any(|filter| filter.matches(subject.as_str())) {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "stream {dead} does not capture {subject}, where consumer {origin} puts its dead \
             letters: declare it with StreamConfig::dead_letters"
        )))
    }
}

/// Copies a message to the dead letters; durable when this returns.
///
/// Where the backend recognises ids a repetition stores nothing, so that there is one copy over
/// crashes too, for the length of the stream's de-duplication window. What is given up in another
/// life, because the consumer was moved or made anew, or its stream was, is no repetition.
pub(crate) async fn keep_copy(
    driver: &dyn Driver,
    layers: &Layers,
    dead: &StreamName,
    given_up: letter::GivenUp<'_>,
) -> Result<()> {
    let copy = letter::copy(dead, &given_up)?;
    if driver.support(Capability::Deduplication) == Support::Unsupported {
        layers.submit(driver, dead, copy).await?.await?;
        return Ok(());
    }
    let letter::GivenUp { origin, message, attempts, .. } = given_up;
    // Asked each time: a message is given up rarely, and another process may move the consumer.
    let life = Life::ask(driver, &origin.stream, &origin.consumer).await?;
    let id = format!("dead/{origin}/{}/{}", message.sequence, life.of(message.timestamp));
    let receipt = layers.submit(driver, dead, copy.clone().id(&id)).await?.await?;
    if !receipt.duplicate || receipt.sequence == 0 {
        return Ok(());
    }
    // The copy that the id stands for may have been purged since, before the message was settled.
    if driver.get(dead, receipt.sequence).await?.is_none() {
        layers.submit(driver, dead, copy.id(format!("{id}/{attempts}"))).await?.await?;
    }
    Ok(())
}

pub(crate) use letter::GivenUp;

/// True when `message` was redriven for a consumer of another name.
pub(crate) fn is_for_another(message: &StoredMessage, consumer: &ConsumerName) -> bool {
    let to = || message.headers.get(REDRIVE_TO);
    !message.headers.is_empty() && to().is_some_and(|to| to != consumer.as_str())
}

impl StreamConfig {
    /// A stream for dead letters: captures `<name>.>`, keeps everything, remembers ids for an
    /// hour, and takes messages of 2 MiB, because a copy is larger than what it is a copy of.
    ///
    /// Any stream will do that captures `<name>.<stream>.<consumer>` for those whose dead letters
    /// it is to hold.
    pub fn dead_letters(name: StreamName) -> Self {
        // A stream name is one token, so a filter made of it is well-formed.
        let subjects = crate::name::SubjectFilter::below(&name);
        Self {
            duplicate_window: std::time::Duration::from_secs(3600),
            max_message_bytes: 2 << 20,
            ..Self::new(name, vec![subjects])
        }
    }
}
