//! What happens when the group gives partitions to a member and takes them back. Runs in the
//! thread that polls, which is when the client asks.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::time::Instant;

use super::desk::{Part, Position};
use super::entry::ConsumerEntry;
use super::link::REQUEST_LIMIT;
use super::settings::Logged;
use super::shared::{Confirm, Names, Shared};
use super::watermark::Watermark;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName};

/// How long those who work on messages of a partition that leaves may settle them.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long a unit may take to end: longer than its transaction lives.
const UNIT_LIMIT: Duration = Duration::from_secs(30);
/// How long a new owner asks where the last one stopped.
const ASK_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The client's way back to the member.
pub(super) struct Group {
    pub(super) shared: Arc<Shared>,
    pub(super) entry: Arc<ConsumerEntry>,
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        Logged.log(level, fac, log_message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Logged.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn rebalance(
        &self,
        client: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(client, partitions),
            _ => self.revoke(client, partitions),
        };
        if let Err(error) = done {
            tracing::warn!(consumer = %self.shared.of.consumer, %error, "joining the group anew");
            self.shared.state().rejoin = true;
        }
    }
}

impl Group {
    fn assign(&self, client: &BaseConsumer<Self>, given: &TopicPartitionList) -> KafkaResult<()> {
        let partitions = i32::try_from(self.shared.declared().config.partitions);
        let counts = |partition: i32| partitions.is_ok_and(|partitions| partition < partitions);
        if given.elements().iter().any(|given| !counts(given.partition())) {
            // Joining again looks at the topic, and says what is wrong with it.
            return Err(KafkaError::ConsumerCommit(Code::UnknownPartition));
        }
        let mut from = TopicPartitionList::with_capacity(given.count());
        if given.count() > 0 {
            let committed = self.committed(client, given)?;
            let lost = self.lost(&committed);
            if !lost.is_empty() {
                // Nothing is delivered from a guess: the thread that polls ends the member.
                self.shared.state().lost = lost;
                return Err(KafkaError::ConsumerCommit(Code::NoOffset));
            }
            let mut state = self.shared.state();
            for found in committed.elements() {
                let part = self.shared.of.part(found.topic(), found.partition());
                let watermark = match found.offset() {
                    Offset::Offset(offset) => Watermark::restore(offset, found.metadata()),
                    _ => self.beginning(part),
                };
                let first = Offset::Offset(watermark.committed());
                from.add_partition_offset(found.topic(), found.partition(), first)?;
                state.desk.assign(part, watermark);
            }
        }
        match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_assign(&from),
            _ => client.assign(&from),
        }
    }

    /// Where the partitions' last owners stopped. A transaction of theirs that is open is waited
    /// for.
    fn committed(
        &self,
        client: &BaseConsumer<Self>,
        given: &TopicPartitionList,
    ) -> KafkaResult<TopicPartitionList> {
        let deadline = Instant::now() + ASK_LIMIT;
        loop {
            let asked = client.committed_offsets(given.clone(), REQUEST_LIMIT);
            let asked = asked.and_then(|found| {
                found.elements().iter().try_for_each(|partition| partition.error())?;
                Ok(found)
            });
            match asked {
                Err(_) if Instant::now() < deadline && !self.shared.stop.is_cancelled() => {
                    std::thread::sleep(LOOK_EVERY);
                }
                asked => return asked,
            }
        }
    }

    /// Partitions of the stream without a position, although the group had one in each of them when
    /// the consumer was made or moved.
    fn lost(&self, committed: &TopicPartitionList) -> Vec<i32> {
        let is_lost = |found: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            let (retry, _) = self.shared.of.part(found.topic(), found.partition());
            self.entry.placed && !retry && !matches!(found.offset(), Offset::Offset(_))
        };
        let lost = committed.elements().into_iter().filter(is_lost);
        lost.map(|found| found.partition()).collect()
    }

    /// Where the consumer begins in a partition of which nothing was committed yet.
    fn beginning(&self, (retry, partition): Part) -> Watermark {
        let origin = usize::try_from(partition).ok().and_then(|at| self.entry.origins.get(at));
        match origin {
            Some(origin) if !retry => Watermark::restore(origin.offset, &origin.metadata),
            _ => Watermark::new(0),
        }
    }

    fn revoke(&self, client: &BaseConsumer<Self>, taken: &TopicPartitionList) -> KafkaResult<()> {
        let shared = &self.shared;
        let elements = taken.elements();
        let parts = elements.iter().map(|taken| shared.of.part(taken.topic(), taken.partition()));
        let parts: Vec<Part> = parts.collect();
        if client.assignment_lost() {
            tracing::warn!(consumer = %shared.of.consumer, ?parts, "partitions were lost");
        } else {
            self.drain(client, &parts);
        }
        shared.give_up(&parts);
        match client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => client.incremental_unassign(taken),
            _ => client.unassign(),
        }
    }

    /// Lets those who work on messages of these partitions settle them, and commits that.
    fn drain(&self, client: &BaseConsumer<Self>, parts: &[Part]) {
        let shared = &self.shared;
        let begun = Instant::now();
        shared.state().desk.leave(parts);
        loop {
            let (out, asked) = {
                let state = shared.state();
                (state.desk.any_out(parts), !state.confirms.is_empty())
            };
            let waited = begun.elapsed();
            let drained = !out || waited >= DRAIN_LIMIT || shared.stop.is_cancelled();
            // Held by a unit, the turn is waited for: what the unit settles stands in its
            // transaction, and a commit beside it could undo that.
            let saved = match (drained || asked).then(|| shared.commits.try_lock()) {
                Some(Ok(_turn)) => {
                    shared.save(client);
                    true
                }
                _ => waited >= UNIT_LIMIT,
            };
            if drained && saved {
                return;
            }
            shared.bell.wait(LOOK_EVERY);
        }
    }
}

impl Shared {
    /// Commits what was settled, and waits for that. Only for who has the turn of
    /// [`Shared::commits`], so that no commit overtakes another. False when it failed.
    pub(super) fn save(&self, client: &BaseConsumer<Group>) -> bool {
        let (positions, confirms) = {
            let mut state = self.state();
            (state.desk.unsaved(), std::mem::take(&mut state.confirms))
        };
        let saved = match self.of.list(&positions) {
            Ok(list) if list.count() > 0 => client.commit(&list, CommitMode::Sync),
            // All of it is committed already.
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        let Err(error) = saved else {
            let retries = positions.iter().filter(|position| position.part.0);
            let retries = retries.map(|position| (position.part.1, position.offset));
            self.state().saved.extend(retries);
            confirms.into_iter().for_each(|confirm| confirm.resolve(Ok(())));
            return true;
        };
        tracing::debug!(consumer = %self.of.consumer, %error, "not committed, trying again");
        let mut state = self.state();
        state.desk.not_saved(&positions);
        let (again, lost): (Vec<_>, Vec<_>) = confirms
            .into_iter()
            .partition(|confirm| state.desk.owns(confirm.part, confirm.generation));
        state.confirms.extend(again);
        drop(state);
        lost.into_iter().for_each(|confirm| confirm.resolve(Err(lost_partition())));
        false
    }

    /// Fences every delivery of these partitions.
    pub(super) fn give_up(&self, parts: &[Part]) {
        let mut state = self.state();
        state.desk.revoke(parts);
        let confirms = std::mem::take(&mut state.confirms);
        let (lost, kept): (Vec<_>, Vec<_>) =
            confirms.into_iter().partition(|confirm| parts.contains(&confirm.part));
        state.confirms = kept;
        drop(state);
        lost.into_iter().for_each(|confirm| confirm.resolve(Err(lost_partition())));
        self.arrived.notify_waiters();
    }
}

impl Names {
    /// These positions as the client takes them.
    pub(super) fn list(&self, positions: &[Position]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for Position { part, offset, metadata, .. } in positions {
            let mut partition = list.add_partition(self.topic(*part), part.1);
            partition.set_offset(Offset::Offset(*offset))?;
            if !metadata.is_empty() {
                partition.set_metadata(metadata);
            }
        }
        Ok(list)
    }
}

impl Confirm {
    fn resolve(self, result: Result<()>) {
        // Whoever dropped the future does not want to know.
        let _ = self.done.send(result);
    }
}

/// The refusal of a consumer whose group has lost its positions: beginning anew would deliver
/// again what was settled.
pub(super) fn positions_lost(
    stream: &StreamName,
    consumer: &ConsumerName,
    group: &str,
    partitions: &[i32],
) -> Error {
    let what = format!(
        "consumer {consumer} on stream {stream} has lost its position in partitions {partitions:?}: \
         somebody removed them from group {group}, or no process had it bound for longer than the \
         brokers keep them (offsets.retention.minutes); nothing is delivered, because all of it \
         could come again: move the consumer to where it shall go on (seek)"
    );
    Error::new(ErrorKind::Corrupt, what)
}

fn lost_partition() -> Error {
    let what = "the partition of this message went to another member before the settlement was \
                committed: it may be delivered again";
    Error::new(ErrorKind::Stale, what)
}
