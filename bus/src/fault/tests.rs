use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{CrashSide, FaultRates, Faults};
use crate::driver::KvChange;
use crate::embedded::Embedded;
use crate::{
    BucketConfig, BucketName, Bus, ErrorKind, KeyValue, Message, Start, Stream, StreamConfig,
};

const FAIL_BEFORE: FaultRates = FaultRates { fail_before: 1000, ..FaultRates::NONE };
const FAIL_AFTER: FaultRates = FaultRates { fail_after: 1000, ..FaultRates::NONE };
const NO_WAIT: Duration = Duration::ZERO;

/// A backend, and the same through a handle.
struct Bench {
    stream: Stream,
    kv: KeyValue,
    faults: Faults,
    faulty: Bus,
    faulty_stream: Stream,
    faulty_kv: KeyValue,
}

async fn bench(seed: u64) -> Bench {
    let bus = Bus::with_driver(std::sync::Arc::new(Embedded::new()));
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    let kv = bus.ensure_kv(&BucketConfig::new(BucketName::new("b").unwrap())).await.unwrap();
    let faults = Faults::new(seed);
    let faulty = faults.wrap(&bus);
    let (faulty_stream, faulty_kv) =
        (faulty.stream("s").await.unwrap(), faulty.kv("b").await.unwrap());
    Bench { stream, kv, faults, faulty, faulty_stream, faulty_kv }
}

fn message() -> Message {
    Message::new("s.a", "x").unwrap()
}

async fn stored(stream: &Stream) -> u64 {
    stream.info().await.unwrap().messages
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_makes_the_same_run_and_another_another() {
    async fn run(seed: u64) -> (Vec<String>, Vec<Option<ErrorKind>>, u128, u64) {
        let bench = bench(seed).await;
        let started = Instant::now();
        bench.faults.set_rates(FaultRates::ROUGH);
        bench.faults.record(1000);
        let mut kinds = Vec::new();
        for round in 0..200 {
            kinds.push(bench.faulty_stream.publish(message()).await.err().map(|e| e.kind()));
            let put = bench.faulty_kv.put(format!("k.{round}"), "x").await;
            kinds.push(put.err().map(|error| error.kind()));
        }
        let took = started.elapsed().as_millis();
        (bench.faults.trace(), kinds, took, bench.faults.operations())
    }
    let (first, again, other) = (run(7).await, run(7).await, run(8).await);
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert_eq!(first.3, 402, "two to open, two a round");
    for kind in [Some(ErrorKind::Unavailable), Some(ErrorKind::Timeout), None] {
        assert!(first.1.contains(&kind), "{kind:?} never came");
    }
    assert!(first.2 > 0, "nothing was delayed");
}

#[tokio::test(start_paused = true)]
async fn a_failure_before_the_effect_leaves_nothing_behind() {
    let bench = bench(1).await;
    bench.faults.set_rates(FAIL_BEFORE);
    let publish = bench.faulty_stream.publish(message()).await;
    assert_eq!(publish.unwrap_err().kind(), ErrorKind::Unavailable);
    let create = bench.faulty_kv.create("k", "x").await;
    assert_eq!(create.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(stored(&bench.stream).await, 0);
    assert!(bench.kv.get("k").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_effect_loses_only_the_answer() {
    let bench = bench(1).await;
    bench.faults.set_rates(FAIL_AFTER);
    let publish = bench.faulty_stream.publish(message()).await;
    assert_eq!(publish.unwrap_err().kind(), ErrorKind::Timeout);
    let create = bench.faulty_kv.create("k", "x").await;
    assert_eq!(create.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(stored(&bench.stream).await, 1);
    assert_eq!(bench.kv.get("k").await.unwrap().unwrap().value, "x");
    let again = bench.faulty_kv.create("k", "y").await;
    assert!(again.unwrap_err().is_conflict(), "a real failure is told as it is");
}

#[tokio::test(start_paused = true)]
async fn a_lost_fetch_and_a_lost_ack_are_delivered_again() {
    let bench = bench(1).await;
    bench.stream.publish(message()).await.unwrap();
    let lease = Duration::from_secs(5);
    let consumer = bench.faulty.consumer("s", "c").ack_wait(lease).open().await.unwrap();
    bench.faults.set_rates(FAIL_AFTER);
    let lost = consumer.fetch(1, NO_WAIT).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Timeout);
    bench.faults.set_rates(FaultRates::NONE);
    assert!(consumer.fetch(1, NO_WAIT).await.unwrap().is_empty());
    let mut second = consumer.fetch(1, lease).await.unwrap();
    bench.faults.set_rates(FAIL_BEFORE);
    second.remove(0).ack().await.unwrap();
    bench.faults.set_rates(FaultRates::NONE);
    let mut third = consumer.fetch(1, lease).await.unwrap();
    assert_eq!(third[0].attempt(), 3);
    bench.faults.set_rates(FAIL_BEFORE);
    let failed = third.remove(0).ack_confirmed().await.unwrap_err();
    bench.faults.set_rates(FaultRates::NONE);
    failed.delivery.ack_confirmed().await.unwrap();
    assert!(consumer.fetch(1, 2 * lease).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_reader_and_a_watch_lose_nothing_and_repeat_nothing() {
    let bench = bench(3).await;
    let mut reader = bench.faulty_stream.reader(&[], Start::Beginning).await.unwrap();
    let mut watch = bench.faulty_kv.watch(">").await.unwrap();
    bench.faults.set_rates(FaultRates { fail_before: 200, fail_after: 300, ..FaultRates::ROUGH });
    for round in 1..=50_u64 {
        bench.stream.publish(message()).await.unwrap();
        bench.kv.put("k", round.to_string()).await.unwrap();
    }
    let (mut read, mut revisions, mut failures) = (Vec::new(), Vec::new(), 0);
    while read.len() < 50 || revisions.len() < 50 {
        match reader.next(3, NO_WAIT).await {
            Ok(messages) => read.extend(messages.into_iter().map(|message| message.sequence)),
            Err(error) => failures += usize::from(error.is_retryable()),
        }
        if revisions.len() < 50
            && let Ok(KvChange::Put(entry)) = watch.next().await
        {
            revisions.push(entry.revision);
        }
    }
    assert!(failures > 0);
    assert!(read.into_iter().eq(1..=50) && revisions.into_iter().eq(1..=50));
}

#[tokio::test(start_paused = true)]
async fn a_crash_cuts_off_at_its_operation_and_everything_after_it() {
    for (side, effects) in [(CrashSide::Before, 1), (CrashSide::After, 2)] {
        let bench = bench(1).await;
        bench.faults.crash_at(bench.faults.operations() + 2, side);
        bench.faulty_stream.publish(message()).await.unwrap();
        let crashed = bench.faults.crashed();
        let (publish, minute) = (bench.faulty_stream.publish(message()), Duration::from_secs(60));
        assert!(!crashed.is_cancelled());
        assert!(timeout(minute, publish).await.is_err(), "never returns");
        assert!(crashed.is_cancelled());
        assert!(timeout(minute, bench.faulty_kv.put("k", "x")).await.is_err());
        assert_eq!(stored(&bench.stream).await, effects);
        assert!(bench.kv.get("k").await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_cuts_off_what_was_waiting_and_a_key_update() {
    for (side, value) in [(CrashSide::Before, "old"), (CrashSide::After, "new")] {
        let bench = bench(1).await;
        let consumer = bench.faulty.consumer("s", "c").open().await.unwrap();
        let revision = bench.faulty_kv.create("k", "old").await.unwrap();
        let hour = Duration::from_secs(3600);
        let waiting = tokio::spawn(async move { consumer.fetch(1, hour).await.map(|_| ()) });
        tokio::task::yield_now().await;
        bench.faults.crash_at(bench.faults.operations() + 1, side);
        let update = bench.faulty_kv.update("k", "new", revision);
        assert!(timeout(hour, update).await.is_err());
        assert_eq!(bench.kv.get("k").await.unwrap().unwrap().value, value);
        tokio::time::sleep(2 * hour).await;
        assert!(!waiting.is_finished(), "a fetch of the dead process does not return");
        waiting.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_operation_hands_its_crash_on() {
    let bench = bench(1).await;
    let consumer = bench.faulty.consumer("s", "c").open().await.unwrap();
    bench.faults.crash_at(bench.faults.operations() + 1, CrashSide::After);
    let fetch = consumer.fetch(1, Duration::from_secs(60));
    assert!(timeout(Duration::from_secs(1), fetch).await.is_err());
    assert!(!bench.faults.crashed().is_cancelled());
    let publish = bench.faulty_stream.publish(message());
    assert!(timeout(Duration::from_secs(1), publish).await.is_err());
    assert!(bench.faults.crashed().is_cancelled());
    assert_eq!(stored(&bench.stream).await, 1);
}
