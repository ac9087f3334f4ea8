//! Looking through dead letters, and handing them again to those who gave them up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::capability::{Capability, Support};
use crate::config::{Start, StreamInfo};
use crate::consumer::{Consumer, ConsumerBuilder};
use crate::driver::{Driver, READ_BYTES};
use crate::engine::dead_letter::{DeadLetter, Origin, subject};
use crate::engine::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::middleware::Layers;
use crate::name::{ConsumerName, StreamName};

const PAGE: usize = 256;
/// How long a read waits for what the stream says it holds.
const READ_WAIT: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(15);
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// How long a redrive waits for the letter that one before it had taken and not finished.
const PATIENCE: Duration = Duration::from_secs(60);
const ORIGIN_METADATA: &str = "bus.redrive";

/// The dead letters of a stream. Cheap to clone.
///
/// A letter is outstanding until it is redriven. Redriven ones stay on the stream as a record,
/// until its limits or a purge take them.
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
/// let dead = bus.dead_letters("dead").await?;
/// let counts = dead.count().await?;
/// assert_eq!(counts.into_iter().map(|(of, n)| (of.to_string(), n)).collect::<Vec<_>>(), [("orders/billing".into(), 1)]);
///
/// dead.redrive(None).await?; // billing is mended
/// assert_eq!(dead.list(None, 10).await?, [], "nothing is outstanding");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    driver: Arc<dyn Driver>,
    layers: Layers,
    dead: StreamName,
}

/// What was redriven of one origin.
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
/// let dead = bus.dead_letters("dead").await?;
/// bus.delete_stream("orders").await?; // there is nowhere to hand them to
/// let stopped = dead.redrive(None).await?.remove(0);
/// assert_eq!(stopped.redriven, 0);
/// assert!(stopped.failed.is_some_and(|error| error.is_not_found()));
/// assert_eq!(dead.list(None, 10).await?.len(), 1, "outstanding still");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Redriven {
    /// Whose dead letters.
    pub origin: Origin,
    /// How many were published to it again.
    pub redriven: u64,
    /// How many were passed over because their headers do not say what they were.
    pub unreadable: u64,
    /// Why it stopped early: the next letter could not be published. It and those behind it are
    /// outstanding still.
    pub failed: Option<Error>,
}

impl DeadLetters {
    pub(crate) fn new(driver: Arc<dyn Driver>, layers: Layers, dead: StreamName) -> Self {
        Self { driver, layers, dead }
    }

    /// The stream they are on.
    pub fn name(&self) -> &StreamName {
        &self.dead
    }

    /// The first `most` outstanding letters in the order they were given up, of one origin or of
    /// all.
    pub async fn list(&self, of: Option<&Origin>, most: usize) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        self.each(|letter| {
            if of.is_none_or(|of| *of == letter.origin) && found.len() < most {
                found.push(letter);
            }
            found.len() < most
        })
        .await?;
        Ok(found)
    }

    /// How many letters are outstanding, by origin.
    pub async fn count(&self) -> Result<BTreeMap<Origin, u64>> {
        let mut counts = BTreeMap::new();
        self.each(|letter| {
            *counts.entry(letter.origin).or_default() += 1;
            true
        })
        .await?;
        Ok(counts)
    }

    /// Publishes the letters that are outstanding now to where they came from, of one origin or
    /// of all, each origin's in the order they were given up. Each is confirmed there before it
    /// is taken from the dead letters.
    ///
    /// It goes to the end of the original stream on its original subject, with its original key,
    /// headers and body, and with the header [`crate::dead_letter::REDRIVE_TO`]: only the consumer that gave it
    /// up handles it. What is given up again becomes a dead letter again, for the next redrive.
    ///
    /// It may be stopped at any point and repeated. Where the backend recognises ids a letter
    /// that was published and not yet taken is not stored twice; elsewhere it may be. Redrives at
    /// the same time share the work and keep the order.
    pub async fn redrive(&self, of: Option<&Origin>) -> Result<Vec<Redriven>> {
        let until = self.info().await?.last_sequence;
        let counts = self.count().await?;
        let mut summary = Vec::new();
        for (origin, outstanding) in counts {
            if of.is_none_or(|of| *of == origin) {
                summary.push(self.redrive_origin(origin, outstanding, until).await?);
            }
        }
        Ok(summary)
    }

    /// At most one letter is out at a time: one that is left behind by a crash is the next to
    /// come, and nothing overtakes it.
    async fn redrive_origin(&self, origin: Origin, mut left: u64, until: u64) -> Result<Redriven> {
        let consumer = self.consumer(&origin).await?;
        let mut done = Redriven { origin, redriven: 0, unreadable: 0, failed: None };
        let mut deadline = Instant::now() + PATIENCE;
        while left > 0 {
            let delivery = match next(&consumer).await {
                Ok(Next::Letter(delivery)) => *delivery,
                Ok(Next::End) => break,
                Ok(Next::Later) if Instant::now() < deadline => continue,
                Ok(Next::Later) => return Err(held_elsewhere(&done.origin)),
                Err(error) if error.is_retryable() && Instant::now() < deadline => {
                    tracing::warn!(origin = %done.origin, %error, "redrive goes on");
                    tokio::time::sleep(FETCH_WAIT).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            deadline = Instant::now() + PATIENCE;
            if delivery.message().sequence > until {
                self.put_back(delivery).await;
                break;
            }
            match self.publish_again(&delivery).await {
                Ok(readable) => {
                    delivery.ack_confirmed().await?;
                    done.redriven += u64::from(readable);
                    done.unreadable += u64::from(!readable);
                }
                Err(error) => {
                    self.put_back(delivery).await;
                    done.failed = Some(error);
                    break;
                }
            }
            left -= 1;
        }
        Ok(done)
    }

    /// False when the letter does not say what it was.
    async fn publish_again(&self, delivery: &Delivery) -> Result<bool> {
        let at = delivery.message().sequence;
        let Some(letter) = DeadLetter::parse(delivery.message().clone()) else {
            tracing::warn!(stream = %self.dead, sequence = at, "dead letter without origin");
            return Ok(false);
        };
        let mut message = letter.original()?;
        if self.driver.support(Capability::Deduplication) != Support::Unsupported {
            message.id = Some(format!("redrive/{}/{at}", self.dead));
        }
        let to = &letter.origin.stream;
        self.layers.submit(self.driver.as_ref(), to, message).await?.await?;
        Ok(true)
    }

    /// Frees the letter for the next redrive. Where the backend would move a retried message
    /// behind others, its lease frees it.
    async fn put_back(&self, delivery: Delivery) {
        if self.driver.support(Capability::RetryDelay) == Support::Native
            && let Err(error) = delivery.retry(Duration::ZERO).await
        {
            tracing::debug!(%error, "a dead letter is left to its lease");
        }
    }

    async fn consumer(&self, origin: &Origin) -> Result<Consumer> {
        let name = consumer_name(origin);
        let builder = ConsumerBuilder::new(
            self.driver.clone(),
            self.layers.clone(),
            Ok(self.dead.clone()),
            name,
        );
        let filter = subject(&self.dead, origin)?;
        let one = builder.filter(filter.as_str()).max_unsettled(1).ack_wait(LEASE);
        one.metadata(ORIGIN_METADATA, &origin.to_string()).open().await
    }

    async fn info(&self) -> Result<StreamInfo> {
        self.driver.stream_info(&self.dead).await
    }

    /// Shows every outstanding letter in order, until `take` has enough.
    async fn each(&self, mut take: impl FnMut(DeadLetter) -> bool) -> Result<()> {
        let info = self.info().await?;
        if info.messages == 0 {
            return Ok(());
        }
        let redriven = self.redriven().await?;
        let mut reader = self.driver.reader(&self.dead, &[], Start::Beginning).await?;
        loop {
            let page = reader.next(PAGE, READ_BYTES, READ_WAIT).await?;
            // Of several partitions none alone says that all were read.
            let end = page.is_empty()
                || info.config.partitions <= 1
                    && page.last().is_some_and(|last| last.sequence >= info.last_sequence);
            for message in page {
                let Some(letter) = DeadLetter::parse(message) else { continue };
                let settled = redriven.get(&letter.origin.to_string()).copied().unwrap_or(0);
                if letter.copy.sequence > settled && !take(letter) {
                    return Ok(());
                }
            }
            if end {
                return Ok(());
            }
        }
    }

    /// Up to where each origin's letters were redriven.
    async fn redriven(&self) -> Result<BTreeMap<String, u64>> {
        let consumers = self.driver.consumers(&self.dead).await?.into_iter();
        let positions = consumers.filter_map(|info| {
            let origin = info.config.metadata.get(ORIGIN_METADATA)?.clone();
            Some((origin, info.settled_sequence))
        });
        Ok(positions.collect())
    }
}

enum Next {
    Letter(Box<Delivery>),
    /// Another redrive has taken the next one, or a crash has left it to its lease.
    Later,
    End,
}

async fn next(consumer: &Consumer) -> Result<Next> {
    if let Some(delivery) = consumer.fetch(1, FETCH_WAIT).await?.pop() {
        return Ok(Next::Letter(Box::new(delivery)));
    }
    let info = consumer.info().await?;
    Ok(if info.pending == 0 && info.unsettled == 0 { Next::End } else { Next::Later })
}

/// Two names may be longer together than one name may be.
fn consumer_name(origin: &Origin) -> Result<ConsumerName> {
    let (stream, consumer) = (origin.stream.as_str(), origin.consumer.as_str());
    let hash = crate::random::hash(&[stream.as_bytes(), consumer.as_bytes()]);
    ConsumerName::new(format!("redrive-{hash:016x}"))
}

fn held_elsewhere(origin: &Origin) -> Error {
    Error::new(
        ErrorKind::Timeout,
        format!(
            "a dead letter of {origin} was taken by another redrive {PATIENCE:?} ago and not \
             finished: try again"
        ),
    )
}

#[cfg(test)]
#[cfg(feature = "fault")]
#[path = "redrive_tests.rs"]
mod tests;
