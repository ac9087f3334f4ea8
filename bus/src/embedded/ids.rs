//! The message ids a stream remembers for its de-duplication window.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// At most this many ids are remembered, whatever the window: the oldest is forgotten first.
const MAX_IDS: usize = 1 << 20;

/// Ids and the sequences they were stored at, in the order they came.
#[derive(Debug, Default)]
pub(super) struct Ids {
    sequences: HashMap<Arc<str>, u64>,
    by_age: VecDeque<(Instant, Arc<str>)>,
}

impl Ids {
    /// The sequence that a message with this id has, if one came within `window`.
    pub(super) fn find(&mut self, id: &str, now: Instant, window: Duration) -> Option<u64> {
        self.forget(now, window);
        self.sequences.get(id).copied()
    }

    pub(super) fn remember(&mut self, id: &str, sequence: u64, now: Instant) {
        let id: Arc<str> = Arc::from(id);
        self.sequences.insert(id.clone(), sequence);
        self.by_age.push_back((now, id));
        if self.by_age.len() > MAX_IDS {
            self.forget_oldest();
        }
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_known_inside_the_window_and_forgotten_at_its_end() {
        let (mut ids, start) = (Ids::default(), Instant::now());
        let window = Duration::from_secs(2);
        ids.remember("a", 7, start);
        assert_eq!(ids.find("a", start + Duration::from_millis(1999), window), Some(7));
        assert_eq!(ids.find("b", start, window), None);
        assert_eq!(ids.find("a", start + window, window), None);
        assert!(ids.sequences.is_empty() && ids.by_age.is_empty());
    }
}
