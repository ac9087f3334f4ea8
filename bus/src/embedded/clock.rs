//! The backend's one source of time: tokio's clock, so that paused time moves everything.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A wait nobody sits through: what a `wait` or a lease is cut down to where adding it to the
/// clock would overflow.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 86_400);

/// Wall time that starts at `base` and goes on as tokio's clock does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    base: SystemTime,
    started: Instant,
}

/// One reading of the clock, used for everything that a single operation does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) time: SystemTime,
}

impl Clock {
    pub(super) fn starting_at(base: SystemTime) -> Self {
        Self { base, started: Instant::now() }
    }

    pub(super) fn now(&self) -> Now {
        let instant = Instant::now();
        let elapsed = instant.saturating_duration_since(self.started);
        Now { instant, time: self.base.checked_add(elapsed).unwrap_or(self.base) }
    }
}

impl Now {
    /// The instant `delay` from now, or one in the far future where that overflows.
    pub(super) fn after(&self, delay: Duration) -> Instant {
        self.instant.checked_add(delay).unwrap_or(self.instant + FAR_FUTURE)
    }

    /// The wall time of an instant.
    pub(super) fn wall(&self, instant: Instant) -> SystemTime {
        let (ahead, behind) = (
            instant.saturating_duration_since(self.instant),
            self.instant.saturating_duration_since(instant),
        );
        let wall = self.time.checked_add(ahead).and_then(|time| time.checked_sub(behind));
        wall.unwrap_or(self.time)
    }

    /// The instant of a wall time, or one in the far future where that overflows. A time that this
    /// machine's clock cannot tell, from before it was started, is taken for now.
    #[cfg(feature = "disk")]
    pub(super) fn instant_of(&self, time: SystemTime) -> Instant {
        match time.duration_since(self.time) {
            Ok(ahead) => self.after(ahead),
            Err(past) => self.instant.checked_sub(past.duration()).unwrap_or(self.instant),
        }
    }

    /// What was taken at or before this is older than `max_age`.
    pub(super) fn cutoff(&self, max_age: Duration) -> SystemTime {
        self.time.checked_sub(max_age).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}
