//! Leases that do not end for a while: of messages that are copied to the retry topic, and of a
//! unit's inputs.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::part::position;
use super::{Copy, Desk, Part, Position, RESTING};
use crate::driver::LeaseToken;
use crate::error::Result;
use crate::kafka::lease::Record;
use crate::kafka::token::{Slot, stale};

impl Desk {
    /// The retry topic holds the copy, at `to` where that is known: the source is settled. False
    /// where its partition was given up meanwhile, and it is delivered again.
    pub(in crate::kafka) fn copied(&mut self, copy: &Copy, to: Slot) -> bool {
        if self.generation_of(copy.slot) != copy.generation {
            return false;
        }
        let target = self.parts.get(&(to.retry, to.partition));
        if target.is_some_and(|target| target.watermark.next() <= to.offset) {
            self.copies.insert(to, copy.message.sequence);
        }
        self.finish(copy.slot);
        self.retried.add(copy.slot);
        true
    }

    pub(in crate::kafka) fn not_copied(&mut self, copy: &Copy) {
        if self.generation_of(copy.slot) == copy.generation {
            self.leases.not_copied(copy.slot);
        }
    }

    /// What is to be copied to the end of the retry topic, because it rests where it is in the
    /// way: up to `max` messages.
    pub(in crate::kafka) fn in_the_way(&mut self, max: usize, now: Instant) -> Vec<Copy> {
        let stuck = self.parts.values().any(|assigned| !assigned.early.is_empty());
        if !stuck && self.leases.resting() < RESTING {
            return Vec::new();
        }
        let rests = self.leases.longest_rests(max);
        let copies = rests.into_iter().map(|Record { slot, message, attempts, due }| {
            self.leases.copy(slot);
            let delay = due.unwrap_or(now).saturating_duration_since(now);
            Copy { slot, generation: self.generation_of(slot), message, attempts, delay }
        });
        copies.collect()
    }

    /// Keeps these leases from ending until they are settled or released, for a unit; all of them,
    /// or none and an error.
    pub(in crate::kafka) fn hold(
        &mut self,
        tokens: &[LeaseToken],
        now: Instant,
    ) -> Result<Vec<Slot>> {
        self.expire(now);
        let mut slots = Vec::with_capacity(tokens.len());
        for token in tokens {
            let (slot, attempt, _) = self.find(token)?;
            if !self.leases.holds(slot, attempt) {
                return Err(stale(token));
            }
            slots.push(slot);
        }
        for slot in &slots {
            self.leases.copy(*slot);
        }
        Ok(slots)
    }

    /// Lets a lease that was held go on where it was.
    pub(in crate::kafka) fn release(&mut self, slot: Slot) {
        self.leases.not_copied(slot);
    }

    /// Where the partitions of these messages will stand when they are settled.
    pub(in crate::kafka) fn positions_with(&self, slots: &[Slot]) -> Vec<Position> {
        let parts: BTreeSet<Part> = slots.iter().map(|s| (s.retry, s.partition)).collect();
        let settled = parts.into_iter().filter_map(|part| {
            let assigned = self.parts.get(&part)?;
            let mut watermark = assigned.watermark.clone();
            for slot in slots.iter().filter(|slot| (slot.retry, slot.partition) == part) {
                watermark.settle(slot.offset);
            }
            Some(position(part, assigned.generation, &watermark))
        });
        settled.collect()
    }
}
