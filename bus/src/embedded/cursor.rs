//! A durable consumer: a position, what is out and unsettled, and what comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::Now;
use super::journal::{Change, Head, Journal, Open};
use super::log::Log;
use super::position::Position;
use crate::config::{ConsumerConfig, ConsumerInfo, Start};
use crate::driver::{LeaseToken, RawDelivery, Settlement};
use crate::due::DueQueue;
use crate::error::{Error, ErrorKind, Result};

/// The state of a durable consumer.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) config: ConsumerConfig,
    /// Woken when a fetch that found nothing may find something, or must look at the clock anew.
    pub(super) woken: Arc<Notify>,
    created: SystemTime,
    position: Position,
    /// How many messages are still to come, kept up from the first time that it is asked for.
    pending: Option<u64>,
    unsettled: BTreeMap<u64, Unsettled>,
    /// When leases end and delays are over: each of `unsettled` that is not in `ready`.
    due: DueQueue<u64>,
    /// What comes again now, in stream order.
    ready: BTreeSet<u64>,
    delivered: u64,
    started_after: u64,
    /// Nothing is handed out before this time.
    paused_until: Option<SystemTime>,
    /// How often the consumer was moved; leases from before are void.
    epoch: u32,
    /// What the journal knows it by.
    number: u64,
    journal: Journal,
}

/// A consumer as it was kept.
#[cfg(feature = "disk")]
#[derive(Debug)]
pub(super) struct CursorParts {
    pub(super) number: u64,
    pub(super) config: ConsumerConfig,
    pub(super) created: SystemTime,
    pub(super) head: Head,
    /// What is left of the sequences it gets first.
    pub(super) first: Vec<u64>,
    pub(super) open: Vec<Open>,
}

#[derive(Debug)]
struct Unsettled {
    attempt: u32,
    due: Instant,
    phase: Phase,
}

impl Unsettled {
    /// True while it waits for `due`.
    fn is_timed(&self) -> bool {
        self.phase != Phase::Ready
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Someone works on it until `due`.
    Leased,
    /// It rests until `due`, then it comes again.
    Delayed,
    /// It comes again with the next fetch.
    Ready,
}

/// So many bytes of messages are handed out at once, and one message in any case.
const FETCH_BYTES: u64 = 16 << 20;

/// What one fetch hands out.
#[derive(Debug, Default)]
struct Taken {
    deliveries: Vec<RawDelivery>,
    bytes: u64,
    max: usize,
}

impl Taken {
    fn has_room(&self) -> bool {
        self.deliveries.len() < self.max && self.bytes < FETCH_BYTES
    }

    fn add(&mut self, delivery: RawDelivery) {
        self.bytes += delivery.message.bytes();
        self.deliveries.push(delivery);
    }
}

/// What a settlement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The message is done now.
    Done,
    /// It was done before.
    Already,
    /// It is still unsettled.
    Open,
}

impl Cursor {
    /// A new consumer that is made at this time.
    pub(super) fn new(config: ConsumerConfig, log: &Log, created: SystemTime) -> Self {
        let position = Position::new(log, &config.filters, config.start);
        let journal = log.journal().clone();
        let number = journal.number();
        journal.note(|| Change::Consumer { number, config: &config, created });
        let cursor = Self {
            config,
            woken: Arc::new(Notify::new()),
            created,
            started_after: position.next() - 1,
            position,
            pending: None,
            unsettled: BTreeMap::new(),
            due: DueQueue::default(),
            ready: BTreeSet::new(),
            delivered: 0,
            paused_until: None,
            epoch: 0,
            number,
            journal,
        };
        cursor.note_place();
        cursor
    }

    /// The consumer as it was kept: leases and delays end when they would have.
    #[cfg(feature = "disk")]
    pub(super) fn restore(parts: CursorParts, journal: Journal, now: Now) -> Self {
        let CursorParts { number, config, created, head, first, open } = parts;
        let mut cursor = Self {
            woken: Arc::new(Notify::new()),
            created,
            position: Position::restore(&config.filters, first, head.next),
            pending: None,
            unsettled: BTreeMap::new(),
            due: DueQueue::default(),
            ready: BTreeSet::new(),
            delivered: head.delivered,
            started_after: head.started_after,
            paused_until: head.paused_until,
            epoch: head.epoch,
            number,
            journal,
            config,
        };
        for Open { sequence, attempt, due, resting } in open {
            let phase = if resting { Phase::Delayed } else { Phase::Leased };
            let due = now.instant_of(due);
            cursor.unsettled.insert(sequence, Unsettled { attempt, due, phase });
            cursor.due.add(due, sequence);
        }
        cursor
    }

    /// Takes back a delivery that never left the backend.
    #[cfg(feature = "disk")]
    pub(super) fn take_back(&mut self, delivery: &RawDelivery, now: Now) {
        let Ok((sequence, Some(attempt))) = self.check(&delivery.token, &Settlement::Ack, now)
        else {
            return;
        };
        if self.unsettled.contains_key(&sequence) {
            self.unindex(sequence);
            self.put_back(sequence, attempt - 1, now);
            self.woken.notify_waiters();
        }
    }

    /// When it was made.
    pub(super) fn created(&self) -> SystemTime {
        self.created
    }

    /// Changes what may be changed.
    pub(super) fn declare(&mut self, config: ConsumerConfig) {
        self.config = config;
        let (number, config, created) = (self.number, &self.config, self.created);
        self.journal.note(|| Change::Consumer { number, config, created });
        self.woken.notify_waiters();
    }

    /// Has the journal forget the consumer.
    pub(super) fn forget(&mut self) {
        self.close_all();
        self.journal.note(|| Change::ConsumerGone(self.number));
    }

    fn close_all(&self) {
        self.unsettled.keys().for_each(|sequence| self.note_closed(*sequence));
    }

    fn note_closed(&self, sequence: u64) {
        self.journal.note(|| Change::Closed(self.number, sequence));
    }

    /// Notes where it stands after it was placed anew.
    fn note_place(&self) {
        let first = || self.position.first().iter().copied().collect();
        self.journal.note(|| Change::First(self.number, first()));
        self.note_head();
    }

    fn note_head(&self) {
        let head = || Head {
            next: self.position.after_first(),
            first_left: self.position.first().len() as u64,
            delivered: self.delivered,
            started_after: self.started_after,
            epoch: self.epoch,
            paused_until: self.paused_until,
        };
        self.journal.note(|| Change::Head(self.number, head()));
    }

    /// Hands out nothing before `until`; `None` goes on at once.
    pub(super) fn pause(&mut self, until: Option<SystemTime>) {
        self.paused_until = until;
        self.note_head();
        self.woken.notify_waiters();
    }

    /// Forgets what was settled and what is out, and goes on at `to`.
    pub(super) fn seek(&mut self, log: &Log, to: Start) {
        self.position = Position::new(log, &self.config.filters, to);
        self.pending = None;
        self.started_after = self.position.next() - 1;
        self.delivered = 0;
        self.epoch += 1;
        self.close_all();
        self.note_place();
        self.unsettled.clear();
        self.due.clear();
        self.ready.clear();
        self.woken.notify_waiters();
    }

    /// How long nothing is handed out from now on.
    fn pause_left(&self, now: Now) -> Option<Duration> {
        let left = self.paused_until?.duration_since(now.time).ok()?;
        (!left.is_zero()).then_some(left)
    }

    /// When a fetch that found nothing should look again.
    pub(super) fn look_again(&self, now: Now) -> Option<Instant> {
        match self.pause_left(now) {
            Some(left) => Some(now.after(left)),
            None => self.first_due(),
        }
    }

    /// Takes note of a message that came.
    pub(super) fn arrived(&mut self, sequence: u64, subject: &str) {
        if self.position.matches(subject) {
            if self.position.is_ahead(sequence) {
                self.pending = self.pending.map(|pending| pending + 1);
            }
            self.woken.notify_waiters();
        }
    }

    /// Takes note of a message that was taken out of the log.
    pub(super) fn removed(&mut self, sequence: u64, subject: &str) {
        if self.pending.is_some()
            && self.position.is_ahead(sequence)
            && self.position.matches(subject)
        {
            self.passed();
        }
    }

    /// Counts anew what is to come, when it is asked for: much was taken out of the log.
    pub(super) fn count_anew(&mut self) {
        self.pending = None;
    }

    /// One less is still to come.
    fn passed(&mut self) {
        self.pending = self.pending.map(|pending| pending.saturating_sub(1));
    }

    /// Hands out up to `max` deliveries: what comes again first, then what is new.
    ///
    /// Fails where a message cannot be read back; then it comes again with the next call.
    pub(super) fn take(&mut self, log: &Log, max: usize, now: Now) -> Result<Vec<RawDelivery>> {
        self.expire(now.instant);
        let (first_due, mut taken) = (self.first_due(), Taken { max, ..Taken::default() });
        if self.pause_left(now).is_some() {
            return Ok(taken.deliveries);
        }
        let all = self.take_ready(log, now, &mut taken);
        let all = all.and_then(|()| self.take_new(log, now, &mut taken));
        let taken = taken.deliveries;
        // Another fetch may sleep until a later moment than the first lease that runs now.
        if self.first_due() != first_due {
            self.woken.notify_waiters();
        }
        match all {
            Err(error) if taken.is_empty() => Err(error),
            _ => Ok(taken),
        }
    }

    fn take_ready(&mut self, log: &Log, now: Now, taken: &mut Taken) -> Result<()> {
        while taken.has_room()
            && let Some(sequence) = self.ready.pop_first()
        {
            let attempts = self.unsettled.remove(&sequence).map_or(0, |before| before.attempt);
            match self.deliver(log, sequence, attempts, now)? {
                Some(delivery) => taken.add(delivery),
                None => self.note_closed(sequence),
            }
        }
        Ok(())
    }

    fn take_new(&mut self, log: &Log, now: Now, taken: &mut Taken) -> Result<()> {
        let before = (self.position.next(), self.position.first().len());
        let mut all = Ok(());
        while all.is_ok()
            && taken.has_room()
            && !self.is_at_limit()
            && let Some(sequence) = self.position.advance(log)
        {
            self.passed();
            all = self
                .deliver(log, sequence, 0, now)
                .map(|d| d.into_iter().for_each(|d| taken.add(d)));
        }
        if (self.position.next(), self.position.first().len()) != before {
            self.note_head();
        }
        all
    }

    /// Begins the lease that follows `attempts` others; `None` when the message is gone.
    fn deliver(
        &mut self,
        log: &Log,
        sequence: u64,
        attempts: u32,
        now: Now,
    ) -> Result<Option<RawDelivery>> {
        self.delivered = self.delivered.max(sequence);
        let message = match log.read(sequence) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.put_back(sequence, attempts, now);
                return Err(error);
            }
        };
        let (attempt, due) = (attempts.saturating_add(1), now.after(self.config.ack_wait));
        self.unsettled.insert(sequence, Unsettled { attempt, due, phase: Phase::Leased });
        self.due.add(due, sequence);
        self.note_open(sequence, now);
        let token = token(sequence, attempt, self.epoch);
        Ok(Some(RawDelivery { message, attempt, expires: due, token }))
    }

    /// Has the message come with the next fetch, as if it had not been handed out this time.
    fn put_back(&mut self, sequence: u64, attempts: u32, now: Now) {
        let ready = Unsettled { attempt: attempts, due: now.instant, phase: Phase::Ready };
        self.unsettled.insert(sequence, ready);
        self.ready.insert(sequence);
        self.note_open(sequence, now);
    }

    fn note_open(&self, sequence: u64, now: Now) {
        if let Some(Unsettled { attempt, due, phase }) = self.unsettled.get(&sequence) {
            let resting = *phase != Phase::Leased;
            let open = || Open { sequence, attempt: *attempt, due: now.wall(*due), resting };
            self.journal.note(|| Change::Open(self.number, open()));
        }
    }

    /// Moves what is due to `ready`, or ends it where its attempts are used up.
    fn expire(&mut self, now: Instant) {
        while let Some((due, sequences)) = self.due.pop(now) {
            sequences.into_iter().for_each(|sequence| self.end(sequence, due));
        }
    }

    /// Ends the lease or rest of `sequence`, if it is one that ends at `due`.
    fn end(&mut self, sequence: u64, due: Instant) {
        let ends = |unsettled: &&mut Unsettled| unsettled.is_timed() && unsettled.due == due;
        if let Some(unsettled) = self.unsettled.get_mut(&sequence).filter(ends) {
            if self.config.max_attempts.is_some_and(|max| unsettled.attempt >= max) {
                self.unsettled.remove(&sequence);
                self.note_closed(sequence);
            } else {
                unsettled.phase = Phase::Ready;
                self.ready.insert(sequence);
            }
        }
    }

    /// Settles what `token` names.
    pub(super) fn settle(
        &mut self,
        token: &LeaseToken,
        how: &Settlement,
        now: Now,
    ) -> Result<(u64, Settled)> {
        let (sequence, attempt) = match self.check(token, how, now)? {
            (sequence, Some(attempt)) => (sequence, attempt),
            (sequence, None) => return Ok((sequence, Settled::Already)),
        };
        let settled = match how {
            Settlement::Ack | Settlement::Reject(_) => self.finish(sequence),
            Settlement::Retry(_) if self.config.max_attempts.is_some_and(|max| attempt >= max) => {
                self.finish(sequence);
                Settled::Open
            }
            Settlement::Retry(delay) => self.postpone(sequence, Phase::Delayed, *delay, now),
            Settlement::Extend => self.postpone(sequence, Phase::Leased, self.config.ack_wait, now),
        };
        Ok((sequence, settled))
    }

    /// The sequence and attempt that `token` names, without an attempt where an ack only repeats
    /// one; `Stale` when the lease is over.
    pub(super) fn check(
        &mut self,
        token: &LeaseToken,
        how: &Settlement,
        now: Now,
    ) -> Result<(u64, Option<u32>)> {
        let (sequence, attempt, epoch) = read_token(token)?;
        if epoch != self.epoch {
            return Err(stale(token));
        }
        self.expire(now.instant);
        let Some(unsettled) = self.unsettled.get(&sequence) else {
            let done = sequence <= self.delivered && *how == Settlement::Ack;
            return if done { Ok((sequence, None)) } else { Err(stale(token)) };
        };
        let resting = unsettled.phase == Phase::Delayed && *how == Settlement::Extend;
        if unsettled.attempt != attempt || resting {
            return Err(stale(token));
        }
        Ok((sequence, Some(attempt)))
    }

    fn finish(&mut self, sequence: u64) -> Settled {
        let was_at_limit = self.is_at_limit();
        self.unindex(sequence);
        if self.unsettled.remove(&sequence).is_some() {
            self.note_closed(sequence);
        }
        if was_at_limit {
            self.woken.notify_waiters();
        }
        Settled::Done
    }

    fn postpone(&mut self, sequence: u64, phase: Phase, delay: Duration, now: Now) -> Settled {
        self.unindex(sequence);
        if let Some(unsettled) = self.unsettled.get_mut(&sequence) {
            (unsettled.due, unsettled.phase) = (now.after(delay), phase);
            self.due.add(unsettled.due, sequence);
            self.note_open(sequence, now);
        }
        self.woken.notify_waiters();
        Settled::Open
    }

    /// Takes a sequence out of what is due, or comes again.
    fn unindex(&mut self, sequence: u64) {
        match self.unsettled.get(&sequence) {
            Some(unsettled) if unsettled.is_timed() => self.due.take_out(unsettled.due),
            Some(_) => _ = self.ready.remove(&sequence),
            None => {}
        }
    }

    fn is_at_limit(&self) -> bool {
        self.unsettled.len() >= self.config.max_unsettled as usize
    }

    /// When the next lease ends or the next delay is over.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.due.first()
    }

    pub(super) fn info(&mut self, log: &Log, now: Now) -> ConsumerInfo {
        self.expire(now.instant);
        let floor = self.delivered.max(self.started_after);
        let position = &self.position;
        let pending = *self.pending.get_or_insert_with(|| position.remaining(log));
        ConsumerInfo {
            config: self.config.clone(),
            created: self.created,
            moves: self.epoch.into(),
            pending,
            unsettled: self.unsettled.len() as u64,
            delivered_sequence: self.delivered,
            settled_sequence: self.unsettled.keys().next().map_or(floor, |first| first - 1),
            paused_until: self.pause_left(now).and(self.paused_until),
        }
    }
}

/// `<sequence>.<attempt>.<epoch>`
fn token(sequence: u64, attempt: u32, epoch: u32) -> LeaseToken {
    LeaseToken::numbered(None, [sequence, attempt.into(), epoch.into()])
}

fn read_token(token: &LeaseToken) -> Result<(u64, u32, u32)> {
    let read = || match token.as_numbered()? {
        (None, [sequence, attempt, epoch]) => {
            Some((sequence, attempt.try_into().ok()?, epoch.try_into().ok()?))
        }
        _ => None,
    };
    read().ok_or_else(|| {
        let text = token.as_str();
        Error::invalid(format!("{text:?} is no lease token of this backend: pass it unchanged"))
    })
}

fn stale(token: &LeaseToken) -> Error {
    let text = token.as_str();
    Error::new(
        ErrorKind::Stale,
        format!("the lease {text} is over: the message was settled or is delivered again"),
    )
}

#[cfg(test)]
mod tests;
