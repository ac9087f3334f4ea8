//! Everything a role reaches the world through: the bus, a clock, a source of random bytes, and what
//! it counts.
//!
//! A role has no other source of time or chance, so that a simulation can replay it from a seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::Bus;
use data_encoding::HEXLOWER;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// What every role is given. Cheap to clone.
#[derive(Clone)]
pub struct Platform {
    /// The bus.
    pub bus: Bus,
    /// Wall-clock time.
    pub clock: Clock,
    /// Random bytes.
    pub entropy: Entropy,
    /// What this process counts.
    pub metrics: Metrics,
}

impl Platform {
    /// The bus, counted, with the system's clock and the system's random numbers.
    pub fn new(bus: Bus) -> Self {
        let metrics = Metrics::default();
        Self {
            bus: bus.with_middleware(metrics.of_bus()),
            clock: Clock::starting_at(SystemTime::now()),
            entropy: Entropy::system(),
            metrics,
        }
    }
}

/// Wall-clock time that moves with tokio's clock, and so stands still when a test pauses it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: SystemTime,
    started: Instant,
}

impl Clock {
    /// A clock that shows `base` now.
    pub fn starting_at(base: SystemTime) -> Self {
        Self { base, started: Instant::now() }
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        self.base + self.started.elapsed()
    }

    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A source of random bytes: the system's, or one that a seed decides.
#[derive(Clone)]
pub struct Entropy(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<Mutex<u64>>),
}

impl Entropy {
    /// The operating system's source, fit for secrets.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A repeatable sequence for simulations; worthless for secrets.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(seed))))
    }

    /// `N` random bytes. Fails only if the operating system has none to give.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], bus::Error> {
        let mut bytes = [0; N];
        match &self.0 {
            Source::System => getrandom::fill(&mut bytes).map_err(|error| {
                let what = format!("the operating system gave no random bytes: {error}");
                bus::Error::new(bus::ErrorKind::Backend, what)
            })?,
            Source::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in bytes.chunks_mut(8) {
                    let word = splitmix64(&mut state).to_le_bytes();
                    chunk.copy_from_slice(&word[..chunk.len()]);
                }
            }
        }
        Ok(bytes)
    }

    /// 16 lower-case hexadecimal digits.
    pub fn uid(&self) -> Result<String, bus::Error> {
        Ok(HEXLOWER.encode(&self.bytes::<8>()?))
    }
}

/// Steele, Lea and Flood's SplitMix64 (OOPSLA 2014): one addition and three mixing steps.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_the_system_does_not() {
        let (a, b) = (Entropy::seeded(7), Entropy::seeded(7));
        assert_eq!(a.bytes::<13>().unwrap(), b.bytes::<13>().unwrap());
        assert_ne!(a.uid().unwrap(), a.uid().unwrap());
        assert_ne!(Entropy::system().uid().unwrap(), Entropy::system().uid().unwrap());
    }
}
