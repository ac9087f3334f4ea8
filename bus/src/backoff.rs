//! How long to wait before trying again.

use std::time::Duration;

/// A delay that grows with the attempt, up to a cap. It is a floor: a delivery may come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    factor: u32,
}

impl Backoff {
    /// The same delay every time.
    pub fn fixed(delay: Duration) -> Self {
        Self { first: delay, cap: delay, factor: 1 }
    }

    /// `first`, then twice as long each time, up to one minute.
    pub fn exponential(first: Duration) -> Self {
        Self { first, cap: Duration::from_secs(60).max(first), factor: 2 }
    }

    /// Never longer than `cap`.
    #[must_use]
    pub fn cap(self, cap: Duration) -> Self {
        Self { cap, ..self }
    }

    /// The delay after attempt number `attempt` (from 1) failed.
    pub fn delay(&self, attempt: u32) -> Duration {
        let growth = self.factor.saturating_pow(attempt.saturating_sub(1).min(31));
        self.first.saturating_mul(growth).min(self.cap)
    }
}

impl Default for Backoff {
    /// One second, doubling up to one minute.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_cap_and_never_overflows() {
        let backoff = Backoff::exponential(Duration::from_secs(1)).cap(Duration::from_secs(10));
        let seconds: Vec<_> = [1, 2, 3, 4, 5, 1000].map(|n| backoff.delay(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(Backoff::fixed(Duration::from_millis(5)).delay(9), Duration::from_millis(5));
    }
}
