//! The leases of one member of a consumer's group: Kafka has none, so that they run here.
//!
//! A member alone gets the messages of its partitions, which makes its own clock and its own
//! counts enough. When it dies its leases die with it, and the partitions' next owner delivers
//! what was not settled.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry as Place;
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::token::Slot;
use crate::config::ConsumerConfig;
use crate::due::DueQueue;
use crate::message::StoredMessage;

/// A message as it was taken from a partition.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// Where it is; for a retry, where its copy is.
    pub(super) slot: Slot,
    /// The message as it was published; a retry has its first sequence and time.
    pub(super) message: StoredMessage,
    /// How often it was delivered before.
    pub(super) attempts: u32,
    /// It rests until then.
    pub(super) due: Option<Instant>,
}

/// What a consumer allows, as its configuration says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) ack_wait: Duration,
    pub(super) max_unsettled: usize,
    pub(super) max_attempts: Option<u32>,
}

impl From<&ConsumerConfig> for Limits {
    fn from(config: &ConsumerConfig) -> Self {
        Self {
            ack_wait: config.ack_wait,
            max_unsettled: config.max_unsettled as usize,
            max_attempts: config.max_attempts,
        }
    }
}

/// Every message that this member has delivered, or will, and that is not settled.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) limits: Limits,
    entries: FxHashMap<Slot, Entry>,
    /// When leases end and rests are over: each entry that is leased or rests.
    due: DueQueue<Slot>,
    /// What is delivered next, by sequence.
    ready: BTreeSet<(u64, Slot)>,
    /// How many are at work: leased, or being copied for a retry.
    out: usize,
}

#[derive(Debug)]
struct Entry {
    message: StoredMessage,
    attempt: u32,
    due: Instant,
    phase: Phase,
}

impl Entry {
    /// True for a lease or a rest that is over at `due`.
    fn ends_at(&self, due: Instant) -> bool {
        matches!(self.phase, Phase::Leased | Phase::Resting) && self.due == due
    }

    fn is_held(&self, attempt: u32) -> bool {
        self.attempt == attempt && matches!(self.phase, Phase::Leased | Phase::Ready)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Someone works on it until `due`.
    Leased,
    /// Its copy is on the way to the retry topic; its lease does not end meanwhile.
    Copying,
    /// It rests until `due`.
    Resting,
    /// It is delivered next.
    Ready,
}

/// A delivery, without its token.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) slot: Slot,
    pub(super) message: StoredMessage,
    pub(super) attempt: u32,
    pub(super) expires: Instant,
}

impl Leases {
    pub(super) fn new(limits: Limits) -> Self {
        let (entries, due, ready) = (FxHashMap::default(), DueQueue::default(), BTreeSet::new());
        Self { limits, entries, due, ready, out: 0 }
    }

    /// True when a message that was not delivered before may be.
    pub(super) fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// How many of those may be.
    pub(super) fn room(&self) -> usize {
        self.limits.max_unsettled.saturating_sub(self.out + self.ready.len())
    }

    /// Leases a message that comes for the first time to this member.
    pub(super) fn lease(&mut self, record: Record, now: Instant) -> Leased {
        let Record { slot, message, attempts, .. } = record;
        self.insert(slot, message, attempts.saturating_add(1), now)
    }

    /// Leases the next message that comes again.
    pub(super) fn lease_ready(&mut self, now: Instant) -> Option<Leased> {
        if self.out >= self.limits.max_unsettled {
            return None;
        }
        let (_, slot) = self.ready.pop_first()?;
        let Entry { message, attempt, .. } = self.entries.remove(&slot)?;
        Some(self.insert(slot, message, attempt.saturating_add(1), now))
    }

    fn insert(&mut self, slot: Slot, message: StoredMessage, attempt: u32, now: Instant) -> Leased {
        let due = after(now, self.limits.ack_wait);
        let entry = Entry { message: message.clone(), attempt, due, phase: Phase::Leased };
        self.entries.insert(slot, entry);
        self.due.add(due, slot);
        self.out += 1;
        Leased { slot, message, attempt, expires: due }
    }

    /// Keeps a message until it is due.
    pub(super) fn rest(&mut self, record: Record, due: Instant) {
        let Record { slot, message, attempts, .. } = record;
        self.due.add(due, slot);
        let entry = Entry { message, attempt: attempts, due, phase: Phase::Resting };
        self.entries.insert(slot, entry);
    }

    /// Ends the leases and rests that are due. Returns what is given up, because it was delivered
    /// as often as it may be: it is settled now.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Slot> {
        let mut given_up = Vec::new();
        while let Some((due, slots)) = self.due.pop(now) {
            given_up.extend(slots.into_iter().filter(|slot| self.end(*slot, due)));
        }
        given_up
    }

    /// Ends the lease or rest of `slot`, if it is one that ends at `due`; true when the message is
    /// given up.
    fn end(&mut self, slot: Slot, due: Instant) -> bool {
        let ends = |entry: &&mut Entry| entry.ends_at(due);
        let Some(entry) = self.entries.get_mut(&slot).filter(ends) else { return false };
        self.out -= usize::from(entry.phase == Phase::Leased);
        let given_up = self.limits.max_attempts.is_some_and(|max| entry.attempt >= max);
        if given_up {
            self.entries.remove(&slot);
        } else {
            entry.phase = Phase::Ready;
            self.ready.insert((entry.message.sequence, slot));
        }
        given_up
    }

    /// True while this is the lease of the message: not over, not settled, not another's.
    pub(super) fn holds(&self, slot: Slot, attempt: u32) -> bool {
        self.entries.get(&slot).is_some_and(|entry| entry.is_held(attempt))
    }

    /// True when it was delivered as often as it may be.
    pub(super) fn is_last(&self, attempt: u32) -> bool {
        self.limits.max_attempts.is_some_and(|max| attempt >= max)
    }

    /// Starts a lease anew.
    pub(super) fn extend(&mut self, slot: Slot, now: Instant) {
        let until = after(now, self.limits.ack_wait);
        self.change(slot, Phase::Leased, until);
    }

    /// The message, whose lease does not end until [`Leases::copied`] or [`Leases::finish`].
    pub(super) fn copy(&mut self, slot: Slot) -> Option<StoredMessage> {
        let due = self.entries.get(&slot)?.due;
        self.change(slot, Phase::Copying, due);
        self.entries.get(&slot).map(|entry| entry.message.clone())
    }

    /// The copy failed: the lease goes on where it was.
    pub(super) fn not_copied(&mut self, slot: Slot) {
        let copying = self.entries.get(&slot).filter(|entry| entry.phase == Phase::Copying);
        if let Some(due) = copying.map(|entry| entry.due) {
            self.change(slot, Phase::Leased, due);
        }
    }

    /// Forgets a message, because it is settled.
    pub(super) fn finish(&mut self, slot: Slot) {
        if let Some(entry) = self.entries.remove(&slot) {
            self.unindex(slot, &entry);
        }
    }

    /// The same, if this is the lease of the message, as [`Leases::holds`] says.
    pub(super) fn finish_held(&mut self, slot: Slot, attempt: u32) -> bool {
        let Place::Occupied(place) = self.entries.entry(slot) else { return false };
        if !place.get().is_held(attempt) {
            return false;
        }
        let entry = place.remove();
        self.unindex(slot, &entry);
        true
    }

    /// Forgets all that is not to be kept, because others own it now.
    pub(super) fn retain(&mut self, keep: impl Fn(Slot) -> bool) {
        let gone: Vec<Slot> = self.entries.keys().copied().filter(|slot| !keep(*slot)).collect();
        gone.into_iter().for_each(|slot| self.finish(slot));
    }

    /// True while someone works on a message that `of` names.
    pub(super) fn any_out(&self, of: impl Fn(Slot) -> bool) -> bool {
        let at_work = |entry: &Entry| matches!(entry.phase, Phase::Leased | Phase::Copying);
        self.entries.iter().any(|(slot, entry)| at_work(entry) && of(*slot))
    }

    /// When the next lease ends or the next rest is over.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.due.first()
    }

    /// The messages that rest longest, at most `max`, to be kept elsewhere; each stays as it is.
    pub(super) fn longest_rests(&self, max: usize) -> Vec<Record> {
        let resting = self.due.latest().filter_map(|(due, slot)| {
            let rests = |entry: &&Entry| entry.phase == Phase::Resting && entry.ends_at(due);
            let entry = self.entries.get(&slot).filter(rests)?;
            let (message, attempts) = (entry.message.clone(), entry.attempt);
            Some(Record { slot, message, attempts, due: Some(due) })
        });
        resting.take(max).collect()
    }

    /// How many rest.
    pub(super) fn resting(&self) -> usize {
        // Few are copied at a time, and each of those is out.
        self.entries.len() - self.out - self.ready.len()
    }

    /// The messages that were delivered and are not settled: their number, and the lowest of
    /// their sequences.
    pub(super) fn unsettled(&self) -> (u64, Option<u64>) {
        let delivered = self.entries.values().filter(|entry| entry.attempt > 0);
        let lowest = delivered.clone().map(|entry| entry.message.sequence).min();
        (delivered.count() as u64, lowest)
    }

    fn change(&mut self, slot: Slot, phase: Phase, due: Instant) {
        let Some(mut entry) = self.entries.remove(&slot) else { return };
        self.unindex(slot, &entry);
        (entry.phase, entry.due) = (phase, due);
        self.entries.insert(slot, entry);
        if phase != Phase::Copying {
            self.due.add(due, slot);
        }
        self.out += 1;
    }

    /// Takes what is not among the entries any more out of the other places.
    fn unindex(&mut self, slot: Slot, entry: &Entry) {
        match entry.phase {
            Phase::Leased | Phase::Resting => self.due.take_out(entry.due),
            Phase::Ready => _ = self.ready.remove(&(entry.message.sequence, slot)),
            Phase::Copying => {}
        }
        self.out -= usize::from(matches!(entry.phase, Phase::Leased | Phase::Copying));
    }
}

/// A moment that lies so far ahead that it cannot be named is never reached.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);
    now + wait.min(NEVER)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::headers::Headers;
    use crate::name::Subject;

    fn leases(max_attempts: Option<u32>) -> Leases {
        let ack_wait = Duration::from_secs(30);
        Leases::new(Limits { ack_wait, max_unsettled: 3, max_attempts })
    }

    /// The message at `offset` of a stream's first partition.
    pub(in crate::kafka) fn record(offset: i64) -> Record {
        let message = StoredMessage {
            sequence: offset as u64 + 1,
            timestamp: SystemTime::UNIX_EPOCH,
            subject: Subject::received("a"),
            key: None,
            headers: Headers::new(),
            payload: None,
        };
        let slot = Slot { retry: false, partition: 0, offset };
        Record { slot, message, attempts: 0, due: None }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_lease_that_ends_comes_again_and_fences_its_holder() {
        let (mut leases, now) = (leases(None), Instant::now());
        let first = leases.lease(record(0), now);
        assert_eq!((first.attempt, first.expires), (1, now + seconds(30)));
        assert!(leases.expire(now + seconds(29)).is_empty() && leases.lease_ready(now).is_none());
        leases.extend(first.slot, now + seconds(29));
        assert!(leases.expire(now + seconds(58)).is_empty() && leases.lease_ready(now).is_none());
        assert!(leases.expire(now + seconds(59)).is_empty());
        assert!(leases.holds(first.slot, 1), "nobody else has it yet");
        let second = leases.lease_ready(now + seconds(59)).unwrap();
        assert_eq!((second.slot, second.attempt), (first.slot, 2));
        assert!(!leases.holds(first.slot, 1) && leases.holds(first.slot, 2));
        leases.finish(first.slot);
        assert!(!leases.holds(first.slot, 2) && leases.first_due().is_none());
        assert_eq!(leases.unsettled(), (0, None));
    }

    #[test]
    fn what_comes_again_comes_in_order_and_counts() {
        let (mut leases, now) = (leases(None), Instant::now());
        for offset in [2, 0, 1] {
            assert!(leases.has_room());
            leases.lease(record(offset), now);
        }
        assert!(!leases.has_room());
        leases.expire(now + seconds(30));
        assert!(!leases.has_room(), "what comes again has its place");
        let order = [(); 3].map(|()| leases.lease_ready(now).unwrap().message.sequence);
        assert_eq!(order, [1, 2, 3]);
        assert_eq!(leases.unsettled(), (3, Some(1)));
    }

    #[test]
    fn after_the_last_attempt_it_is_given_up() {
        let (mut leases, now) = (leases(Some(2)), Instant::now());
        let slot = leases.lease(record(0), now).slot;
        assert!(!leases.is_last(1) && leases.is_last(2));
        assert!(leases.expire(now + seconds(30)).is_empty());
        leases.lease_ready(now + seconds(30)).unwrap();
        assert_eq!(leases.expire(now + seconds(60)), [slot]);
        assert!(leases.lease_ready(now + seconds(60)).is_none() && leases.has_room());
    }

    #[test]
    fn a_rest_holds_nothing_up_and_ends_when_it_is_due() {
        let (mut leases, now) = (leases(None), Instant::now());
        for offset in 0..5 {
            let retried = Record { attempts: 1, ..record(offset) };
            leases.rest(retried, now + seconds(10 + offset as u64));
        }
        assert!(leases.has_room() && leases.resting() == 5);
        let longest = leases.longest_rests(2);
        assert_eq!(longest.iter().map(|r| r.slot.offset).collect::<Vec<_>>(), [4, 3]);
        leases.expire(now + seconds(11));
        assert_eq!((leases.resting(), leases.unsettled().0), (3, 5));
        let again = leases.lease_ready(now + seconds(11)).unwrap();
        assert_eq!((again.slot.offset, again.attempt), (0, 2));
    }

    #[test]
    fn a_lease_does_not_end_while_its_message_is_copied() {
        let (mut leases, now) = (leases(None), Instant::now());
        let slot = leases.lease(record(0), now).slot;
        assert!(leases.copy(slot).is_some());
        assert!(!leases.holds(slot, 1), "it is settled once");
        leases.expire(now + seconds(60));
        assert!(leases.lease_ready(now).is_none() && leases.any_out(|_| true));
        leases.not_copied(slot);
        leases.expire(now + seconds(60));
        assert_eq!(leases.lease_ready(now).unwrap().attempt, 2);
        leases.retain(|_| false);
        assert!(leases.has_room() && !leases.any_out(|_| true));
    }
}
