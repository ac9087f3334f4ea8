//! The embedded backend, which has no raw client: it is held against a rate.

use std::time::Duration;

use bus::Bus;

use crate::measure::{Comparison, Sample, sample};
use crate::work;

const MESSAGES: u64 = 500_000;
const A_SECOND: f64 = 1e6;
const ON_DISK: u64 = 200_000;
const DISK_A_SECOND: f64 = 1e5;

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
        comparison.raw.push(rate_of(MESSAGES, A_SECOND));
    }
    comparison
}

/// The same in a folder, each receipt and confirmed ack on the disk (`sync=each`).
pub(crate) async fn on_disk(rounds: u32) -> Comparison {
    let mut comparison = Comparison::new("disk publish, consume, ack", 1.0);
    for round in 0..rounds {
        eprintln!("disk: round {} of {rounds}", round + 1);
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("embedded://{}", folder.path().join("bus").display());
        let bus = Bus::connect(&url).await.expect("bus");
        let stream = work::stream(&bus, "ours").await;
        let ours = sample(ON_DISK, async {
            work::publish(&stream, ON_DISK, 1000).await;
            work::consume(&bus, "ours", ON_DISK).await;
        });
        comparison.ours.push(ours.await);
        comparison.raw.push(rate_of(ON_DISK, DISK_A_SECOND));
        bus.close().await.expect("close");
    }
    comparison
}

fn rate_of(messages: u64, a_second: f64) -> Sample {
    let elapsed = Duration::from_secs_f64(messages as f64 / a_second);
    Sample { elapsed, cpu: elapsed, operations: messages }
}
