//! How many makers to start, and what came of it over time.

use std::time::Duration;

/// More samples are not kept: two neighbours become one then.
const MOST_SAMPLES: usize = 1024;

/// How many one-shot makers to start now, as KEDA decides for a ScaledJob with the strategy
/// `default`: one for each order of the backlog, at most `most` at once, less those that run. The
/// backlog counts the orders that makers have at work, as KEDA's triggers do.
pub fn to_start(backlog: u64, running: u64, most: u64) -> u64 {
    backlog.min(most).saturating_sub(running)
}

/// A moment of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// How long after the beginning.
    pub at: Duration,
    /// Patients who order.
    pub patients: u64,
    /// Orders that are not made, those at work included.
    pub backlog: u64,
    /// Makers at work.
    pub makers: u64,
    /// Orders that were made since the sample before.
    pub made: u64,
    /// What those waited from order to delivery, in all.
    pub waited: Duration,
    /// What the slowest of them waited.
    pub slowest: Duration,
}

impl Sample {
    /// What an order waited on average; `None` where none was made.
    pub fn delay(&self) -> Option<Duration> {
        self.waited.checked_div(u32::try_from(self.made).ok()?)
    }

    /// Two neighbours as one: what was counted is added, what stood is the higher.
    fn with(self, next: Self) -> Self {
        Self {
            at: next.at,
            patients: self.patients.max(next.patients),
            backlog: self.backlog.max(next.backlog),
            makers: self.makers.max(next.makers),
            made: self.made + next.made,
            waited: self.waited + next.waited,
            slowest: self.slowest.max(next.slowest),
        }
    }
}

/// The samples of a run, whatever its length: they get coarser and not more.
#[derive(Debug, Default)]
pub struct History {
    samples: Vec<Sample>,
    /// How many samples one that is kept is made of.
    each: u32,
    open: Option<(u32, Sample)>,
}

impl History {
    /// Adds a moment; later than those before it.
    pub fn add(&mut self, sample: Sample) {
        let (count, open) = match self.open.take() {
            Some((count, open)) => (count + 1, open.with(sample)),
            None => (1, sample),
        };
        if count < self.each {
            self.open = Some((count, open));
            return;
        }
        self.samples.push(open);
        if self.samples.len() >= MOST_SAMPLES {
            self.samples = self
                .samples
                .chunks(2)
                .map(|two| two[1..].iter().fold(two[0], |a, b| a.with(*b)))
                .collect();
            self.each = self.each.max(1) * 2;
        }
    }

    /// The moments, in their order.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

/// What a number of patients came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phase {
    began: Duration,
    all: Sample,
}

impl Phase {
    /// One that begins.
    pub fn from(sample: Sample) -> Self {
        Self { began: sample.at, all: sample }
    }

    /// How many patients it is of.
    pub fn patients(&self) -> u64 {
        self.all.patients
    }

    /// Adds a moment of it.
    pub fn add(&mut self, sample: Sample) {
        self.all = self.all.with(sample);
    }

    /// What a person reads, and what a script does.
    pub fn told(&self) -> (String, serde_json::Value) {
        let Self { began, all } = self;
        let seconds = all.at.saturating_sub(*began).as_secs();
        let delay = all.delay().unwrap_or_default().as_secs_f64();
        let slowest = all.slowest.as_secs_f64();
        let patients = if all.patients == 1 { "patient" } else { "patients" };
        let text = format!(
            "{:>3} {patients} for {seconds:>3} s: {:>4} orders made, up to {:>3} makers, backlog up to \
             {:>3}, delay {delay:.1} s, at most {slowest:.1} s",
            all.patients, all.made, all.makers, all.backlog
        );
        let record = serde_json::json!({
            "patients": all.patients, "seconds": seconds, "orders": all.made,
            "makers": all.makers, "backlog": all.backlog,
            "delay_seconds": delay, "slowest_seconds": slowest,
        });
        (text, record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_is_a_maker_for_each_order_and_not_one_more() {
        assert_eq!(to_start(0, 0, 10), 0, "nothing to do");
        assert_eq!(to_start(3, 0, 10), 3);
        assert_eq!(to_start(3, 3, 10), 0, "those at work count as backlog");
        assert_eq!(to_start(5, 3, 10), 2);
        assert_eq!(to_start(100, 4, 10), 6, "not beyond the most");
        assert_eq!(to_start(2, 7, 10), 0, "none is ended: they end by themselves");
    }

    fn second(at: u64, made: u64, waited: u64) -> Sample {
        let seconds = Duration::from_secs;
        Sample {
            at: seconds(at),
            made,
            waited: seconds(waited),
            slowest: seconds(waited),
            ..Sample::default()
        }
    }

    #[test]
    fn a_long_run_takes_no_more_memory_and_loses_no_order() {
        let mut history = History::default();
        for at in 0..100_000 {
            history.add(second(at, 1, 2));
        }
        assert!(history.samples().len() <= MOST_SAMPLES);
        let made: u64 = history.samples().iter().map(|sample| sample.made).sum();
        assert!((99_000..=100_000).contains(&made), "{made}: all but what is still open");
        assert!(
            history.samples().iter().all(|sample| sample.delay() == Some(Duration::from_secs(2)))
        );
        assert!(history.samples().is_sorted_by_key(|sample| sample.at));
    }

    #[test]
    fn a_phase_says_what_it_came_to() {
        let mut phase = Phase::from(Sample { patients: 3, makers: 4, ..second(10, 0, 0) });
        phase.add(Sample { patients: 3, makers: 7, backlog: 9, ..second(30, 2, 6) });
        let (text, record) = phase.told();
        assert!(
            text.contains("3 patients for  20 s:    2 orders made, up to   7 makers"),
            "{text}"
        );
        assert!(text.ends_with("delay 3.0 s, at most 6.0 s"), "{text}");
        assert_eq!(record["makers"], 7);
    }

    proptest! {
        #[test]
        fn never_more_than_the_most_nor_than_there_is_to_do(
            backlog in 0..1000u64, running in 0..100u64, most in 1..100u64,
        ) {
            let start = to_start(backlog, running, most);
            prop_assert!(start == 0 || running + start <= most);
            prop_assert!(start == 0 || running + start <= backlog);
            prop_assert!(running + start >= backlog.min(most), "enough of them run");
        }
    }
}
