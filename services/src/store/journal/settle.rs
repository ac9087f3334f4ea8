//! Settling by the journal: what a client's word on a delivery does to it.
//!
//! What of a key is out at once is a **run**: a prefix of what the key has unsettled, in order,
//! with one client. Acks follow the order of the run; a nack takes back its event and all after
//! it; an extension renews the whole run.

use std::collections::{BTreeMap, BTreeSet};

use super::{Journal, KeyHash, Open, State};

/// What a client asks for one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Done.
    Ack,
    /// Hand it out again, not before this many milliseconds from now.
    Nack {
        /// The delay.
        delay_ms: u64,
    },
    /// Give it up: never hand it out again. The rest of its run stays with the client.
    Reject,
    /// Give it up, and take back what follows it in its run: a nack that was the last.
    Abandon,
    /// Still at work: start the run's lease anew.
    Extend,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Recorded, now or before.
    Done,
    /// The delivery is over: its event was or will be handed out again, or is settled.
    Stale,
    /// An event of the same key that was handed out before this one is not settled yet.
    Early,
}

impl Journal {
    /// Applies what a client says of deliveries, each a sequence and the attempt it speaks of. The
    /// order in which they are given does not matter: those of a run are taken by sequence, so
    /// that one request may settle a whole run. One answer for each, in the order given.
    pub(crate) fn settle(&mut self, said: &[(u64, u32, Wish)]) -> Vec<Answer> {
        let mut order: Vec<usize> = (0..said.len()).collect();
        order.sort_by_key(|at| said.get(*at).map(|(sequence, ..)| *sequence));
        let mut keys = self.by_key();
        let mut answers = vec![Answer::Stale; said.len()];
        for at in order {
            let Some((sequence, attempt, wish)) = said.get(at).copied() else { continue };
            if let Some(answer) = answers.get_mut(at) {
                *answer = self.settle_one(sequence, attempt, wish, &mut keys);
            }
        }
        answers
    }

    fn settle_one(
        &mut self,
        sequence: u64,
        attempt: u32,
        wish: Wish,
        keys: &mut BTreeMap<KeyHash, BTreeSet<u64>>,
    ) -> Answer {
        let Some(open) = self.open.get(&sequence) else {
            // An ack and a rejection mean the same from then on: it does not come again.
            let is_final = matches!(wish, Wish::Ack | Wish::Reject | Wish::Abandon);
            let is_repeated = is_final && sequence <= self.head;
            return if is_repeated { Answer::Done } else { Answer::Stale };
        };
        if open.attempt != attempt {
            return Answer::Stale;
        }
        let key = open.key;
        if open.state != State::Out {
            let is_repeated = matches!((wish, open.state), (Wish::Nack { .. }, State::Delayed(_)));
            return if is_repeated { Answer::Done } else { Answer::Stale };
        }
        let of_key = keys.entry(key).or_default();
        match wish {
            Wish::Ack | Wish::Reject | Wish::Abandon if !self.is_first_out(sequence, of_key) => {
                Answer::Early
            }
            Wish::Ack | Wish::Reject => {
                of_key.remove(&sequence);
                self.open.remove(&sequence);
                Answer::Done
            }
            Wish::Abandon => {
                self.take_back(sequence, 0, of_key);
                of_key.remove(&sequence);
                self.open.remove(&sequence);
                Answer::Done
            }
            Wish::Nack { delay_ms } => {
                self.take_back(sequence, delay_ms, of_key);
                Answer::Done
            }
            Wish::Extend => {
                self.of_run(of_key.iter(), |open| open.renewed += 1);
                Answer::Done
            }
        }
    }

    /// True when nothing of the key that is out comes before. What is not out, because it was given
    /// up once and redriven, is not the client's to settle first.
    fn is_first_out(&self, sequence: u64, of_key: &BTreeSet<u64>) -> bool {
        let is_out = |before: &u64| self.open.get(before).is_some_and(Open::is_out);
        !of_key.range(..sequence).any(is_out)
    }

    fn take_back(&mut self, sequence: u64, delay_ms: u64, of_key: &BTreeSet<u64>) {
        self.of_run(of_key.range(sequence + 1..), |open| open.state = State::Back);
        if let Some(open) = self.open.get_mut(&sequence) {
            open.failures += 1;
            open.state = State::Delayed(delay_ms);
        }
    }

    fn of_run<'a>(&mut self, run: impl Iterator<Item = &'a u64>, change: impl Fn(&mut Open)) {
        for sequence in run {
            if let Some(open) = self.open.get_mut(sequence)
                && open.is_out()
            {
                change(open);
            }
        }
    }

    /// How often the event has failed, if this delivery is the first of its run: the one of its key
    /// that may be given up now.
    pub(crate) fn failures_of_first(&self, sequence: u64, attempt: u32) -> Option<u32> {
        let open = self.open.get(&sequence)?;
        let mut before = self.open.range(..sequence).map(|(_, before)| before);
        let is_first = before.all(|before| before.key != open.key || !before.is_out());
        (is_first && open.attempt == attempt && open.is_out()).then_some(open.failures)
    }

    /// Settles an event that was given up, whatever it is at, if it still stands as `seen`.
    /// Returns false, and changes nothing, if it does not.
    pub(crate) fn give_up(&mut self, sequence: u64, seen: &Open) -> bool {
        let stands = self.open.get(&sequence) == Some(seen);
        if stands {
            self.open.remove(&sequence);
        }
        stands
    }

    /// Opens an event again that was given up: it is handed out before everything of its key that
    /// was not handed out yet. Nothing changes if it is open.
    pub(crate) fn redrive(&mut self, sequence: u64, key: KeyHash, attempt: u32) {
        let state = State::Back;
        let open = Open { key, attempt, failures: 0, renewed: 0, state };
        self.open.entry(sequence).or_insert(open);
    }
}
