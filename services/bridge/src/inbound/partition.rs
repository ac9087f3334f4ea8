//! One partition: its records become batches of the log, one after another.

use std::sync::Arc;
use std::time::Duration;

use bus::{ErrorKind, Message};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::attempt::Attempt;
use super::batch::{Batch, Item};
use super::context::TopicId;
use super::position::{self, Kept, Position};
use crate::config::Bad;
use crate::failure::Failure;

/// With the position a batch has at most 1000 messages, as many as a server takes.
const RECORDS: usize = 999;
/// Records of one batch, in bytes; the one that fills it is the last.
const BYTES: usize = 4 << 20;
/// Between two tries while the log is away or full.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// The task of a partition.
pub(super) struct Partition {
    pub(super) attempt: Arc<Attempt>,
    pub(super) topic_id: Arc<TopicId>,
    pub(super) partition: i32,
    pub(super) position: Position,
    pub(super) arriving: UnboundedReceiver<Item>,
    pub(super) stop: CancellationToken,
}

impl Partition {
    /// Stores what arrives until it is stopped. What is wrong ends the whole attempt.
    pub(super) async fn run(mut self) {
        if let Err(failure) = self.store_all().await {
            self.attempt.fail(failure);
        }
    }

    async fn store_all(&mut self) -> Result<(), Failure> {
        let mut items = Vec::with_capacity(RECORDS);
        loop {
            tokio::select! { biased;
                () = self.stop.cancelled() => return Ok(()),
                count = self.arriving.recv_many(&mut items, RECORDS) => if count == 0 {
                    return Ok(());
                },
            }
            // Behind a seek the client may hand over what is stored already.
            items.retain(|item| item.offset >= self.position.kept.next);
            let id = self.topic_id.now();
            if id != self.position.kept.topic_id {
                let topic = &self.attempt.route.kafka_topic;
                return Err(Failure::Again(format!("topic {topic} was made again")));
            }
            let mut rest = items.as_slice();
            while !rest.is_empty() && !self.stop.is_cancelled() {
                let (batch, behind) = rest.split_at(filled(rest));
                self.store(batch).await?;
                rest = behind;
            }
            items.clear();
        }
    }

    /// Stores a batch: whole, or by halves down to the record that the log refuses, which is parked.
    async fn store(&mut self, items: &[Item]) -> Result<(), Failure> {
        let mut todo = vec![items];
        while let Some(items) = todo.pop() {
            let (fit, unfit) = self.fit(items);
            let (items, behind) = items.split_at(fit);
            if items.is_empty() {
                self.wait_if_bad(behind, &unfit).await;
            }
            // What was not stored must not be followed by what comes after it.
            if self.stop.is_cancelled() {
                return Ok(());
            }
            if !behind.is_empty() {
                todo.push(behind);
            }
            let Err(error) = self.try_store(items, None).await? else { continue };
            match items.len() {
                1 => {
                    self.wait_if_bad(items, &error).await;
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                    if let Err(error) = self.try_store(items, Some(&error)).await? {
                        return Err(Failure::Again(format!("a record cannot be parked: {error}")));
                    }
                }
                many => {
                    let (first, second) = items.split_at(many / 2);
                    todo.extend([second, first]);
                }
            }
        }
        Ok(())
    }

    /// How many records come before the first that cannot be an event, where that stops the route,
    /// and why it cannot.
    fn fit(&self, items: &[Item]) -> (usize, String) {
        let unfit = match self.attempt.route.bad {
            Bad::Park => None,
            Bad::Stop => self.batch(items).first_unfit(&self.position),
        };
        match unfit {
            None => (items.len(), String::new()),
            Some((offset, why)) => (items.partition_point(|item| item.offset < offset), why),
        }
    }

    /// Waits in front of a bad record until it is stopped, where the route says so.
    async fn wait_if_bad(&self, items: &[Item], reason: &str) {
        if self.attempt.route.bad == Bad::Stop {
            let (partition, offset) = (self.partition, items.first().map_or(0, |item| item.offset));
            let topic = &self.attempt.route.kafka_topic;
            self.attempt.gauge.waiting(format!("{topic} {partition} {offset} is bad: {reason}"));
            self.stop.cancelled().await;
        }
    }

    fn batch<'b>(&'b self, items: &'b [Item]) -> Batch<'b> {
        let Attempt { route, ends, limit, .. } = &*self.attempt;
        Batch { route, ends, partition: self.partition, items, limit: *limit }
    }

    /// Stores a batch in one step, for as long as it takes. The inner error is what the log says of
    /// a message that it will never take.
    async fn try_store(
        &mut self,
        items: &[Item],
        refused: Option<&str>,
    ) -> Result<Result<(), String>, Failure> {
        let mut pause = FIRST;
        loop {
            let made = self.batch(items).make(&self.position, refused)?;
            let (next, carried) = (made.next, items.len() as u64 - made.looped - made.parked);
            let error = match self.publish(made.messages).await {
                Ok(sequence) => {
                    self.stored(next, sequence, carried, made.looped);
                    return Ok(Ok(()));
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::TooLarge | ErrorKind::Invalid => return Ok(Err(error.to_string())),
                ErrorKind::Conflict { .. } | ErrorKind::Timeout => {
                    if let Some(sequence) = self.was_stored(&next).await? {
                        self.stored(next, sequence, carried, made.looped);
                        return Ok(Ok(()));
                    }
                }
                ErrorKind::Full => {}
                _ if error.is_retryable() => {}
                _ => return Err(error.into()),
            }
            self.attempt.gauge.waiting(error.to_string());
            tokio::select! { biased;
                () = self.stop.cancelled() => return Ok(Ok(())),
                () = tokio::time::sleep(pause) => pause = LONGEST.min(2 * pause),
            }
        }
    }

    async fn publish(&self, batch: Vec<Message>) -> Result<u64, bus::Error> {
        let _turn = self.attempt.batches.acquire().await;
        let receipts = self.attempt.log.publish_atomic(batch).await?;
        Ok(receipts.last().map_or(0, |receipt| receipt.sequence))
    }

    fn stored(&mut self, next: Kept, sequence: u64, carried: u64, looped: u64) {
        self.position = Position { kept: next, sequence };
        let next = self.position.kept.next;
        self.attempt.stored.send_modify(|stored| {
            stored.insert(self.partition, next);
        });
        self.attempt.gauge.carried(self.partition, next, carried, looped);
    }

    /// Where the position is that a batch was to store, if it did after all; nothing where it did
    /// not and may be sent again.
    async fn was_stored(&self, next: &Kept) -> Result<Option<u64>, Failure> {
        let Attempt { route, log, gauge, .. } = &*self.attempt;
        let mut pause = FIRST;
        let found = loop {
            match position::read(log, route, self.partition).await {
                Err(error) if error.is_retryable() && !self.stop.is_cancelled() => {
                    gauge.waiting(error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = LONGEST.min(2 * pause);
                }
                read => break read?,
            }
        };
        match found {
            Some(found) if found.kept == *next => Ok(Some(found.sequence)),
            found if found.as_ref().map_or(0, |found| found.sequence) == self.position.sequence => {
                Ok(None)
            }
            _ => Err(Failure::Fenced(format!("{} {}", route.kafka_topic, self.partition))),
        }
    }
}

/// How many of the records fill a batch: at least one.
fn filled(items: &[Item]) -> usize {
    let mut bytes = 0;
    let before = |item: &&Item| {
        let room = bytes < BYTES;
        bytes += item.record.size();
        room
    };
    items.iter().take(RECORDS).take_while(before).count()
}
