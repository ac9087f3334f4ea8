//! The embedded backend, which has no raw client: it is held against a rate.

use std::time::Duration;

use bus::Bus;

use crate::measure::{Comparison, Sample, sample};
use crate::work;

const MESSAGES: u64 = 500_000;
const A_SECOND: f64 = 1e6;

/// Publish, consume and ack in memory.
pub(crate) async fn in_memory(rounds: u32) -> Comparison {
    let mut comparison = Comparison::new("embedded publish, consume, ack", 1.0);
    for round in 0..rounds {
        eprintln!("embedded: round {} of {rounds}", round + 1);
        let bus = Bus::connect("embedded:").await.expect("bus");
        let stream = work::stream(&bus, "ours").await;
        let ours = sample(MESSAGES, async {
            work::publish(&stream, MESSAGES, 256).await;
            work::consume(&bus, "ours", MESSAGES).await;
        });
        comparison.ours.push(ours.await);
        comparison.raw.push(one_million_a_second());
    }
    comparison
}

fn one_million_a_second() -> Sample {
    let elapsed = Duration::from_secs_f64(MESSAGES as f64 / A_SECOND);
    Sample { elapsed, cpu: elapsed, operations: MESSAGES }
}
