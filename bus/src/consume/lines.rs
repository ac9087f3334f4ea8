//! One line per key: whose turn it is.
//!
//! Pure bookkeeping, without tasks or clocks of its own. A message that arrives joins the line of
//! its key in the order of sequences; the first of a line is given its turn when nothing of the
//! key is at work and nothing before it is missing. **Missing** is a message that was held here
//! and whose lease was lost: it comes again, and until then its key waits for it, up to a limit,
//! because it may also have been settled by an ack whose answer was lost.
//!
//! A turn tells whether the delivery stood **behind** another message of its key. If it did, it was
//! not at work when a process before this one died, however often it was delivered.
//!
//! While the **gate** is closed nobody is given a turn. The loop closes it when deliveries may be
//! out that it does not hold, and opens it when it knows that it holds everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Names one delivery in a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) key: Bytes,
    pub(super) sequence: u64,
    ticket: u64,
}

/// A delivery may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Another message of the key was before it.
    pub(super) behind: bool,
}

#[derive(Debug, Default)]
pub(super) struct Lines {
    keys: BTreeMap<Bytes, Line>,
    tickets: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Line {
    /// The ticket of the delivery whose turn it is.
    at_work: Option<u64>,
    /// The sequence whose turn it was last.
    last: Option<u64>,
    waiting: BTreeMap<u64, Waiting>,
    /// What comes again, by sequence, and until when the key waits for it.
    missing: BTreeMap<u64, Instant>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    turn: oneshot::Sender<Turn>,
}

impl Lines {
    /// Puts a delivery into its line. Its turn is when the receiver resolves; an error there means
    /// that a later delivery of the same message has taken its place.
    pub(super) fn join(&mut self, key: Bytes, sequence: u64) -> (Place, oneshot::Receiver<Turn>) {
        self.tickets += 1;
        let (turn, given) = oneshot::channel();
        let line = self.keys.entry(key.clone()).or_default();
        line.missing.remove(&sequence);
        line.waiting.insert(sequence, Waiting { ticket: self.tickets, turn });
        let place = Place { key, sequence, ticket: self.tickets };
        self.call(&place.key);
        (place, given)
    }

    /// Takes a delivery out that has ended. One that was not settled is missed until `until`.
    pub(super) fn leave(&mut self, place: &Place, settled: bool, until: Instant) {
        let Some(line) = self.keys.get_mut(&place.key) else { return };
        let was_at_work = line.at_work == Some(place.ticket);
        if was_at_work {
            line.at_work = None;
        }
        let waits = line.waiting.get(&place.sequence).map(|waiting| waiting.ticket);
        if waits == Some(place.ticket) {
            line.waiting.remove(&place.sequence);
        }
        let replaced = waits.is_some_and(|ticket| ticket != place.ticket);
        if !settled && !replaced {
            line.missing.insert(place.sequence, until);
        }
        self.call(&place.key);
    }

    /// Gives nobody a turn until [`Lines::open`].
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Gives turns again: whatever was missing is settled or here.
    pub(super) fn open(&mut self) {
        self.closed = false;
        self.keys.values_mut().for_each(|line| line.missing.clear());
        self.call_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// True when a key waits for something that is not here.
    pub(super) fn misses_something(&self) -> bool {
        self.keys.values().any(|line| !line.missing.is_empty())
    }

    /// Waits for what is missing until `until` at least: the backend was away.
    pub(super) fn wait_longer(&mut self, until: Instant) {
        let missing = self.keys.values_mut().flat_map(|line| line.missing.values_mut());
        missing.for_each(|waits| *waits = until.max(*waits));
    }

    /// Stops waiting for what did not come in time. Returns how much that was.
    pub(super) fn give_up_waiting(&mut self, now: Instant) -> usize {
        let mut overdue = 0;
        for line in self.keys.values_mut() {
            let before = line.missing.len();
            line.missing.retain(|_, until| *until > now);
            overdue += before - line.missing.len();
        }
        self.call_all();
        overdue
    }

    fn call_all(&mut self) {
        let keys: Vec<_> = self.keys.keys().cloned().collect();
        keys.iter().for_each(|key| self.call(key));
    }

    /// Gives the first of the line its turn, if it is time.
    fn call(&mut self, key: &Bytes) {
        let Some(line) = self.keys.get_mut(key) else { return };
        if line.at_work.is_none() && line.waiting.is_empty() && line.missing.is_empty() {
            self.keys.remove(key);
            return;
        }
        if self.closed || line.at_work.is_some() {
            return;
        }
        let missing = line.missing.keys().next();
        let first = line.waiting.keys().next();
        if first.is_some_and(|first| missing.is_none_or(|missing| first < missing))
            && let Some((sequence, Waiting { ticket, turn })) = line.waiting.pop_first()
        {
            let behind = line.last.replace(sequence).is_some_and(|last| last != sequence);
            line.at_work = Some(ticket);
            // One that has ended meanwhile leaves in a moment: it is at work until then.
            let _ = turn.send(Turn { behind });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    fn has_turn(turn: &mut oneshot::Receiver<Turn>) -> bool {
        turn.try_recv().is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_a_key_at_a_time_and_keys_apart() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let (first, mut one) = lines.join(key("a"), 1);
        let (_, mut two) = lines.join(key("a"), 2);
        let (_, mut other) = lines.join(key("b"), 3);
        assert!(has_turn(&mut one) && !has_turn(&mut two) && has_turn(&mut other));
        lines.leave(&first, true, now);
        assert!(has_turn(&mut two));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_one_holds_its_key_until_it_is_back_or_overdue() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let (first, mut one) = lines.join(key("a"), 1);
        let (second, mut two) = lines.join(key("a"), 2);
        let (_, mut three) = lines.join(key("a"), 3);
        assert!(has_turn(&mut one));
        lines.leave(&first, false, now + std::time::Duration::from_secs(1));
        assert!(lines.misses_something() && !has_turn(&mut two));
        let (again, mut back) = lines.join(key("a"), 1);
        assert!(has_turn(&mut back) && !lines.misses_something());
        // One that loses its lease while it waits is missed too.
        lines.leave(&second, false, now);
        lines.leave(&again, true, now);
        assert!(!has_turn(&mut three));
        assert_eq!(lines.give_up_waiting(now), 1);
        assert!(has_turn(&mut three));
    }

    #[tokio::test(start_paused = true)]
    async fn a_redelivery_takes_the_place_of_the_delivery_before() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let (at_work, mut one) = lines.join(key("a"), 1);
        let (replaced, mut two) = lines.join(key("a"), 2);
        let (_, mut again) = lines.join(key("a"), 2);
        assert!(has_turn(&mut one) && two.try_recv().is_err());
        lines.leave(&replaced, false, now);
        assert!(!lines.misses_something());
        lines.leave(&at_work, true, now);
        assert!(has_turn(&mut again));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stood_behind_another_is_told() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        let (first, mut one) = lines.join(key("a"), 1);
        let (_, mut two) = lines.join(key("a"), 2);
        assert_eq!(one.try_recv(), Ok(Turn { behind: false }));
        lines.leave(&first, false, now + std::time::Duration::from_secs(1));
        let (again, mut one) = lines.join(key("a"), 1);
        assert_eq!(one.try_recv(), Ok(Turn { behind: false }), "behind itself is not behind");
        lines.leave(&again, true, now);
        assert_eq!(two.try_recv(), Ok(Turn { behind: true }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_gate_sorts_what_arrives() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        lines.close();
        let (_, mut two) = lines.join(key("a"), 2);
        let (first, mut one) = lines.join(key("a"), 1);
        assert!(!has_turn(&mut one) && !has_turn(&mut two));
        lines.open();
        assert!(has_turn(&mut one) && !has_turn(&mut two));
        lines.leave(&first, true, now);
        assert!(has_turn(&mut two));
        assert_eq!(lines.keys.len(), 1);
    }
}
