//! A wall clock that was set back while nobody had the folder open.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::embedded::disk::{Disk, SyncPolicy};
use bus::{BucketConfig, BucketName, Bus, Start, StreamConfig};

use super::message;

const SOON: Duration = Duration::from_millis(50);
const WAIT: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The folder as a process sees it that starts when the machine's clock shows `time`.
async fn started_at(time: SystemTime, folder: &Path) -> Bus {
    let disk = Disk::open_at(folder, SyncPolicy::Each, time).await.unwrap();
    Bus::with_driver(Arc::new(disk))
}

#[tokio::test]
async fn leases_delays_and_values_last_no_longer_after_a_clock_was_set_back() {
    let folder = tempfile::tempdir().unwrap();
    let bus = started_at(noon(), folder.path()).await;
    let mut config = StreamConfig::parse("s", &["s.>"]).unwrap();
    config.delayed = true;
    let stream = bus.ensure_stream(&config).await.unwrap();
    let mut config = BucketConfig::new(BucketName::new("b").unwrap());
    config.max_age = Some(WAIT);
    bus.ensure_kv(&config).await.unwrap().put("k", "v").await.unwrap();
    for subject in ["s.leased", "s.resting"] {
        stream.publish(message(subject, "x")).await.unwrap();
    }
    stream.publish(message("s.delayed", "x").not_before(noon() + WAIT)).await.unwrap();
    let builder = |bus: &Bus| bus.consumer("s", "c").ack_wait(WAIT);
    let consumer = builder(&bus).open().await.unwrap();
    let mut out = consumer.fetch(2, PATIENCE).await.unwrap();
    out.remove(1).retry(WAIT).await.unwrap();
    drop((bus, stream, consumer, out));

    let bus = started_at(noon() - DAY, folder.path()).await;
    let consumer = builder(&bus).open().await.unwrap();
    let mut came = Vec::new();
    while came.len() < 3 {
        let deliveries = consumer.fetch(9, PATIENCE).await.unwrap();
        assert!(!deliveries.is_empty(), "something waits for the day to pass: {came:?}");
        for delivery in deliveries {
            let (subject, attempt) = (delivery.message().subject.clone(), delivery.attempt());
            came.push((subject.as_str().to_owned(), attempt));
            delivery.ack_confirmed().await.unwrap();
        }
    }
    came.sort();
    let expected = [("s.delayed", 1), ("s.leased", 2), ("s.resting", 2)];
    assert_eq!(came, expected.map(|(subject, attempt)| (subject.to_owned(), attempt)));
    // All that was waited for took longer than the value was to be kept.
    assert!(bus.kv("b").await.unwrap().get("k").await.unwrap().is_none());
}

#[tokio::test]
async fn times_in_a_log_never_run_backwards_and_what_is_said_by_the_clock_still_holds() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = StreamConfig::parse("s", &["s.>"]).unwrap();
    config.delayed = true;
    for time in [noon(), noon() - DAY, noon() - 2 * DAY, noon() + DAY, noon()] {
        let bus = started_at(time, folder.path()).await;
        let stream = bus.ensure_stream(&config).await.unwrap();
        stream.publish(message("s.a", "x")).await.unwrap();
        // Whoever delays or pauses reads the machine's clock.
        let far = time + DAY / 2;
        stream.publish(message("s.far", "x").not_before(far)).await.unwrap();
        bus.consumer("s", "c").open().await.unwrap();
        bus.pause("s", "c", far).await.unwrap();
        let consumer = bus.bind("s", "c").await.unwrap();
        assert_eq!(consumer.info().await.unwrap().paused_until, Some(far));
        assert!(consumer.fetch(9, SOON).await.unwrap().is_empty(), "it is paused");
        bus.delete_consumer("s", "c").await.unwrap();
        let before = stream.info().await.unwrap().last_sequence;
        stream.publish(message("s.soon", "x").not_before(time + SOON)).await.unwrap();
        let mut reader = stream.reader(&[], Start::Sequence(before + 1)).await.unwrap();
        let soon = reader.next(1, PATIENCE).await.unwrap();
        assert_eq!(soon[0].subject.as_str(), "s.soon", "the other waits for half a day");
    }
    let bus = started_at(noon(), folder.path()).await;
    let stream = bus.stream("s").await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let all = reader.next(99, SOON).await.unwrap();
    let times: Vec<SystemTime> = all.iter().map(|message| message.timestamp).collect();
    assert!(times.is_sorted() && times.len() >= 10, "{times:?}");
}
