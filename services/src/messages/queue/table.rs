//! What a session knows of one lane, and what of it may be handed out now.
//!
//! ```text
//!            read                 hand_out                  ack, reject
//!   log ───────────► pending ───────────────────► out ───────────────────► settled
//!                                                  │ ▲
//!                             nack, lease over     │ │ hand_out, attempt + 1
//!                                                  ▼ │
//!                                          back or delayed
//! ```
//!
//! This is where order per key is kept (I3): what is out of a key is a prefix of what it has
//! unsettled, with one client, and nothing else of the key goes until all of that is settled or
//! has come back. `pending` is what this session has read; everything else is the journal's, which
//! [`Table::sync`] takes in, whoever wrote it. Leases are counted from then by this process'
//! own clock.
//!
//! The table is plain data without a clock: it is told everything, and never waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::selection::{Line, Select, Selection};
use crate::store::journal::{
    Behind, Group, Journal, KeyHash, MAX_BEHIND, MAX_OPEN, Open, Stamp, State, Taken,
};

/// Events that are read ahead of what was handed out: so many that cannot go keep those behind
/// them from being seen.
pub(super) const MAX_PENDING: usize = 200_000;
/// Bodies of pending events that are kept in memory; the others are read again when they go.
const MAX_BODY_BYTES: usize = 4 << 20;
/// Up to here those of keys that something is out of are kept too: they may have to wait for long.
const MAX_WAITING_BYTES: usize = MAX_BODY_BYTES / 2;

/// An event that was read.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) sequence: u64,
    pub(super) key: KeyHash,
    pub(super) stamp: Stamp,
    pub(super) body: Body,
}

/// What the client gets to see.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Body {
    /// The sequence in the realm's log.
    pub(super) sequence: u64,
    /// The event as JSON, encoded once.
    pub(super) event: Bytes,
}

/// An event that was never handed out.
#[derive(Debug)]
pub(super) struct Pending {
    stamp: Stamp,
    pub(super) len: usize,
    pub(super) body: Option<Body>,
}

/// What lies at or below the head and was never handed out, to be read again by who takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recovery {
    /// Read after this sequence.
    pub(super) after: u64,
    /// Up to this one.
    pub(super) up_to: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Table {
    /// Tells this table from others that were made of the same journal.
    owner: u64,
    /// How many batches it has made.
    batches: u64,
    journal: Arc<Journal>,
    ack_wait: Duration,
    max_attempts: Option<u32>,
    /// Everything up to here was read.
    read: u64,
    lines: BTreeMap<KeyHash, Line>,
    pending: BTreeMap<u64, Pending>,
    body_bytes: usize,
    /// Until when an open event is out, or delayed.
    leases: BTreeMap<u64, Instant>,
    ready: BTreeMap<u64, KeyHash>,
    turns: u64,
    due: BTreeSet<(Instant, KeyHash)>,
    recovery: Option<Recovery>,
}

impl Table {
    /// Begins at a journal. What is out counts as leased anew, at most for its full length.
    pub(super) fn new(
        owner: u64,
        journal: Arc<Journal>,
        ack_wait: Duration,
        max_attempts: Option<u32>,
        now: Instant,
    ) -> Self {
        let first_behind = journal.behind.values().map(|behind| behind.first).min();
        let recovery = first_behind.map(|first| Recovery { after: first - 1, up_to: journal.head });
        let mut table = Self {
            owner,
            batches: 0,
            journal: Arc::default(),
            ack_wait,
            max_attempts,
            read: journal.head,
            lines: BTreeMap::new(),
            pending: BTreeMap::new(),
            body_bytes: 0,
            leases: BTreeMap::new(),
            ready: BTreeMap::new(),
            turns: 0,
            due: BTreeSet::new(),
            recovery,
        };
        for key in journal.behind.keys() {
            table.lines.entry(*key).or_default().is_recovering = true;
        }
        table.take_over(journal, now);
        table
    }

    /// Takes in the journal as somebody wrote it. Returns false if another owner has handed out
    /// since: then the table must be made anew.
    pub(super) fn sync(&mut self, journal: Arc<Journal>, now: Instant) -> bool {
        if Arc::ptr_eq(&journal, &self.journal) {
            return true;
        }
        if journal.batch != self.journal.batch {
            return false;
        }
        self.take_over(journal, now);
        true
    }

    /// Takes in the journal that this session itself wrote.
    pub(super) fn handed_out(&mut self, journal: Arc<Journal>, now: Instant) {
        self.take_over(journal, now);
    }

    fn take_over(&mut self, journal: Arc<Journal>, now: Instant) {
        let before = std::mem::replace(&mut self.journal, journal.clone());
        let mut touched = BTreeSet::new();
        for (sequence, open) in &before.open {
            if !journal.open.contains_key(sequence) {
                self.leases.remove(sequence);
                self.lines.entry(open.key).or_default().open.remove(sequence);
                touched.insert(open.key);
            }
        }
        for (sequence, open) in &journal.open {
            if before.open.get(sequence) != Some(open) {
                self.opened(*sequence, open, now);
                touched.insert(open.key);
            }
        }
        touched.iter().for_each(|key| self.promote(*key, now));
    }

    fn opened(&mut self, sequence: u64, open: &Open, now: Instant) {
        let until = match open.state {
            State::Out => now + self.ack_wait,
            State::Back => now,
            State::Delayed(ms) => now + Duration::from_millis(ms),
        };
        self.leases.insert(sequence, until);
        let line = self.lines.entry(open.key).or_default();
        line.open.insert(sequence);
        line.pending.remove(&sequence);
        if let Some(Pending { body: Some(body), .. }) = self.pending.remove(&sequence) {
            self.body_bytes -= body.event.len();
        }
    }

    /// Takes in what follows on what was read.
    pub(super) fn arrived(&mut self, events: Vec<Arrived>, up_to: u64, now: Instant) {
        let read = self.read;
        for event in events.into_iter().filter(|event| event.sequence > read) {
            self.add(event, now);
        }
        self.read = self.read.max(up_to);
    }

    /// Takes in a part of what is recovered. `up_to` is how far that has come.
    pub(super) fn recovered(&mut self, events: Vec<Arrived>, up_to: u64, now: Instant) {
        let Some(last) = self.recovery.as_ref().map(|recovery| recovery.up_to) else { return };
        for event in events {
            let first = self.journal.behind.get(&event.key).map(|behind| behind.first);
            // A page may go on behind what is recovered: that was read, and perhaps handed out.
            let is_behind = first.is_some_and(|first| first <= event.sequence)
                && event.sequence <= last
                && !self.journal.open.contains_key(&event.sequence);
            if is_behind {
                self.add(event, now);
            }
        }
        let Some(recovery) = &mut self.recovery else { return };
        recovery.after = recovery.after.max(up_to);
        if recovery.after < recovery.up_to {
            return;
        }
        self.recovery = None;
        let keys: Vec<KeyHash> = self.journal.behind.keys().copied().collect();
        for key in keys {
            self.lines.entry(key).or_default().is_recovering = false;
            self.promote(key, now);
        }
    }

    fn add(&mut self, event: Arrived, now: Instant) {
        let Arrived { sequence, key, stamp, body } = event;
        let line = self.lines.entry(key).or_default();
        let len = body.event.len();
        let room = if line.open.is_empty() { MAX_BODY_BYTES } else { MAX_WAITING_BYTES };
        let keeps = self.body_bytes + len <= room;
        self.body_bytes += if keeps { len } else { 0 };
        line.pending.insert(sequence);
        self.pending.insert(sequence, Pending { stamp, len, body: keeps.then_some(body) });
        self.promote(key, now);
    }

    /// What tells it from others of the same lane.
    pub(super) fn owner(&self) -> u64 {
        self.owner
    }

    /// What is to be recovered yet.
    pub(super) fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// How far the lane was read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// The journal as last seen.
    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Makes ready what has come back by now.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((at, key)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            self.promote(key, now);
        }
    }

    /// When the next key may become ready by itself.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How many keys have something to hand out now.
    pub(super) fn ready_keys(&self) -> usize {
        self.ready.len()
    }

    /// How many events could be handed out now at `max_per_key`, counted up to `enough`.
    pub(super) fn ready_events(&self, max_per_key: usize, enough: usize) -> usize {
        let mut ready = 0;
        for key in self.ready.values() {
            let line = self.lines.get(key);
            ready += line.map_or(0, |line| line.len().min(max_per_key));
            if ready >= enough {
                break;
            }
        }
        ready
    }

    /// True when a client has something whose lease runs.
    pub(super) fn any_out(&self, now: Instant) -> bool {
        let is_out = |(sequence, open): (&u64, &Open)| {
            open.state == State::Out && self.leases.get(sequence).is_some_and(|until| *until > now)
        };
        self.journal.open.iter().any(is_out)
    }

    /// True when nothing more may be read before something is settled.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= MAX_PENDING || self.journal.open.len() >= MAX_OPEN
    }

    /// True when everything that was read is settled.
    pub(super) fn is_drained(&self) -> bool {
        self.pending.is_empty() && self.journal.is_drained()
    }

    /// Chooses what goes next, one of each key that is ready in turn, then more of the same keys,
    /// up to `want`. What is chosen is not chosen again before [`Table::release`].
    pub(super) fn select(&mut self, want: Select) -> Selection {
        let room = MAX_OPEN.saturating_sub(self.journal.open.len());
        let mut selection = Selection::new(want, room);
        // Whatever goes, so many keys cannot leave more behind than the journal may hold.
        if self.lines.len() > MAX_BEHIND {
            selection.keep_head_down(self.journal.head, self.room_behind());
        }
        for (turn, key) in self.candidates(selection.is_crowded()) {
            if selection.is_full() {
                break;
            }
            let Some(line) = self.lines.get_mut(&key) else { continue };
            let fresh = |sequence: &u64| self.pending.get(sequence).map(|event| event.len);
            match exhausted(&self.journal, line, self.max_attempts) {
                Some(spent) => selection.give_up.push(spent),
                // What is open already may still go where there is no room for more.
                None if !selection.begin(key, line, fresh) => continue,
                None => {}
            }
            self.ready.remove(&turn);
            line.turn = None;
            line.is_taken = true;
        }
        let fresh = |sequence: &u64| self.pending.get(sequence).map(|event| event.len);
        selection.fill(&self.lines, fresh);
        selection
    }

    /// The keys that are ready, in turn; the lowest first where the head has to be kept down.
    fn candidates(&self, lowest_first: bool) -> Vec<(u64, KeyHash)> {
        let mut candidates: Vec<(u64, KeyHash)> =
            self.ready.iter().map(|(turn, key)| (*turn, *key)).collect();
        if lowest_first {
            let first = |(_, key): &(u64, KeyHash)| self.lines.get(key).and_then(Line::first);
            candidates.sort_by_key(first);
        }
        candidates
    }

    /// How many more keys may be left behind when the head goes up: those that are out, or part of
    /// a batch, may be passed by.
    fn room_behind(&self) -> usize {
        let may_stay = |line: &&Line| line.turn.is_none() && !line.pending.is_empty();
        let known = |key: &KeyHash| self.journal.behind.contains_key(key);
        let passed = self.lines.iter().filter(|(key, line)| may_stay(line) && !known(key)).count();
        MAX_BEHIND.saturating_sub(self.journal.behind.len() + passed)
    }

    /// What of a selection goes, key by key, for the journal.
    pub(super) fn groups(&self, selection: &Selection) -> Vec<Group> {
        selection.groups(&self.lines, |sequence| self.journal.open.get(&sequence).cloned())
    }

    /// Ends a selection: its keys may be chosen again.
    pub(super) fn release(&mut self, keys: impl IntoIterator<Item = KeyHash>, now: Instant) {
        for key in keys {
            self.lines.entry(key).or_default().is_taken = false;
            self.promote(key, now);
        }
    }

    /// What an open event stands at in the journal.
    pub(super) fn open(&self, sequence: u64) -> Option<&Open> {
        self.journal.open.get(&sequence)
    }

    /// The body of a pending event, where it was kept.
    pub(super) fn body(&self, sequence: u64) -> Option<&Body> {
        self.pending.get(&sequence)?.body.as_ref()
    }

    /// What the journal is told about a batch, beside its groups.
    pub(super) fn taken(&mut self, selected: &BTreeMap<KeyHash, BTreeSet<u64>>) -> Taken {
        self.batches += 1;
        let (batch, after) = (self.owner.wrapping_add(self.batches), self.journal.batch);
        let before = self.journal.head;
        let newest = selected.values().filter_map(BTreeSet::last).max().copied().unwrap_or(0);
        let head = before.max(newest);
        let stamp = match self.pending.get(&head) {
            Some(event) if head > before => event.stamp,
            _ => self.journal.stamp,
        };
        let none = BTreeSet::new();
        let left = |(key, line): (&KeyHash, &Line)| {
            if line.is_recovering {
                // Not read again yet: as it stood. Newer ones of the key cannot have gone.
                let known = self.journal.behind.get(key).copied()?;
                let newer = line.pending.range(..=head).filter(|sequence| **sequence > before);
                let newer = newer.count() as u64;
                return Some((*key, Behind { count: known.count + newer, ..known }));
            }
            line.behind(head, selected.get(key).unwrap_or(&none)).map(|behind| (*key, behind))
        };
        let behind = self.lines.iter().filter_map(left).collect();
        Taken { batch, after, head, stamp, behind }
    }

    /// Looks anew whether a key may go.
    fn promote(&mut self, key: KeyHash, now: Instant) {
        let Some(line) = self.lines.get_mut(&key) else { return };
        if let Some(turn) = line.turn {
            self.ready.remove(&turn);
        }
        if let Some(at) = line.due.take() {
            self.due.remove(&(at, key));
        }
        let blocked = blocked_until(&self.journal, &self.leases, line).filter(|until| *until > now);
        if let Some(until) = blocked {
            line.turn = None;
            line.due = Some(until);
            self.due.insert((until, key));
        } else if line.is_taken || line.is_recovering || line.len() == 0 {
            line.turn = None;
            if line.is_idle() {
                self.lines.remove(&key);
            }
        } else {
            let turn = line.turn.unwrap_or_else(|| {
                self.turns += 1;
                self.turns
            });
            line.turn = Some(turn);
            self.ready.insert(turn, key);
        }
    }
}

/// Until when something of the key is out, or its first is delayed.
fn blocked_until(
    journal: &Journal,
    leases: &BTreeMap<u64, Instant>,
    line: &Line,
) -> Option<Instant> {
    let blocks = |(at, sequence): (usize, &u64)| match journal.open.get(sequence)?.state {
        State::Out => leases.get(sequence).copied(),
        State::Delayed(_) if at == 0 => leases.get(sequence).copied(),
        State::Delayed(_) | State::Back => None,
    };
    line.open.iter().enumerate().filter_map(blocks).max()
}

/// The first of a key, if it has failed so often that it is given up instead of handed out.
fn exhausted(journal: &Journal, line: &Line, max: Option<u32>) -> Option<(u64, Open)> {
    let first = line.open.first()?;
    let open = journal.open.get(first)?;
    // It is ready, so what was out has come back: its lease ended.
    let failures = open.failures + u32::from(open.state == State::Out);
    max.is_some_and(|max| failures >= max).then(|| (*first, open.clone()))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
