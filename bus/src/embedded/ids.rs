//! The message ids a stream remembers for its de-duplication window.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Now;
use super::journal::{Change, Journal};

/// At most this many ids are remembered, whatever the window: the oldest is forgotten first.
const MAX_IDS: usize = 1 << 20;

/// Ids and the sequences they were stored at, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Ids {
    sequences: HashMap<Arc<str>, u64>,
    by_age: VecDeque<(Instant, Arc<str>)>,
    /// The place of the oldest: each that is remembered has the next one.
    oldest: u64,
    journal: Journal,
}

impl Ids {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, ..Self::default() }
    }

    /// The sequence that a message with this id has, if one came within `window`.
    pub(super) fn find(&mut self, id: &str, now: Instant, window: Duration) -> Option<u64> {
        self.forget(now, window);
        self.sequences.get(id).copied()
    }

    pub(super) fn remember(&mut self, id: &str, sequence: u64, now: Now) {
        let place = self.oldest + self.by_age.len() as u64;
        let came = now.time;
        self.journal.note(|| Change::Remembered { place, id, sequence, came });
        self.take_in(Arc::from(id), sequence, now.instant);
        if self.by_age.len() > MAX_IDS {
            self.forget_oldest();
        }
    }

    /// Takes in what was remembered before, in the order of places.
    #[cfg(feature = "disk")]
    pub(super) fn restore(&mut self, place: u64, id: Arc<str>, sequence: u64, came: Instant) {
        if self.by_age.is_empty() {
            self.oldest = place;
        }
        self.take_in(id, sequence, came);
    }

    fn take_in(&mut self, id: Arc<str>, sequence: u64, came: Instant) {
        self.sequences.insert(id.clone(), sequence);
        self.by_age.push_back((came, id));
    }

    fn forget(&mut self, now: Instant, window: Duration) {
        while let Some((came, _)) = self.by_age.front()
            && now.saturating_duration_since(*came) >= window
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, id)) = self.by_age.pop_front() {
            self.sequences.remove(&id);
            let place = self.oldest;
            self.oldest += 1;
            self.journal.note(|| Change::Forgotten(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_inside_the_window_and_forgotten_at_its_end() {
        let (mut ids, start) = (Ids::default(), Instant::now());
        let now = Now { instant: start, time: std::time::SystemTime::UNIX_EPOCH };
        let window = Duration::from_secs(2);
        ids.remember("a", 7, now);
        assert_eq!(ids.find("a", start + Duration::from_millis(1999), window), Some(7));
        assert_eq!(ids.find("b", start, window), None);
        assert_eq!(ids.find("a", start + window, window), None);
        assert!(ids.sequences.is_empty() && ids.by_age.is_empty());
    }
}
