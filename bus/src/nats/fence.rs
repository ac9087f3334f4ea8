//! Which delivery of a message is the latest that came to this process.
//!
//! The server takes a settlement of an earlier delivery for one of the latest. The lease's end by
//! this process' clock fences most of them; where a delivery came late, its successor is the proof
//! that its lease is over.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Forgotten are looked for when there are this many, and when they have doubled since.
const FIRST_SWEEP: usize = 64;

/// The latest attempts of messages that were delivered again.
pub(super) struct Fence {
    /// True when anything was ever delivered again: most consumers never ask the map.
    used: AtomicBool,
    latest: Mutex<Latest>,
    /// How long an earlier delivery may think that it has its lease.
    lease: Duration,
}

struct Latest {
    by_sequence: HashMap<u64, (u32, Instant)>,
    sweep_at: usize,
}

impl Fence {
    pub(super) fn new(lease: Duration) -> Self {
        let latest = Latest { by_sequence: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { used: AtomicBool::new(false), latest: Mutex::new(latest), lease }
    }

    /// A delivery has come.
    pub(super) fn delivered(&self, sequence: u64, attempt: u32) {
        if attempt <= 1 {
            if self.is_used() {
                // The consumer was moved or made anew, and counts from the beginning.
                self.latest().by_sequence.remove(&sequence);
            }
            return;
        }
        self.used.store(true, Ordering::Release);
        let (now, mut latest) = (Instant::now(), self.latest());
        latest.by_sequence.insert(sequence, (attempt, now));
        if latest.by_sequence.len() >= latest.sweep_at {
            let lease = self.lease;
            // By then whoever held an earlier delivery knows it from the clock.
            latest.by_sequence.retain(|_, (_, came)| now.duration_since(*came) < lease);
            latest.sweep_at = FIRST_SWEEP.max(2 * latest.by_sequence.len());
        }
    }

    /// True when a later delivery of the message has come.
    pub(super) fn is_over(&self, sequence: u64, attempt: u32) -> bool {
        let latest = self.latest().by_sequence.get(&sequence).map(|(latest, _)| *latest);
        latest.is_some_and(|latest| attempt < latest)
    }

    /// False while there is nothing to ask [`Fence::is_over`] for.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_earlier_delivery_is_over_once_a_later_one_came() {
        let fence = Fence::new(Duration::from_secs(30));
        fence.delivered(7, 1);
        assert!(!fence.is_used() && !fence.is_over(7, 1));
        fence.delivered(7, 2);
        assert!(fence.is_used() && fence.is_over(7, 1));
        assert!(!fence.is_over(7, 2) && !fence.is_over(8, 1));
        fence.delivered(7, 1);
        assert!(!fence.is_over(7, 1), "a moved consumer begins to count anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_clock_tells_by_itself_is_forgotten() {
        let fence = Fence::new(Duration::from_secs(1));
        for sequence in 0..10_000 {
            fence.delivered(sequence, 2);
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        assert!(fence.latest().by_sequence.len() <= 2 * FIRST_SWEEP);
    }
}
