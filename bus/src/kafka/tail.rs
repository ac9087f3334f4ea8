//! A thread that reads a topic from given places on, for as long as someone wants it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::failure::{code, failed, is_passing};
use super::link::{Client, Link, READER_GROUP, metadata, watermarks};
use super::sequence::Place;
use crate::error::{Error, Result};

/// How soon a thread notices that it is not wanted any more.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many records are handed over together.
const BATCH: usize = 500;

/// What a tail fills; it runs in the tail's thread. `Break` ends the tail.
pub(super) trait Sink: Send + 'static {
    /// The next record of a partition. True when it is enough for one step.
    fn record(&mut self, record: &BorrowedMessage<'_>) -> bool;

    /// All that can be read of a partition has been given: what lies before `next`.
    fn end(&mut self, partition: i32, next: i64);

    /// No further record is there at this moment, or enough of them for one step.
    fn step(&mut self) -> ControlFlow<()>;

    /// The broker is away, and the tail goes on when it is back.
    fn away(&mut self, error: Error) -> ControlFlow<()>;

    /// The topic cannot be read any more; the tail has ended.
    fn over(&mut self, error: Error);
}

/// Reads `topic` from the places in `from`, one for each partition, until `stop`.
pub(super) fn spawn(
    link: &Arc<Link>,
    topic: &str,
    from: Vec<Place>,
    stop: CancellationToken,
    mut sink: impl Sink,
) -> Result<()> {
    let (client, topic) = (link.client(READER_GROUP)?, topic.to_owned());
    link.threads.spawn("kafka-tail", move || {
        let mut tail = Tail { client, topic, next: from, stop };
        if let Err(error) = tail.run(&mut sink) {
            sink.over(error);
        }
    })
}

struct Tail {
    client: Client,
    topic: String,
    /// The next place of each partition.
    next: Vec<Place>,
    stop: CancellationToken,
}

impl Tail {
    fn run(&mut self, sink: &mut impl Sink) -> Result<()> {
        assign(&self.client, &self.topic, &self.next)?;
        while !self.stop.is_cancelled() {
            let mut polled = self.client.poll(LOOK_EVERY);
            let (mut taken, mut enough, mut trouble) = (0, false, None);
            while let Some(event) = polled {
                match event {
                    Ok(record) => {
                        note(&mut self.next, &record);
                        enough = sink.record(&record);
                        taken += 1;
                    }
                    Err(KafkaError::PartitionEOF(partition)) => {
                        sink.end(partition, self.reached(partition));
                    }
                    Err(error) => trouble = Some(error),
                }
                if enough || taken == BATCH || trouble.is_some() {
                    break;
                }
                polled = self.client.poll(Duration::ZERO);
            }
            let mut went_on = sink.step();
            if let (Some(error), true) = (trouble, went_on.is_continue()) {
                went_on = self.handle(error, sink)?;
            }
            if went_on.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Where the partition goes on; transactions' markers, which are not shown, are passed.
    fn reached(&self, partition: i32) -> i64 {
        let place = self.next.iter().find(|place| place.partition == partition);
        position(&self.client, &self.topic, partition).max(place.map_or(0, |place| place.offset))
    }

    fn handle(&mut self, error: KafkaError, sink: &mut impl Sink) -> Result<ControlFlow<()>> {
        let doing = format!("read topic {}", self.topic);
        match code(&error) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => self.find_again(sink),
            // Said of a topic that is gone, and sometimes while a broker starts.
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                match exists(&self.client, &self.topic) {
                    Ok(false) => Err(failed(doing, error)),
                    Ok(true) => self.find_again(sink),
                    Err(away) if away.is_retryable() => Ok(sink.away(away)),
                    Err(other) => Err(other),
                }
            }
            _ if is_passing(&error) => Ok(sink.away(failed(doing, error))),
            _ => Err(failed(doing, error)),
        }
    }

    /// The next record is gone: goes on with the oldest that is left. A place behind the end means
    /// that the topic is another one of the same name.
    fn find_again(&mut self, sink: &mut impl Sink) -> Result<ControlFlow<()>> {
        for place in &mut self.next {
            let (low, high) = match watermarks(&self.client, &self.topic, place.partition) {
                Ok(marks) => marks,
                Err(away) if away.is_retryable() => return Ok(sink.away(away)),
                Err(other) => return Err(other),
            };
            if place.offset > high {
                let what = format!("topic {} was removed and made anew", self.topic);
                return Err(Error::not_found(what));
            }
            place.offset = place.offset.max(low);
        }
        assign(&self.client, &self.topic, &self.next)?;
        Ok(ControlFlow::Continue(()))
    }
}

fn note(next: &mut [Place], record: &BorrowedMessage<'_>) {
    let partition = record.partition();
    if let Some(place) = next.iter_mut().find(|place| place.partition == partition) {
        place.offset = record.offset() + 1;
    }
}

/// Reads from these places on and from nowhere else.
pub(super) fn assign(client: &Client, topic: &str, places: &[Place]) -> Result<()> {
    let doing = || format!("read topic {topic}");
    let mut assignment = TopicPartitionList::with_capacity(places.len());
    for place in places {
        assignment
            .add_partition_offset(topic, place.partition, Offset::Offset(place.offset))
            .map_err(|e| failed(doing(), e))?;
    }
    client.assign(&assignment).map_err(|e| failed(doing(), e))
}

/// How far a partition has been read, with what is not shown; 0 where nothing was.
pub(super) fn position(client: &Client, topic: &str, partition: i32) -> i64 {
    let positions = client.position().ok();
    let found = positions.as_ref().and_then(|list| list.find_partition(topic, partition));
    match found.map(|found| found.offset()) {
        Some(Offset::Offset(offset)) => offset,
        _ => 0,
    }
}

fn exists(client: &Client, topic: &str) -> Result<bool> {
    let metadata = metadata(client, Some(topic))?;
    Ok(metadata.topics().iter().any(|found| found.name() == topic && found.error().is_none()))
}
