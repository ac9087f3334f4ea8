//! The thread of a member: it is in the group, takes messages to the desk as far as there is room,
//! and commits what was settled.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaRespErr;
use tokio::time::Instant;

use super::desk::{Part, Polled, Room};
use super::entry::{ConsumerEntry, StreamEntry};
use super::failure::{code, failed, is_passing};
use super::group::{Group, positions_lost};
use super::lease::{Record, after};
use super::link::REQUEST_LIMIT;
use super::record::Decoder;
use super::retry;
use super::shape::refusal;
use super::shared::Shared;
use super::start::matches_any;
use super::token::Slot;
use super::trouble::{Trouble, unreadable};
use crate::error::{Error, ErrorKind, Result};

/// How long the thread sleeps when there is nothing to do and nobody rings.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a topic is looked for that seems to be gone, and for how long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const GONE_AFTER: Duration = Duration::from_secs(10);
/// How soon the group is joined again after a failure.
const JOIN_AGAIN: Duration = Duration::from_millis(500);
/// How often the group's positions are missed before they are given up: while the consumer is
/// moved, a group may be removed that a member still takes for its own.
const LOST_AFTER: u32 = 2;
/// How many messages of a partition are taken together.
const BATCH: usize = 1000;

type Client = BaseConsumer<Group>;

/// Runs until the member is dropped or its consumer removed.
pub(super) fn run(shared: &Arc<Shared>) {
    let (classic, mut lost) = (AtomicBool::new(false), 0);
    while !shared.stop.is_cancelled() {
        let entry = match shared.entry() {
            Ok(entry) => entry,
            Err(gone) => return shared.end(&gone),
        };
        match Poller::join(shared, &entry, &classic).and_then(Poller::serve) {
            Ok(()) => lost = 0,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::error!(consumer = %shared.of.consumer, %error, "positions are lost");
                lost += 1;
                if lost >= LOST_AFTER {
                    return shared.end(&error);
                }
                shared.bell.wait(JOIN_AGAIN);
            }
            Err(gone) if gone.is_not_found() || gone.kind() == ErrorKind::Mismatch => {
                return shared.end(&gone);
            }
            Err(error) => {
                tracing::warn!(consumer = %shared.of.consumer, %error, "joining the group again");
                shared.bell.wait(JOIN_AGAIN);
            }
        }
    }
}

struct Poller<'a> {
    shared: &'a Arc<Shared>,
    entry: Arc<ConsumerEntry>,
    /// The stream as its records are read.
    declared: Arc<StreamEntry>,
    /// Set when the brokers know the classic protocol of groups only.
    classic: &'a AtomicBool,
    client: Arc<Client>,
    queues: BTreeMap<Part, Queue>,
    decoder: Decoder,
    /// Since when the stream's topic seems to be gone, and when it was looked for last.
    missing: Option<(Instant, Instant)>,
    /// Nothing came the last time.
    idle: bool,
}

/// The messages of one assignment of a partition.
struct Queue {
    assignment: u64,
    queue: PartitionQueue<Group>,
}

/// Refuses to join on a topic with more partitions than sequences are counted with: the group would
/// give them to this member. A topic that cannot be looked at is found out about later.
fn check_partitions(shared: &Shared, client: &Client) -> Result<()> {
    let (name, counted) = (&shared.of.stream, shared.declared().config.partitions);
    let Ok(found) = client.fetch_metadata(Some(name.as_str()), REQUEST_LIMIT) else {
        return Ok(());
    };
    let found = found.topics().iter().find(|topic| topic.name() == name.as_str());
    match found.map(|topic| topic.partitions().len()).and_then(|found| u32::try_from(found).ok()) {
        Some(found) if found > counted => {
            shared.link.shapes.doubt(name);
            Err(refusal(name, counted, found))
        }
        _ => Ok(()),
    }
}

impl<'a> Poller<'a> {
    fn join(
        shared: &'a Arc<Shared>,
        entry: &Arc<ConsumerEntry>,
        classic: &'a AtomicBool,
    ) -> Result<Self> {
        let mut config = shared.link.settings.consumer(&entry.group);
        config.set("enable.partition.eof", "false");
        // Where the log's beginning has moved past the position, the oldest message left is next.
        config.set("auto.offset.reset", "earliest");
        // Ranges give partitions of one number in both topics to one member: a key has one owner.
        if classic.load(Ordering::Relaxed) {
            config.set("partition.assignment.strategy", "range");
            config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "1000");
        } else {
            config.set("group.protocol", "consumer").set("group.remote.assignor", "range");
        }
        let doing = || format!("join group {}", entry.group);
        let group = Group { shared: shared.clone(), entry: entry.clone() };
        let mut client =
            Client::from_config_and_context(&config, group).map_err(|e| failed(doing(), e))?;
        let bell = shared.bell.clone();
        client.set_nonempty_callback(move || bell.ring());
        let client = Arc::new(client);
        check_partitions(shared, &client)?;
        let topics = shared.of.topics.each_ref().map(String::as_str);
        client.subscribe(&topics).map_err(|e| failed(doing(), e))?;
        {
            let mut state = shared.state();
            state.rejoin = false;
            state.lost.clear();
            state.troubles.clear();
            state.client = Some(client.clone());
        }
        let declared = shared.declared();
        Ok(Self {
            shared,
            entry: entry.clone(),
            classic,
            client,
            queues: BTreeMap::new(),
            decoder: Decoder::of(&declared),
            declared,
            missing: None,
            idle: true,
        })
    }

    /// Serves until the member is dropped, or the group is to be joined anew.
    fn serve(mut self) -> Result<()> {
        let served = loop {
            if self.shared.stop.is_cancelled() {
                break Ok(());
            }
            match self.step() {
                Ok(Step::Busy) => {}
                Ok(Step::Idle) => self.shared.bell.wait(LOOK_EVERY),
                Ok(Step::Over) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.leave();
        served
    }

    fn step(&mut self) -> Result<Step> {
        self.check_positions()?;
        if self.is_outdated()? {
            return Ok(Step::Over);
        }
        self.look_for_topic()?;
        let mut taken = self.take_events()?;
        let rooms = self.look_at_desk();
        self.follow_assignment(&rooms);
        taken |= self.take_messages(&rooms)?;
        self.idle = !taken;
        Ok(if taken { Step::Busy } else { Step::Idle })
    }

    /// Fails where the group has lost positions, unless the consumer has another group by now.
    fn check_positions(&self) -> Result<()> {
        let lost = self.shared.state().lost.clone();
        if lost.is_empty() || self.shared.entry()?.group != self.entry.group {
            return Ok(());
        }
        let of = &self.shared.of;
        Err(positions_lost(&of.stream, &of.consumer, &self.entry.group, &lost))
    }

    /// True when the consumer was moved, or what is committed is to be looked at anew, or when the
    /// topic was just being made when it was bound, and looked like a foreign one.
    fn is_outdated(&self) -> Result<bool> {
        let now = self.shared.entry()?;
        if self.shared.declared().keyed != self.declared.keyed {
            return Ok(true);
        }
        let mut state = self.shared.state();
        self.shared.apply(&mut state)?;
        Ok(now.epoch != self.entry.epoch || now.group != self.entry.group || state.rejoin)
    }

    /// Serves the client's callbacks, and takes messages that arrived before their partition had a
    /// queue of its own.
    fn take_events(&mut self) -> Result<bool> {
        let mut polled = Vec::new();
        let (mut calm, mut trouble) = (0, None);
        // A callback looks like nothing, and may have left more behind it.
        while calm < 2 {
            match self.client.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    let part = self.shared.of.part(message.topic(), message.partition());
                    polled.push(read(&self.entry, part, &mut self.decoder, &message));
                }
                Some(Err(error)) => trouble = Some(error),
                None => calm += 1,
            }
        }
        let taken = !polled.is_empty();
        if taken && self.shared.state().desk.accept(polled, Instant::now()) {
            self.shared.arrived.notify_waiters();
        }
        trouble.map_or(Ok(()), |error| self.judge(None, error))?;
        Ok(taken)
    }

    /// What is assigned, and what there is room for once those are in that came before.
    fn look_at_desk(&self) -> Vec<Room> {
        let mut state = self.shared.state();
        let now = Instant::now();
        let mut news = state.desk.accept_early(now);
        if self.idle || self.shared.inbox.is_full() {
            news |= self.shared.bring_in(&mut state, now);
        }
        let rooms = state.desk.rooms(self.shared.inbox.len());
        drop(state);
        if news {
            self.shared.arrived.notify_waiters();
        }
        rooms
    }

    /// Gives each new assignment of a partition a queue of its own.
    fn follow_assignment(&mut self, rooms: &[Room]) {
        let is_now = |part: &Part, queue: &Queue| {
            rooms.iter().any(|room| room.part == *part && room.assignment == queue.assignment)
        };
        self.queues.retain(|part, queue| is_now(part, queue));
        for &Room { part, assignment, .. } in rooms {
            if self.queues.contains_key(&part) {
                continue;
            }
            let topic = self.shared.of.topic(part);
            if let Some(mut queue) = self.client.split_partition_queue(topic, part.1) {
                let bell = self.shared.bell.clone();
                queue.set_nonempty_callback(move || bell.ring());
                self.queues.insert(part, Queue { assignment, queue });
            }
        }
    }

    fn take_messages(&mut self, rooms: &[Room]) -> Result<bool> {
        let (mut any, mut troubles) = (false, Vec::new());
        for &Room { part, assignment, messages } in rooms {
            let Some(Queue { queue, .. }) = self.queues.get(&part) else { continue };
            self.decoder.let_go();
            let mut batch = self.shared.inbox.begin(part, assignment);
            while batch.len() < messages.min(BATCH) {
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        batch.push(read(&self.entry, part, &mut self.decoder, &message));
                    }
                    Some(Err(error)) => {
                        troubles.push((part, error));
                        break;
                    }
                    None => break,
                }
            }
            if batch.len() == 0 {
                self.shared.inbox.give_back(batch.run);
                continue;
            }
            any = true;
            self.shared.inbox.put(batch);
            self.shared.arrived.notify_waiters();
        }
        troubles.into_iter().try_for_each(|(part, error)| self.judge(Some(part), error))?;
        Ok(any)
    }

    /// Ends the member of a topic that others removed. One that cannot be seen for a moment, while
    /// a broker starts, is not gone.
    fn look_for_topic(&mut self) -> Result<()> {
        // Brokers that assign the partitions take those of a removed topic away without a word.
        if self.queues.keys().next().is_none_or(|(retry, _)| *retry) {
            self.missing.get_or_insert((Instant::now(), Instant::now()));
        }
        let Some((since, looked)) = self.missing else { return Ok(()) };
        if looked.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        let (topic, now) = (&self.shared.of.topics[0], Instant::now());
        let found = self.client.fetch_metadata(Some(topic), LOOK_AGAIN);
        let unknown = Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
        let gone = found.is_ok_and(|found| {
            found.topics().iter().any(|t| t.name() == topic && t.error() == unknown)
        });
        if gone && since.elapsed() > GONE_AFTER {
            let what = format!("there is no stream {topic}: its topic was removed");
            return Err(Error::not_found(what));
        }
        self.missing = gone.then_some((since, now));
        Ok(())
    }

    /// What an error of the client means: mostly that it goes on by itself.
    fn judge(&mut self, part: Option<Part>, error: KafkaError) -> Result<()> {
        if let Some((cause, _)) = self.client.client().fatal_error() {
            return Err(self.ended(cause));
        }
        match code(&error) {
            // Also said while the brokers learn of a topic.
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                self.missing.get_or_insert((Instant::now(), Instant::now()));
                Ok(())
            }
            _ if Trouble::is_one(&error) => {
                let error = unreadable(&self.shared.of, part, error);
                self.shared.state().troubles.note(part, &error);
                self.shared.arrived.notify_waiters();
                Ok(())
            }
            _ => {
                if !is_passing(&error) {
                    tracing::warn!(consumer = %self.shared.of.consumer, %error, "consuming");
                }
                Ok(())
            }
        }
    }

    /// What ended the client, which reports no more than that it is over: the next one is in the
    /// group as the brokers can have it.
    fn ended(&self, cause: Code) -> Error {
        // The broker's word for a protocol that is switched off, and the client library's.
        let unsupported = matches!(cause, Code::UnsupportedVersion | Code::UnsupportedFeature);
        if unsupported && !self.classic.swap(true, Ordering::Relaxed) {
            tracing::info!("the brokers have no group protocol of their own: using the classic");
        }
        let doing = format!("consume {}", self.shared.of.stream);
        failed(doing, KafkaError::MessageConsumptionFatal(cause))
    }

    /// Leaves the group, with all that was settled committed.
    fn leave(mut self) {
        {
            let turn = &self.shared.commits;
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.save(&self.client);
        }
        let parts = self.shared.state().desk.parts();
        self.shared.give_up(&parts);
        self.queues.clear();
        self.shared.state().client = None;
        // The last one that goes takes the client out of the group, and waits for it.
        drop(self.client);
    }
}

enum Step {
    Busy,
    Idle,
    Over,
}

/// How long a record that came at `taken` rests still. Never longer than it was to rest in all: a
/// clock may have been set back since.
fn wait(taken: SystemTime, until: SystemTime, now: SystemTime) -> Option<Duration> {
    let (left, whole) = (until.duration_since(now).ok()?, until.duration_since(taken).ok()?);
    Some(left.min(whole))
}

/// A record as the desk takes it; without a message where no filter matches.
fn read(
    entry: &ConsumerEntry,
    (retry, partition): Part,
    decoder: &mut Decoder,
    record: &BorrowedMessage<'_>,
) -> Polled {
    let slot = Slot { retry, partition, offset: record.offset() };
    let (message, not_before) = decoder.stored(record);
    let left = not_before.and_then(|time| wait(message.timestamp, time, SystemTime::now()));
    let due = left.map(|left| after(Instant::now(), left));
    let found = Record { slot, message, attempts: 0, due };
    if retry {
        return Polled { slot, record: retry::read(record, found, entry.epoch) };
    }
    let message = &found.message;
    let wanted =
        message.sequence >= entry.at_least && matches_any(&entry.config.filters, &message.subject);
    Polled { slot, record: wanted.then_some(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_rests_longer_than_it_was_to_whatever_the_clock_does() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let seconds = |left: Option<Duration>| left.map(|left| left.as_secs());
        assert_eq!(seconds(wait(at(1000), at(1030), at(1010))), Some(20));
        assert_eq!(seconds(wait(at(1000), at(1030), at(1031))), None);
        assert_eq!(seconds(wait(at(1000), at(1030), at(10))), Some(30), "it was set back");
        assert_eq!(seconds(wait(at(1040), at(1030), at(10))), None);
    }
}
