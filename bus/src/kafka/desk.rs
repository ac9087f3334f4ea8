//! What one member of a consumer's group has: its partitions, what it took from them, and who
//! works on what. Changed under one lock by those who fetch and settle and by the thread that
//! polls; nothing here waits.

mod held;
mod intake;
mod part;
mod retried;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use self::part::{Assigned, position};
pub(super) use self::part::{Copy, Part, Polled, Position, Room, Settled, Standing, size};
use self::retried::Retried;
use super::lease::{Leased, Leases, Limits};
use super::token::{Slot, Token, stale};
use super::watermark::Watermark;
use crate::driver::{LeaseToken, RawDelivery, Settlement};
use crate::error::Result;

/// Nothing more is taken once so many bytes wait, over all partitions.
const WAITING_BYTES: usize = 32 << 20;
/// At most this many messages rest here; then those that rest longest are copied to the end of
/// the retry topic, to make room for what may be due sooner.
const RESTING: usize = 4096;
/// How many messages a partition is served for before it is another's turn.
const TURN: usize = 16;

#[derive(Debug)]
pub(super) struct Desk {
    /// Names the member in its tokens.
    member: Arc<str>,
    generation: u64,
    parts: BTreeMap<Part, Assigned>,
    leases: Leases,
    /// Retries that were copied and did not come back yet, with their sequence.
    copies: BTreeMap<Slot, u64>,
    /// Where those were that were copied for a retry.
    retried: Retried,
    waiting_bytes: usize,
    /// The partition that was served last.
    served: Part,
    delivered: u64,
    pub(super) paused_until: Option<Instant>,
}

impl Desk {
    pub(super) fn new(member: Arc<str>, limits: Limits) -> Self {
        Self {
            member,
            generation: 0,
            parts: BTreeMap::new(),
            leases: Leases::new(limits),
            copies: BTreeMap::new(),
            retried: Retried::default(),
            waiting_bytes: 0,
            served: (true, i32::MAX),
            delivered: 0,
            paused_until: None,
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.leases.limits = limits;
    }

    /// Takes over a partition where its last owner left it.
    pub(super) fn assign(&mut self, part: Part, watermark: Watermark) {
        self.generation += 1;
        let assigned = Assigned {
            assignment: self.generation,
            generation: self.generation,
            log: watermark.committed(),
            watermark,
            waiting: VecDeque::new(),
            early: VecDeque::new(),
            dirty: false,
            leaving: false,
            denied: false,
        };
        self.parts.insert(part, assigned);
    }

    /// Delivers nothing more of these partitions.
    pub(super) fn leave(&mut self, parts: &[Part]) {
        for part in parts {
            if let Some(assigned) = self.parts.get_mut(part) {
                assigned.leaving = true;
                self.waiting_bytes -= assigned.waiting.drain(..).map(|r| size(&r)).sum::<usize>();
                assigned.early.clear();
            }
        }
    }

    /// Gives partitions up: every lease on their messages is over.
    pub(super) fn revoke(&mut self, parts: &[Part]) {
        self.leave(parts);
        let gone = |slot: Slot| parts.contains(&(slot.retry, slot.partition));
        self.parts.retain(|part, _| !parts.contains(part));
        self.leases.retain(|slot| !gone(slot));
        self.copies.retain(|slot, _| !gone(*slot));
        self.retried.retain(|slot| !gone(slot));
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        self.parts.keys().copied().collect()
    }

    /// Each partition with the number of its assignment, and how many messages may be taken from
    /// its log now, where so many were `taken` and are not here yet. Whoever gets 0 is told by
    /// [`Desk::is_worth_waking`] when to ask again.
    pub(super) fn rooms(&mut self, taken: usize) -> Vec<Room> {
        let crowded = self.is_crowded();
        let room = |(part, assigned): (&Part, &mut Assigned)| {
            let (part, assignment) = (*part, assigned.assignment);
            Room { part, assignment, messages: assigned.room(crowded, taken) }
        };
        self.parts.iter_mut().map(room).collect()
    }

    /// True when nothing new is delivered before something is settled.
    pub(super) fn is_full(&self) -> bool {
        !self.leases.has_room()
    }

    /// True while someone works on a message of these partitions.
    pub(super) fn any_out(&self, parts: &[Part]) -> bool {
        self.leases.any_out(|slot| parts.contains(&(slot.retry, slot.partition)))
    }

    /// True, once, when there is much room in a partition where there was none.
    pub(super) fn is_worth_waking(&mut self) -> bool {
        let waits = |assigned: &&mut Assigned| assigned.denied && assigned.has_much_room();
        if self.is_crowded() {
            return false;
        }
        let waiting = self.parts.values_mut().find(waits);
        waiting.map(|assigned| assigned.denied = false).is_some()
    }

    fn is_crowded(&self) -> bool {
        self.waiting_bytes >= WAITING_BYTES || self.leases.resting() >= RESTING
    }

    /// Hands out up to `max` deliveries: what comes again first, then what is new.
    pub(super) fn take(&mut self, max: usize, now: Instant) -> Vec<RawDelivery> {
        self.expire(now);
        let waiting: usize = self.parts.values().map(|assigned| assigned.waiting.len()).sum();
        let mut taken = Vec::with_capacity(max.min(waiting));
        if self.paused_until.is_some_and(|until| until > now) {
            return taken;
        }
        while taken.len() < max
            && let Some(leased) = self.leases.lease_ready(now)
        {
            self.delivered = self.delivered.max(leased.message.sequence);
            taken.push(deliver(&self.member, self.generation_of(leased.slot), leased));
        }
        while taken.len() < max
            && self.leases.has_room()
            && let Some(part) = self.next_part()
        {
            self.take_of(part, max, now, &mut taken);
        }
        taken
    }

    /// The partition whose turn it is, of those where messages wait.
    fn next_part(&mut self) -> Option<Part> {
        let after = (std::ops::Bound::Excluded(self.served), std::ops::Bound::Unbounded);
        let waits =
            |(part, assigned): (&Part, &Assigned)| (!assigned.waiting.is_empty()).then_some(*part);
        let part = self
            .parts
            .range(after)
            .find_map(waits)
            .or_else(|| self.parts.iter().find_map(waits))?;
        self.served = part;
        Some(part)
    }

    /// One turn of a partition.
    fn take_of(&mut self, part: Part, max: usize, now: Instant, taken: &mut Vec<RawDelivery>) {
        let Some(assigned) = self.parts.get_mut(&part) else { return };
        let many = TURN.min(max - taken.len()).min(self.leases.room());
        for record in assigned.waiting.drain(..many.min(assigned.waiting.len())) {
            self.waiting_bytes -= size(&record);
            self.delivered = self.delivered.max(record.message.sequence);
            let leased = self.leases.lease(record, now);
            taken.push(deliver(&self.member, assigned.generation, leased));
        }
    }

    fn generation_of(&self, slot: Slot) -> u64 {
        let assigned = self.parts.get(&(slot.retry, slot.partition));
        assigned.map_or(0, |assigned| assigned.generation)
    }

    /// Ends what is due.
    pub(super) fn expire(&mut self, now: Instant) {
        for slot in self.leases.expire(now) {
            tracing::warn!(?slot, "given up: delivered as often as it may be");
            self.finish(slot);
        }
    }

    /// Settles what `token` names, or says what it takes.
    pub(super) fn settle(
        &mut self,
        token: &LeaseToken,
        how: &Settlement,
        now: Instant,
    ) -> Result<Settled> {
        self.expire(now);
        let (slot, attempt, generation) = match how {
            Settlement::Ack => return self.ack(token),
            _ => self.find(token)?,
        };
        if !self.leases.holds(slot, attempt) {
            return Err(stale(token));
        }
        match how {
            Settlement::Extend => {
                self.leases.extend(slot, now);
                return Ok(Settled::Open);
            }
            Settlement::Retry(delay) if !self.leases.is_last(attempt) => {
                let message = self.leases.copy(slot).ok_or_else(|| stale(token))?;
                let (attempts, delay) = (attempt, *delay);
                return Ok(Settled::Copy(Copy { slot, generation, message, attempts, delay }));
            }
            Settlement::Retry(_) | Settlement::Ack | Settlement::Reject(_) => self.finish(slot),
        }
        Ok(Settled::Done((slot.retry, slot.partition), generation))
    }

    /// Acks what `token` names. A lease that is over by the clock counts as long as nobody has
    /// looked at it since.
    pub(super) fn ack(&mut self, token: &LeaseToken) -> Result<Settled> {
        let (slot, attempt, generation) = self.find(token)?;
        let part = (slot.retry, slot.partition);
        if self.leases.finish_held(slot, attempt) {
            self.settled(slot);
            return Ok(Settled::Done(part, generation));
        }
        let assigned = self.parts.get(&part);
        let settled = assigned.is_some_and(|assigned| assigned.watermark.is_settled(slot.offset));
        if settled && !self.retried.has(slot) {
            return Ok(Settled::Already(part, generation));
        }
        Err(stale(token))
    }

    /// The message of a token of this member, as long as its partition is here.
    fn find(&self, token: &LeaseToken) -> Result<(Slot, u32, u64)> {
        let Token { member, generation, slot, attempt } = Token::read(token)?;
        if *member != *self.member || generation != self.generation_of(slot) {
            return Err(stale(token));
        }
        Ok((slot, attempt, generation))
    }

    /// Forgets a message and settles its offset.
    pub(super) fn finish(&mut self, slot: Slot) {
        self.leases.finish(slot);
        self.settled(slot);
    }

    fn settled(&mut self, slot: Slot) {
        if let Some(assigned) = self.parts.get_mut(&(slot.retry, slot.partition)) {
            assigned.dirty |= assigned.watermark.settle(slot.offset);
        }
    }

    /// What was settled since it was asked for last.
    pub(super) fn unsaved(&mut self) -> Vec<Position> {
        let dirty = self.parts.iter_mut().filter(|(_, assigned)| assigned.dirty);
        let positions = dirty.map(|(part, assigned)| {
            assigned.dirty = false;
            position(*part, assigned.generation, &assigned.watermark)
        });
        positions.collect()
    }

    /// Takes all of it for unsaved, so that it is committed again: brokers forget a position that
    /// nobody has committed for long.
    pub(super) fn unsave(&mut self) {
        self.parts.values_mut().for_each(|assigned| assigned.dirty = true);
    }

    /// A commit of these failed: they are unsaved as before.
    pub(super) fn not_saved(&mut self, positions: &[Position]) {
        for Position { part, generation, .. } in positions {
            if let Some(assigned) = self.parts.get_mut(part) {
                assigned.dirty |= assigned.generation == *generation;
            }
        }
    }

    /// True while the partition has not gone since it came the `assignment`th time.
    pub(super) fn is_assigned(&self, part: Part, assignment: u64) -> bool {
        self.parts.get(&part).is_some_and(|assigned| assigned.assignment == assignment)
    }

    /// True while this generation of the partition goes on.
    pub(super) fn owns(&self, part: Part, generation: u64) -> bool {
        self.parts.get(&part).is_some_and(|assigned| assigned.generation == generation)
    }

    /// When something may be delivered that may not now, if nothing else happens.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.paused_until.into_iter().chain(self.leases.first_due()).min()
    }

    /// Where each partition stands.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let standing = |(part, assigned): (&Part, &Assigned)| Standing {
            part: *part,
            settled: assigned.watermark.committed(),
            next: assigned.watermark.next(),
            waiting: (assigned.waiting.len() + assigned.early.len()) as u64,
        };
        self.parts.iter().map(standing).collect()
    }

    /// What was delivered and is not settled, with retries that rest: how many, and the lowest
    /// sequence among them.
    pub(super) fn unsettled(&self) -> (u64, Option<u64>) {
        let (count, lowest) = self.leases.unsettled();
        let lowest = lowest.into_iter().chain(self.copies.values().copied()).min();
        (count + self.copies.len() as u64, lowest)
    }

    /// The highest sequence that was delivered.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }
}

fn deliver(member: &Arc<str>, generation: u64, leased: Leased) -> RawDelivery {
    let Leased { slot, message, attempt, expires } = leased;
    let token = Token::write(member.clone(), generation, slot, attempt);
    RawDelivery { message, attempt, expires, token }
}

#[cfg(test)]
mod tests;
