//! How long to wait before trying again.

use std::time::Duration;

use crate::random::mix;

/// A delay that grows with the attempt, up to a cap. It is a floor: a delivery may come later.
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use std::time::Duration;
/// use bus::Backoff;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1)).cap(Duration::from_secs(5));
/// let delays: Vec<u64> = (1..=4).map(|attempt| backoff.delay(attempt).as_secs()).collect();
/// assert_eq!(delays, [1, 2, 4, 5]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    factor: u32,
    jitter: Jitter,
}

/// How far delays are spread, so that what failed together does not come back together.
///
/// The names are those of "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog,
/// 2015).
///
/// ```
/// # fn main() -> Result<(), bus::Error> {
/// use std::time::Duration;
/// use bus::{Backoff, Jitter};
///
/// let backoff = Backoff::fixed(Duration::from_secs(8)).jitter(Jitter::Equal);
/// assert_eq!(backoff.delay(1), Duration::from_secs(8), "what it is spread from");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// Not at all.
    #[default]
    None,
    /// Anything from nothing to the whole delay: spreads best, and may try again at once.
    Full,
    /// At least half of the delay, and up to the whole.
    Equal,
}

impl Backoff {
    /// The same delay every time.
    pub fn fixed(delay: Duration) -> Self {
        Self { first: delay, cap: delay, factor: 1, jitter: Jitter::None }
    }

    /// `first`, then twice as long each time, up to one minute.
    pub fn exponential(first: Duration) -> Self {
        let cap = Duration::from_secs(60).max(first);
        Self { first, cap, factor: 2, jitter: Jitter::None }
    }

    /// Never longer than `cap`.
    #[must_use]
    pub fn cap(self, cap: Duration) -> Self {
        Self { cap, ..self }
    }

    /// Spreads the delays.
    #[must_use]
    pub fn jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// The delay after attempt number `attempt` (from 1) failed, before it is spread.
    pub fn delay(&self, attempt: u32) -> Duration {
        let growth = self.factor.saturating_pow(attempt.saturating_sub(1).min(31));
        self.first.saturating_mul(growth).min(self.cap)
    }

    /// The delay after attempt number `attempt` (from 1) failed, spread by `seed`: a number that
    /// stands for what is tried, or a random one. The same seed and attempt give the same delay.
    ///
    /// The consume loop takes a hash of the stream, the consumer and the message's sequence, so
    /// that messages which failed at the same moment spread over the delay, and a run that is
    /// repeated with the same messages waits as the first one did.
    pub fn spread(&self, attempt: u32, seed: u64) -> Duration {
        let delay = self.delay(attempt);
        let floor = match self.jitter {
            Jitter::None => return delay,
            Jitter::Full => Duration::ZERO,
            Jitter::Equal => delay / 2,
        };
        let range = u64::try_from((delay - floor).as_nanos()).unwrap_or(u64::MAX);
        let drawn = mix(seed ^ mix(u64::from(attempt)));
        // The upper half of the product is the drawn number scaled to the range, without bias
        // that anyone could measure.
        let share = (u128::from(drawn) * (u128::from(range) + 1)) >> 64;
        floor + Duration::from_nanos(u64::try_from(share).unwrap_or(range))
    }
}

impl Default for Backoff {
    /// One second, doubling up to one minute, spread over the upper half.
    fn default() -> Self {
        Self::exponential(Duration::from_secs(1)).jitter(Jitter::Equal)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grows_to_the_cap_and_never_overflows() {
        let backoff = Backoff::exponential(Duration::from_secs(1)).cap(Duration::from_secs(10));
        let seconds: Vec<_> = [1, 2, 3, 4, 5, 1000].map(|n| backoff.delay(n).as_secs()).into();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
        assert_eq!(Backoff::fixed(Duration::from_millis(5)).delay(9), Duration::from_millis(5));
        assert_eq!(backoff.spread(3, 99), backoff.delay(3), "no jitter unless asked for");
    }

    #[test]
    fn a_thousand_neighbours_fill_the_range_evenly() {
        let backoff = Backoff::fixed(Duration::from_secs(10)).jitter(Jitter::Full);
        let mut tenths = [0; 10];
        for sequence in 1..=1000_u64 {
            let seed = crate::random::hash(&[b"orders", b"billing", &sequence.to_be_bytes()]);
            tenths[(backoff.spread(1, seed).as_millis() / 1000).min(9) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_bounds_and_repeats(
            first in 1_u64..10_000, attempt in 1_u32..100, seed: u64,
        ) {
            let plain = Backoff::exponential(Duration::from_millis(first));
            let delay = plain.delay(attempt);
            let full = plain.jitter(Jitter::Full).spread(attempt, seed);
            let equal = plain.jitter(Jitter::Equal).spread(attempt, seed);
            prop_assert!(full <= delay);
            prop_assert!(delay / 2 <= equal && equal <= delay);
            prop_assert_eq!(full, plain.jitter(Jitter::Full).spread(attempt, seed));
        }
    }
}
