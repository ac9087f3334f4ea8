//! How fast the demo publishes: slowly enough to be watched.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// A steady rate, counted from the first change.
pub(super) struct Pace {
    per_second: u32,
    started: Option<Instant>,
    done: u64,
}

impl Pace {
    /// `per_second` changes, or no bound for 0.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, started: None, done: 0 }
    }

    /// How long `count` changes take at this pace alone.
    pub(super) fn lasts(&self, count: u64) -> Duration {
        match self.per_second {
            0 => Duration::ZERO,
            rate => Duration::from_micros(count.saturating_mul(1_000_000) / u64::from(rate)),
        }
    }

    /// Counts changes that were published, and waits until the next are due. A pause of the server
    /// is made up for: the rate holds over the whole run.
    pub(super) async fn done(&mut self, count: u64) {
        let started = *self.started.get_or_insert_with(Instant::now);
        self.done += count;
        sleep_until(started + self.lasts(self.done)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_over_the_whole_run() {
        let (started, mut pace) = (Instant::now(), Pace::new(50));
        pace.done(25).await;
        assert_eq!(started.elapsed(), Duration::from_millis(500));
        tokio::time::advance(Duration::from_millis(400)).await;
        pace.done(25).await;
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_does_not_wait() {
        let started = Instant::now();
        Pace::new(0).done(1000).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
