//! Reading a bounded part of a topic at once: what Kafka has no index for.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use tokio_util::sync::CancellationToken;

use super::failure::{failed, is_passing};
use super::link::Client;
use super::sequence::Place;
use super::tail::{assign, position};
use super::threads::closed;
use crate::error::{Error, ErrorKind, Result};

/// How long nothing may come; a scan that goes on takes as long as it takes.
const IDLE_LIMIT: Duration = Duration::from_secs(15);
/// How long an open transaction is waited for. One that is under way ends within that; one whose
/// program has died ends when the broker aborts it, which is too long for a thread to wait.
const HELD_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ASK_LIMIT: Duration = Duration::from_secs(1);

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
///
/// What lies behind an open transaction is not shown before that has ended. It is waited for, and
/// [`ErrorKind::Unavailable`] after [`HELD_LIMIT`] in which nothing came: never left out.
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
    let mut idle = Idle::begin();
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
                idle = Idle::begin();
            }
            // The end of what is shown: at the end of the part only markers are left out, and
            // before it an open transaction holds the rest.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                let shown = position(client, topic, partition);
                open.retain(|part| part.from.partition != partition || shown < part.end);
            }
            Some(Err(error)) if !is_passing(&error) => return Err(failed(doing(), error)),
            Some(Err(_)) | None => idle.check(client, topic, &open)?,
        }
    }
    Ok(())
}

/// A time in which nothing comes.
struct Idle {
    since: Instant,
    /// When it is asked why.
    ask_at: Instant,
}

impl Idle {
    fn begin() -> Self {
        let since = Instant::now();
        Self { since, ask_at: since + HELD_LIMIT }
    }

    /// An error once it is too long; what it is depends on why nothing comes.
    fn check(&mut self, client: &Client, topic: &str, open: &[Part]) -> Result<()> {
        let now = Instant::now();
        if now >= self.ask_at {
            self.ask_at = now + ASK_LIMIT;
            for part in open {
                check_stable(client, topic, part)?;
            }
        }
        if now < self.since + IDLE_LIMIT {
            return Ok(());
        }
        let limit = IDLE_LIMIT.as_secs();
        let what = format!("read topic {topic}: nothing came for {limit} s: try again");
        Err(Error::new(ErrorKind::Unavailable, what))
    }
}

/// Fails where an open transaction holds records of the part. Brokers that do not answer are
/// another matter.
fn check_stable(client: &Client, topic: &str, part: &Part) -> Result<()> {
    let Place { partition, .. } = part.from;
    let Ok((_, stable)) = client.fetch_watermarks(topic, partition, ASK_LIMIT) else {
        return Ok(());
    };
    if stable >= part.end {
        return Ok(());
    }
    let what = format!(
        "read topic {topic}: a transaction that is still open on partition {partition} hides what \
         is stored from offset {stable} on: try again when it has ended; the broker ends it after \
         the transaction.timeout.ms of its producer"
    );
    Err(Error::new(ErrorKind::Unavailable, what))
}
