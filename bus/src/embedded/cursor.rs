//! A durable consumer: a position, what is out and unsettled, and what comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::Now;
use super::log::Log;
use super::position::Position;
use crate::config::{ConsumerConfig, ConsumerInfo, Start};
use crate::driver::{LeaseToken, RawDelivery, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::message::StoredMessage;

/// The state of a durable consumer.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) config: ConsumerConfig,
    /// Woken when a fetch that found nothing may find something, or must look at the clock anew.
    pub(super) woken: Arc<Notify>,
    created: SystemTime,
    position: Position,
    unsettled: BTreeMap<u64, Unsettled>,
    /// When leases end and delays are over: `(when, sequence)`, each of `unsettled` that is not
    /// in `ready`.
    due: BTreeSet<(Instant, u64)>,
    /// What comes again now, in stream order.
    ready: BTreeSet<u64>,
    delivered: u64,
    started_after: u64,
    /// Nothing is handed out before this time.
    paused_until: Option<SystemTime>,
    /// How often the consumer was moved; leases from before are void.
    epoch: u32,
}

#[derive(Debug)]
struct Unsettled {
    attempt: u32,
    due: Instant,
    phase: Phase,
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
    pub(super) fn new(config: ConsumerConfig, log: &Log, now: Now) -> Self {
        let position = Position::new(log, &config.filters, config.start);
        Self {
            config,
            woken: Arc::new(Notify::new()),
            created: now.time,
            started_after: position.next() - 1,
            position,
            unsettled: BTreeMap::new(),
            due: BTreeSet::new(),
            ready: BTreeSet::new(),
            delivered: 0,
            paused_until: None,
            epoch: 0,
        }
    }

    /// Hands out nothing before `until`; `None` goes on at once.
    pub(super) fn pause(&mut self, until: Option<SystemTime>) {
        self.paused_until = until;
        self.woken.notify_waiters();
    }

    /// Forgets what was settled and what is out, and goes on at `to`.
    pub(super) fn seek(&mut self, log: &Log, to: Start) {
        self.position = Position::new(log, &self.config.filters, to);
        self.started_after = self.position.next() - 1;
        self.delivered = 0;
        self.epoch += 1;
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

    pub(super) fn matches(&self, subject: &str) -> bool {
        self.position.matches(subject)
    }

    /// Hands out up to `max` deliveries: what comes again first, then what is new.
    pub(super) fn take(&mut self, log: &Log, max: usize, now: Now) -> Vec<RawDelivery> {
        self.expire(now.instant);
        let (first_due, mut taken) = (self.first_due(), Vec::new());
        if self.pause_left(now).is_some() {
            return taken;
        }
        while taken.len() < max
            && let Some(sequence) = self.ready.pop_first()
        {
            let attempts = self.unsettled.remove(&sequence).map_or(0, |before| before.attempt);
            if let Some(message) = log.get(sequence) {
                taken.push(self.deliver(message, attempts.saturating_add(1), now));
            }
        }
        while taken.len() < max
            && !self.is_at_limit()
            && let Some(message) = self.position.advance(log)
        {
            taken.push(self.deliver(message, 1, now));
        }
        // Another fetch may sleep until a later moment than the first lease that runs now.
        if self.first_due() != first_due {
            self.woken.notify_waiters();
        }
        taken
    }

    fn deliver(&mut self, message: &StoredMessage, attempt: u32, now: Now) -> RawDelivery {
        let (sequence, due) = (message.sequence, now.after(self.config.ack_wait));
        self.unsettled.insert(sequence, Unsettled { attempt, due, phase: Phase::Leased });
        self.due.insert((due, sequence));
        self.delivered = self.delivered.max(sequence);
        let token = token(sequence, attempt, self.epoch);
        RawDelivery { message: message.clone(), attempt, expires: due, token }
    }

    /// Moves what is due to `ready`, or ends it where its attempts are used up.
    fn expire(&mut self, now: Instant) {
        while let Some(&(due, sequence)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            let Some(unsettled) = self.unsettled.get_mut(&sequence) else { continue };
            if self.config.max_attempts.is_some_and(|max| unsettled.attempt >= max) {
                self.unsettled.remove(&sequence);
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
        if let Some(done) = self.unsettled.remove(&sequence) {
            self.due.remove(&(done.due, sequence));
            self.ready.remove(&sequence);
        }
        if was_at_limit {
            self.woken.notify_waiters();
        }
        Settled::Done
    }

    fn postpone(&mut self, sequence: u64, phase: Phase, delay: Duration, now: Now) -> Settled {
        if let Some(unsettled) = self.unsettled.get_mut(&sequence) {
            self.due.remove(&(unsettled.due, sequence));
            self.ready.remove(&sequence);
            (unsettled.due, unsettled.phase) = (now.after(delay), phase);
            self.due.insert((unsettled.due, sequence));
        }
        self.woken.notify_waiters();
        Settled::Open
    }

    fn is_at_limit(&self) -> bool {
        self.unsettled.len() >= self.config.max_unsettled as usize
    }

    /// When the next lease ends or the next delay is over.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn info(&mut self, log: &Log, now: Now) -> ConsumerInfo {
        self.expire(now.instant);
        let floor = self.delivered.max(self.started_after);
        ConsumerInfo {
            config: self.config.clone(),
            created: self.created,
            pending: self.position.remaining(log),
            unsettled: self.unsettled.len() as u64,
            delivered_sequence: self.delivered,
            settled_sequence: self.unsettled.keys().next().map_or(floor, |first| first - 1),
            paused_until: self.pause_left(now).and(self.paused_until),
        }
    }
}

/// `<sequence>.<attempt>.<epoch>`
fn token(sequence: u64, attempt: u32, epoch: u32) -> LeaseToken {
    let mut text = [0_u8; 48];
    let mut rest = &mut text[..];
    // Twice 10 digits, 20 and two dots always fit.
    let _ = write!(rest, "{sequence}.{attempt}.{epoch}");
    let unused = rest.len();
    let written = text.get(..text.len() - unused).unwrap_or_default();
    LeaseToken::from(std::str::from_utf8(written).unwrap_or_default())
}

fn read_token(token: &LeaseToken) -> Result<(u64, u32, u32)> {
    let read = || {
        let (sequence, rest) = token.as_str().split_once('.')?;
        let (attempt, epoch) = rest.split_once('.')?;
        Some((sequence.parse().ok()?, attempt.parse().ok()?, epoch.parse().ok()?))
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
