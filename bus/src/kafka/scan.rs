//! Reading a bounded part of a topic at once: what Kafka has no index for.

use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use tokio_util::sync::CancellationToken;

use super::failure::{failed, is_passing};
use super::link::Client;
use super::sequence::Place;
use super::tail::assign;
use super::threads::closed;
use crate::error::{Error, ErrorKind, Result};

/// How long nothing may come; a scan that goes on takes as long as it takes.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A part of a partition: from the first offset up to, and without, the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) from: Place,
    pub(super) end: i64,
}

/// Everything that lies between these watermarks.
pub(super) fn parts(marks: &[(i64, i64)]) -> Vec<Part> {
    let part = |(partition, (low, high)): (i32, &(i64, i64))| {
        let from = Place { partition, offset: *low };
        Part { from, end: *high }
    };
    (0..).zip(marks).map(part).collect()
}

/// Gives each record of these parts to `each`, in the order of its partition. Blocks.
pub(super) fn scan(
    client: &Client,
    topic: &str,
    parts: &[Part],
    stop: &CancellationToken,
    mut each: impl FnMut(&BorrowedMessage<'_>),
) -> Result<()> {
    let doing = || format!("read topic {topic}");
    let mut open: Vec<Part> =
        parts.iter().filter(|part| part.from.offset < part.end).copied().collect();
    assign(client, topic, &open.iter().map(|part| part.from).collect::<Vec<_>>())?;
    let mut deadline = Instant::now() + IDLE_LIMIT;
    while !open.is_empty() {
        if stop.is_cancelled() {
            return Err(closed());
        }
        match client.poll(LOOK_EVERY) {
            Some(Ok(record)) => {
                let (partition, offset) = (record.partition(), record.offset());
                let Some(at) = open.iter().position(|part| part.from.partition == partition) else {
                    continue;
                };
                if offset < open[at].end {
                    each(&record);
                }
                if offset + 1 >= open[at].end {
                    open.swap_remove(at);
                }
                deadline = Instant::now() + IDLE_LIMIT;
            }
            // The end may be held by records that are not shown: those of open transactions.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.retain(|part| part.from.partition != partition);
            }
            Some(Err(error)) if !is_passing(&error) => return Err(failed(doing(), error)),
            Some(Err(_)) | None if Instant::now() >= deadline => {
                let limit = IDLE_LIMIT.as_secs();
                let what = format!("{}: nothing came for {limit} s: try again", doing());
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}
