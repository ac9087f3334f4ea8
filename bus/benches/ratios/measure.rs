//! Rounds, medians and the table.

use std::time::{Duration, Instant};

/// One timed round.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) elapsed: Duration,
    /// User and system time of this process.
    pub(crate) cpu: Duration,
    pub(crate) operations: u64,
}

/// Times `work`, which does `operations` operations.
pub(crate) async fn sample(operations: u64, work: impl Future<Output = ()>) -> Sample {
    let (cpu, started) = (process_cpu(), Instant::now());
    work.await;
    Sample { elapsed: started.elapsed(), cpu: process_cpu().saturating_sub(cpu), operations }
}

/// How many single operations are done by one side before it is the other's turn.
const TURN: u64 = 100;

/// What one side needs for single operations, one after another: what counts is the median one,
/// because the mean is that of the few that met somebody else's work.
#[derive(Default)]
struct Latency {
    seconds: Vec<f64>,
    cpu: Duration,
}

impl Latency {
    async fn turn(&mut self, from: u64, work: &impl AsyncFn(u64)) {
        let cpu = process_cpu();
        for at in from..from + TURN {
            let started = Instant::now();
            work(at).await;
            self.seconds.push(started.elapsed().as_secs_f64());
        }
        self.cpu += process_cpu().saturating_sub(cpu);
    }

    fn sample(self) -> Sample {
        let (cpu, operations) = (self.cpu, self.seconds.len() as u64);
        let elapsed = Duration::from_secs_f64(median(self.seconds) * operations as f64);
        Sample { elapsed, cpu, operations }
    }
}

/// User and system time of this process so far, to 10 ms (`proc(5)`, fields 14 and 15).
fn process_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Duration::from_millis((ticks(12) + ticks(13)) * 10)
}

/// Ours against the raw client, over interleaved rounds.
pub(crate) struct Comparison {
    pub(crate) name: &'static str,
    pub(crate) goal: f64,
    pub(crate) ours: Vec<Sample>,
    pub(crate) raw: Vec<Sample>,
}

impl Comparison {
    pub(crate) fn new(name: &'static str, goal: f64) -> Self {
        Self { name, goal, ours: Vec::new(), raw: Vec::new() }
    }

    /// One round: the same `operations` by the bus and by the raw client.
    pub(crate) async fn round(
        &mut self,
        ours_first: bool,
        operations: u64,
        ours: impl Future<Output = ()>,
        raw: impl Future<Output = ()>,
    ) {
        self.sampled(ours_first, sample(operations, ours), sample(operations, raw)).await;
    }

    /// One round of work that is timed in part.
    pub(crate) async fn sampled(
        &mut self,
        ours_first: bool,
        ours: impl Future<Output = Sample>,
        raw: impl Future<Output = Sample>,
    ) {
        if ours_first {
            self.ours.push(ours.await);
            self.raw.push(raw.await);
        } else {
            self.raw.push(raw.await);
            self.ours.push(ours.await);
        }
    }

    /// One round of single operations, in short turns: latency changes with the machine's mood.
    pub(crate) async fn turns(
        &mut self,
        operations: u64,
        ours: impl AsyncFn(u64),
        raw: impl AsyncFn(u64),
    ) {
        let (mut by_ours, mut by_raw) = (Latency::default(), Latency::default());
        for from in (0..operations).step_by(TURN as usize) {
            by_ours.turn(from, &ours).await;
            by_raw.turn(from, &raw).await;
        }
        self.ours.push(by_ours.sample());
        self.raw.push(by_raw.sample());
    }

    /// Forgets the rounds so far, which were to warm up.
    pub(crate) fn forget(&mut self) {
        self.ours.clear();
        self.raw.clear();
    }

    fn row(&self) -> String {
        let (ours, raw) = (rate(&self.ours), rate(&self.raw));
        let ratio = ours / raw;
        let verdict = if ratio >= self.goal { "reached" } else { "MISSED" };
        format!(
            "{:<34} {:>11.0} {:>11.0} {:>7.2} {:>6.2} {:<8} {:>8.2} {:>8.2}",
            self.name,
            ours,
            raw,
            ratio,
            self.goal,
            verdict,
            cpu(&self.ours),
            cpu(&self.raw),
        )
    }
}

/// Prints every comparison; a missed goal is shown and does not fail: timings never decide.
pub(crate) fn print(comparisons: &[Comparison]) {
    println!(
        "{:<34} {:>11} {:>11} {:>7} {:>6} {:<8} {:>8} {:>8}",
        "median of the rounds", "ours/s", "raw/s", "ratio", "goal", "", "us ours", "us raw"
    );
    comparisons.iter().for_each(|comparison| println!("{}", comparison.row()));
}

fn rate(samples: &[Sample]) -> f64 {
    median(samples.iter().map(|s| s.operations as f64 / s.elapsed.as_secs_f64()).collect())
}

/// Client CPU per operation in microseconds.
fn cpu(samples: &[Sample]) -> f64 {
    median(samples.iter().map(|s| s.cpu.as_secs_f64() * 1e6 / s.operations as f64).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
