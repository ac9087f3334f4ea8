//! Handing out by the journal: a batch is written down before it leaves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Behind, Journal, KeyHash, Open, Stamp, State};

/// What of one key is to be handed out at once: its run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) key: KeyHash,
    /// To be handed out again, lowest first, as the owner knows it.
    pub(crate) again: Vec<(u64, Open)>,
    /// What else the key has open behind that, as the owner knows it.
    pub(crate) rest: Vec<(u64, Open)>,
    /// Never handed out before; nothing as long as there is a rest.
    pub(crate) fresh: Vec<u64>,
}

/// What a batch left behind, for the journal to say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Taken {
    /// What tells this batch from others, and the one before it as far as its owner knows.
    pub(crate) batch: u64,
    pub(crate) after: u64,
    pub(crate) head: u64,
    pub(crate) stamp: Stamp,
    /// What keys have left at or below the new head.
    pub(crate) behind: BTreeMap<KeyHash, Behind>,
}

/// Another owner has handed out since: what this one knows of the lane is outdated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superseded;

impl Journal {
    /// Writes down that the groups are handed out. Those whose key has changed under the owner,
    /// because a replica settled or extended something meanwhile, are left out; returns the keys
    /// that went.
    pub(crate) fn hand_out(
        &mut self,
        groups: &[Group],
        taken: &Taken,
    ) -> Result<BTreeSet<KeyHash>, Superseded> {
        if self.batch != taken.after {
            return Err(Superseded);
        }
        self.batch = taken.batch;
        let of_key = self.by_key();
        let none = BTreeSet::new();
        let mut went = BTreeSet::new();
        let mut behind = taken.behind.clone();
        for group in groups {
            let open = of_key.get(&group.key).unwrap_or(&none);
            if self.stands(group, open) {
                self.take(group);
                went.insert(group.key);
            } else if let Some(first) = group.fresh.first() {
                // Its fresh events stay behind, in front of those the owner left there itself.
                let left = behind.get(&group.key).map_or(0, |behind| behind.count);
                let count = left + group.fresh.len() as u64;
                behind.insert(group.key, Behind { first: *first, count });
            }
        }
        (self.head, self.stamp, self.behind) = (taken.head, taken.stamp, behind);
        Ok(went)
    }

    /// True when everything that the key has open is as the owner knows it.
    fn stands(&self, group: &Group, open: &BTreeSet<u64>) -> bool {
        let known = || group.again.iter().chain(&group.rest);
        open.iter().eq(known().map(|(sequence, _)| sequence))
            && known().all(|(sequence, known)| self.open.get(sequence) == Some(known))
    }

    fn take(&mut self, group: &Group) {
        let mut is_first = true;
        for (sequence, known) in &group.again {
            // A lease that ended counts against the first of its run, and against it alone.
            let failed = u32::from(is_first && known.state == State::Out);
            is_first = false;
            let (attempt, failures) = (known.attempt + 1, known.failures + failed);
            let open = Open { key: group.key, attempt, failures, renewed: 0, state: State::Out };
            self.open.insert(*sequence, open);
        }
        // Of a lease that ended, what is not handed out again now waits for its turn.
        for (sequence, known) in &group.rest {
            if known.state == State::Out {
                self.open.insert(*sequence, Open { state: State::Back, ..known.clone() });
            }
        }
        for sequence in &group.fresh {
            let open =
                Open { key: group.key, attempt: 1, failures: 0, renewed: 0, state: State::Out };
            self.open.insert(*sequence, open);
        }
    }

    /// Takes back deliveries that never reached their client: they count as not handed out.
    pub(crate) fn unsend(&mut self, sent: &[(u64, u32)]) {
        for (sequence, attempt) in sent {
            if let Some(open) = self.open.get_mut(sequence)
                && open.attempt == *attempt
                && open.state == State::Out
            {
                (open.attempt, open.state) = (open.attempt.saturating_sub(1), State::Back);
            }
        }
    }
}
