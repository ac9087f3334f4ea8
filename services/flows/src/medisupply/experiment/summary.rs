//! The figures of a run, and the bounds that they are held against.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::timeline::Shot;
use crate::medisupply::Mode;
use crate::medisupply::http::ms as whole_ms;

/// Calls for each order during a fault.
const MOST_CALLS: f64 = 1.1;
/// Two, and one that was under way when the fault began.
const MOST_PROBES: u64 = 3;
const MOST_DRAIN: Duration = Duration::from_secs(60);
const P99: Duration = Duration::from_millis(50);
const MOST_POST: Duration = Duration::from_secs(2);

/// What a run came to. Times are in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// What the external service did.
    pub mode: Mode,
    /// Orders that were sent.
    pub sent: u32,
    /// Orders that were answered 200.
    pub accepted: u32,
    /// How long the order POST took from when it was due: median.
    pub post_p50_ms: f64,
    /// The same, of 99 in 100.
    pub post_p99_ms: f64,
    /// The same, of all.
    pub post_max_ms: f64,
    /// Accepted orders that were found valid.
    pub validated: u32,
    /// Accepted orders that were found invalid.
    pub rejected: u32,
    /// Accepted orders that were refused for good.
    pub failed: u32,
    /// Accepted orders that are not decided.
    pub lost: u32,
    /// Decisions beyond one for each order.
    pub duplicated: u32,
    /// Accepted orders that were decided otherwise than their content says.
    pub wrong: u32,
    /// Orders that were parked, each as often as it was.
    pub parked: u64,
    /// Accepted orders that were not decided when the fault began, or were sent during it.
    pub orders_in_fault: u32,
    /// Calls that were made during the fault.
    pub calls_in_fault: u64,
    /// The same for each of these orders.
    pub calls_per_order: f64,
    /// From the fault to when the monitor said so; none where it never did.
    pub detected_ms: Option<u64>,
    /// How many probes that took.
    pub detected_probes: Option<u64>,
    /// From recovery, or from when an order was due where that is later, to when it was decided: the
    /// longest of all orders.
    pub drained_ms: u64,
    /// How often the breaker opened.
    pub breaker_opened: u32,
    /// The shortest time it stayed open.
    pub breaker_shortest_open_ms: Option<u64>,
    /// How many roles were killed, and started again.
    pub killed: u32,
    /// What was promised.
    pub bounds: Vec<Bound>,
}

/// Something that was promised.
#[derive(Debug, Clone, Serialize)]
pub struct Bound {
    /// What.
    pub name: &'static str,
    /// True when it held.
    pub holds: bool,
    /// What was measured, and what it is held against.
    pub detail: String,
    /// True when it depends on how fast this machine is.
    pub timing: bool,
}

impl Summary {
    /// True when every promise held that does not depend on the speed of this machine.
    pub fn passed(&self) -> bool {
        self.bounds.iter().all(|bound| bound.holds || bound.timing)
    }

    /// Fills in the times of the order POST.
    pub(super) fn measure_posts(&mut self, shots: &[Shot]) {
        let Ok(mut posts) = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3) else { return };
        for shot in shots.iter().filter(|shot| shot.accepted) {
            posts.saturating_record(u64::try_from(shot.took.as_micros()).unwrap_or(u64::MAX));
        }
        #[allow(clippy::cast_precision_loss, reason = "at most a minute in microseconds")]
        let ms = |micros: u64| (micros as f64 / 10.0).round() / 100.0;
        self.post_p50_ms = ms(posts.value_at_quantile(0.5));
        self.post_p99_ms = ms(posts.value_at_quantile(0.99));
        self.post_max_ms = ms(posts.max());
    }

    /// Holds the figures against what was promised. `breaker_wait` is that of the settings.
    pub(super) fn judge(&mut self, always_fails: bool, breaker_wait: Option<Duration>) {
        let mut bounds = Vec::new();
        let mut bound = |name, holds, detail, timing| {
            bounds.push(Bound { name, holds, detail, timing });
        };
        let Self { lost, duplicated, wrong, calls_in_fault, orders_in_fault, .. } = *self;
        bound("nothing lost", lost == 0, format!("{lost} lost of {}", self.accepted), false);
        let twice = format!("{duplicated} decided twice, {wrong} otherwise than they should");
        bound("nothing done twice", duplicated == 0 && wrong == 0, twice, false);
        let most = f64::from(orders_in_fault) * MOST_CALLS;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 calls")]
        let few = calls_in_fault as f64 <= most;
        let calls = format!("{calls_in_fault} for {orders_in_fault} orders, at most {most:.1}");
        bound("few calls during the fault", few, calls, false);
        if always_fails {
            let probes = self.detected_probes;
            let detail = match (self.detected_ms, probes) {
                (Some(ms), Some(probes)) => format!("{ms} ms, {probes} probes"),
                _ => String::from("never"),
            };
            let soon = probes.is_some_and(|probes| probes <= MOST_PROBES);
            bound("detected within two probes", soon, detail, false);
        }
        if let (Some(wait), Some(shortest)) = (breaker_wait, self.breaker_shortest_open_ms) {
            let wait = whole_ms(wait);
            let detail = format!("open for {shortest} ms at least, its wait is {wait} ms");
            // The two clocks that stamp it may differ by one.
            bound("breaker keeps its wait", shortest + 1 >= wait, detail, false);
        }
        let within = u128::from(self.drained_ms) <= MOST_DRAIN.as_millis();
        let drained = format!("{} ms after recovery, or after it was sent", self.drained_ms);
        bound("all decided within 60 s", within && lost == 0, drained, false);
        let (p99, max) = (self.post_p99_ms, self.post_max_ms);
        bound("POST p99 within 50 ms", p99 <= ms(P99), format!("{p99} ms"), true);
        bound("POST never above 2 s", max <= ms(MOST_POST), format!("{max} ms"), true);
        self.bounds = bounds;
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
