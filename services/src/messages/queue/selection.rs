//! Choosing a batch: whose turn it is, and how much of it.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::store::journal::{Behind, Group, KeyHash, Open};

/// What a session knows of one key of a lane.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// What was handed out and is not settled.
    pub(super) open: BTreeSet<u64>,
    /// What was read and never handed out; all of it after everything that is open, unless an
    /// event that was given up came back.
    pub(super) pending: BTreeSet<u64>,
    /// Its place among those that are ready.
    pub(super) turn: Option<u64>,
    /// When it may become ready by itself.
    pub(super) due: Option<Instant>,
    /// Part of a batch that is being written down.
    pub(super) is_taken: bool,
    /// What it has behind is being read again; until then nothing of it goes.
    pub(super) is_recovering: bool,
}

impl Line {
    /// Everything of the key that is unsettled, as far as it was read.
    pub(super) fn len(&self) -> usize {
        self.open.len() + self.pending.len()
    }

    /// The first of them.
    pub(super) fn first(&self) -> Option<u64> {
        self.all().next()
    }

    fn all(&self) -> impl Iterator<Item = u64> {
        self.open.iter().chain(&self.pending).copied()
    }

    /// True when the line says nothing any more.
    pub(super) fn is_idle(&self) -> bool {
        self.len() == 0 && !self.is_taken && !self.is_recovering
    }

    /// What of the key stays at or below `head` when `selected` goes.
    pub(super) fn behind(&self, head: u64, selected: &BTreeSet<u64>) -> Option<Behind> {
        let first = self.pending.iter().find(|sequence| !selected.contains(sequence)).copied()?;
        if first > head {
            return None;
        }
        // What goes is a prefix of what is pending.
        let is_all_below = self.pending.last().is_some_and(|last| *last <= head);
        let below = match is_all_below {
            true => self.pending.len(),
            false => self.pending.range(..=head).count(),
        };
        let going = selected.iter().filter(|sequence| self.pending.contains(sequence)).count();
        Some(Behind { first, count: (below - going) as u64 })
    }
}

/// What a batch may hold.
#[derive(Debug, Clone, Copy)]
pub(in crate::messages) struct Select {
    pub(in crate::messages) max: usize,
    pub(in crate::messages) max_per_key: usize,
    /// Of events; the first goes whatever its size.
    pub(in crate::messages) max_bytes: usize,
}

/// What was chosen of one lane.
#[derive(Debug)]
pub(super) struct Selection {
    want: Select,
    /// How many more the journal can take that it has not open yet.
    room: usize,
    /// Where the journal's head has to be kept down: it, and how many keys may still go beyond it.
    crowded: Option<(u64, usize)>,
    bytes: usize,
    pub(super) count: usize,
    /// In the order in which the keys became ready: how much of each goes.
    keys: Vec<(KeyHash, usize)>,
    /// First of their keys, and spent: to be given up, so that the key goes on.
    pub(super) give_up: Vec<(u64, Open)>,
}

impl Selection {
    pub(super) fn new(want: Select, room: usize) -> Self {
        let (keys, give_up) = (Vec::new(), Vec::new());
        Self { want, room, crowded: None, bytes: 0, count: 0, keys, give_up }
    }

    /// Takes no more than `room` keys beyond the head, which have to come lowest first, and no key's
    /// events beyond those: what was read and does not go then lies above the new head.
    pub(super) fn keep_head_down(&mut self, head: u64, room: usize) {
        self.crowded = Some((head, room));
    }

    /// True where the head has to be kept down.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.is_some()
    }

    /// Of what was never handed out; the sizes of the rest are not known before it is loaded.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= self.want.max || self.bytes >= self.want.max_bytes
    }

    /// Takes the first event of a key; false if it does not fit. `fresh` gives the size of what was
    /// never handed out.
    pub(super) fn begin(
        &mut self,
        key: KeyHash,
        line: &Line,
        fresh: impl Fn(&u64) -> Option<usize>,
    ) -> bool {
        let Some(first) = line.first() else { return false };
        let beyond = self.crowded.filter(|(head, _)| first > *head);
        if beyond.is_some_and(|(_, room)| room == 0) {
            return false;
        }
        let fits = self.fits(fresh(&first));
        if fits {
            self.keys.push((key, 1));
        }
        if beyond.is_some() {
            // One that does not fit is passed by as soon as a later one goes: none does.
            let room = beyond.map_or(0, |(_, room)| room - 1);
            self.crowded = Some(if fits { (first, room) } else { (first - 1, 0) });
        }
        fits
    }

    /// Takes further events of the same keys, one of each in turn.
    pub(super) fn fill(
        &mut self,
        lines: &BTreeMap<KeyHash, Line>,
        fresh: impl Fn(&u64) -> Option<usize>,
    ) {
        let per_key = self.want.max_per_key;
        let mut rest: Vec<_> = self
            .keys
            .iter()
            .enumerate()
            .filter_map(|(at, (key, _))| Some((at, lines.get(key)?.all().skip(1))))
            .collect();
        while !rest.is_empty() && !self.is_full() {
            let mut next = Vec::with_capacity(rest.len());
            for (at, mut more) in rest {
                let taken = self.keys.get(at).map_or(per_key, |(_, taken)| *taken);
                let may_go = |sequence: &u64| {
                    taken < per_key && self.crowded.is_none_or(|(head, _)| *sequence <= head)
                };
                let Some(sequence) = more.next().filter(may_go) else { continue };
                if self.is_full() || !self.fits(fresh(&sequence)) {
                    continue;
                }
                if let Some((_, taken)) = self.keys.get_mut(at) {
                    *taken += 1;
                }
                next.push((at, more));
            }
            rest = next;
        }
    }

    fn fits(&mut self, fresh: Option<usize>) -> bool {
        let bytes = fresh.unwrap_or(0);
        let has_room = fresh.is_none() || self.room > 0;
        let fits = has_room && (self.count == 0 || self.bytes + bytes <= self.want.max_bytes);
        if fits {
            self.count += 1;
            self.bytes += bytes;
            self.room -= usize::from(fresh.is_some());
        }
        fits
    }

    /// The keys that were chosen or are to be given up.
    pub(super) fn keys(&self) -> impl Iterator<Item = KeyHash> {
        let given_up = self.give_up.iter().map(|(_, open)| open.key);
        self.keys.iter().map(|(key, _)| *key).chain(given_up)
    }

    /// What goes, key by key, for the journal.
    pub(super) fn groups(
        &self,
        lines: &BTreeMap<KeyHash, Line>,
        open: impl Fn(u64) -> Option<Open>,
    ) -> Vec<Group> {
        let group = |(key, taken): &(KeyHash, usize)| {
            let line = lines.get(key)?;
            let known = |sequence: &u64| Some((*sequence, open(*sequence)?));
            let again: Vec<_> = line.open.iter().take(*taken).filter_map(known).collect();
            let rest = line.open.iter().skip(*taken).filter_map(known).collect();
            let fresh = taken - again.len();
            let fresh = line.pending.iter().take(fresh).copied().collect();
            Some(Group { key: *key, again, rest, fresh })
        };
        self.keys.iter().filter_map(group).collect()
    }
}
