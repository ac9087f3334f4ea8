//! What is to be looked at, and when: each key once.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

/// A queue of keys by time. A key that is put in again is moved.
#[derive(Debug)]
pub(super) struct Agenda<K> {
    by_time: BTreeSet<(Instant, K)>,
    times: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Agenda<K> {
    pub(super) fn new() -> Self {
        Self { by_time: BTreeSet::new(), times: BTreeMap::new() }
    }

    /// Has `key` looked at when it is `at`, and not at another time.
    pub(super) fn put(&mut self, key: K, at: Instant) {
        self.remove(&key);
        self.times.insert(key.clone(), at);
        self.by_time.insert((at, key));
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some((key, at)) = self.times.remove_entry(key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// When the next key is to be looked at.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes out up to `max` keys whose time has come.
    pub(super) fn due(&mut self, now: Instant, max: usize) -> Vec<K> {
        let mut due = Vec::new();
        while due.len() < max
            && self.next_at().is_some_and(|at| at <= now)
            && let Some((_, key)) = self.by_time.pop_first()
        {
            self.times.remove(&key);
            due.push(key);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_due_once_and_at_the_time_that_was_said_last() {
        let (now, mut agenda) = (Instant::now(), Agenda::new());
        let later = |seconds| now + Duration::from_secs(seconds);
        agenda.put("a", now);
        agenda.put("b", later(5));
        agenda.put("a", later(9));
        agenda.put("c", later(1));
        agenda.remove(&"c");
        assert_eq!((agenda.next_at(), agenda.due(now, 9)), (Some(later(5)), vec![]));
        assert_eq!(agenda.due(later(9), 1), ["b"]);
        assert_eq!(agenda.due(later(9), 9), ["a"]);
        assert_eq!(agenda.next_at(), None);
    }
}
