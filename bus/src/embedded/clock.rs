//! The backend's one source of time: tokio's clock, so that paused time moves everything.
//!
//! What the backend writes down is in the **log's time**. It begins as the machine's wall clock
//! and never runs backwards, over a restart of the process either: a backend whose folder knows a
//! later time goes on from there. So a wall clock that was set back while nobody had the folder
//! open makes no lease, delay or window longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A wait nobody sits through: what a `wait` or a lease is cut down to where adding it to the
/// clock would overflow.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The log's time: it starts at `base`, or later, and goes on as tokio's clock does.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    base: SystemTime,
    started: Instant,
    /// In nanoseconds.
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How far the log's time is ahead of the machine's.
    ahead: AtomicU64,
    /// The last time that was read, since 1970.
    latest: AtomicU64,
}

/// One reading of the clock, used for everything that a single operation does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) time: SystemTime,
}

impl Clock {
    pub(super) fn starting_at(base: SystemTime) -> Self {
        Self { base, started: Instant::now(), shared: Arc::default() }
    }

    pub(super) fn now(&self) -> Now {
        let instant = Instant::now();
        let elapsed = instant.saturating_duration_since(self.started);
        let wall = self.base.checked_add(elapsed).unwrap_or(self.base);
        let time = self.log_time(wall);
        self.shared.latest.fetch_max(since_1970(time), Ordering::AcqRel);
        Now { instant, time }
    }

    /// The log's time at which the machine's clock will show `wall`.
    pub(super) fn log_time(&self, wall: SystemTime) -> SystemTime {
        wall.checked_add(self.ahead()).unwrap_or(wall)
    }

    /// What the machine's clock shows at the log's time `time`.
    pub(super) fn wall_time(&self, time: SystemTime) -> SystemTime {
        time.checked_sub(self.ahead()).unwrap_or(time)
    }

    fn ahead(&self) -> Duration {
        Duration::from_nanos(self.shared.ahead.load(Ordering::Acquire))
    }

    /// The last time that was read, in nanoseconds since 1970.
    #[cfg(feature = "disk")]
    pub(super) fn latest(&self) -> u64 {
        self.shared.latest.load(Ordering::Acquire)
    }

    /// Shows no time before this one, in nanoseconds since 1970, from now on.
    #[cfg(feature = "disk")]
    pub(super) fn go_on_from(&self, nanos: u64) {
        let behind = nanos.saturating_sub(since_1970(self.now().time));
        self.shared.ahead.fetch_add(behind, Ordering::AcqRel);
    }
}

fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Now {
    /// The instant `delay` from now, or one in the far future where that overflows.
    pub(super) fn after(&self, delay: Duration) -> Instant {
        self.instant.checked_add(delay).unwrap_or(self.instant + FAR_FUTURE)
    }

    /// The log's time of an instant.
    pub(super) fn wall(&self, instant: Instant) -> SystemTime {
        let (ahead, behind) = (
            instant.saturating_duration_since(self.instant),
            self.instant.saturating_duration_since(instant),
        );
        let wall = self.time.checked_add(ahead).and_then(|time| time.checked_sub(behind));
        wall.unwrap_or(self.time)
    }

    /// The instant of a log's time, or one in the far future where that overflows. A time that this
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

#[cfg(all(test, feature = "disk"))]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_goes_on_from_a_later_time_is_ahead_and_runs_on() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let nanos = |seconds: u64| seconds * 1_000_000_000;
        let clock = Clock::starting_at(at(1000));
        clock.go_on_from(nanos(900));
        assert_eq!((clock.now().time, clock.latest()), (at(1000), nanos(1000)));
        clock.go_on_from(nanos(5000));
        assert_eq!(clock.clone().now().time, at(5000));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!((clock.now().time, clock.latest()), (at(5007), nanos(5007)));
        assert_eq!((clock.log_time(at(1010)), clock.wall_time(at(5010))), (at(5010), at(1010)));
    }
}
