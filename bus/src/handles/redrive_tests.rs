//! Keeping and redriving under crashes at every operation, on the embedded backend.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::embedded::Embedded;
use crate::fault::{CrashSide, FaultRates, Faults};
use crate::{Bus, Message, Start, Stream, StreamConfig, StreamName};

/// Longer than a run takes, shorter than ids are remembered.
const LONG: Duration = Duration::from_secs(50);
const SIDES: [CrashSide; 2] = [CrashSide::Before, CrashSide::After];

async fn world(messages: usize) -> (Bus, Stream) {
    let bus = Bus::with_driver(Arc::new(Embedded::new()));
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    let dead = StreamConfig::dead_letters(StreamName::new("dead").unwrap());
    bus.ensure_stream(&dead).await.unwrap();
    for n in 0..messages {
        stream.publish(Message::new("s.a", n.to_string()).unwrap()).await.unwrap();
    }
    (bus, stream)
}

async fn give_all_up(bus: &Bus) -> crate::Result<()> {
    let consumer = bus.consumer("s", "c").dead_letters("dead").open().await?;
    loop {
        let deliveries = consumer.fetch(10, Duration::from_secs(35)).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        for delivery in deliveries {
            delivery.dead_letter("on purpose").await?;
        }
    }
}

async fn bodies(stream: &Stream, start: u64) -> Vec<String> {
    let mut reader = stream.reader(&[], Start::Sequence(start)).await.unwrap();
    let messages = reader.next(1000, Duration::ZERO).await.unwrap().into_iter();
    let body = |message: crate::StoredMessage| message.payload.unwrap_or_default().to_vec();
    messages.map(|message| String::from_utf8(body(message)).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_dies_once_wherever_the_process_crashes() {
    for side in SIDES {
        for at in 1.. {
            let (bus, _) = world(3).await;
            let faults = Faults::new(1);
            faults.crash_at(at, side);
            let finished = timeout(LONG, give_all_up(&faults.wrap(&bus))).await.is_ok();
            give_all_up(&bus).await.unwrap();
            let dead = bus.stream("dead").await.unwrap();
            let mut kept = bodies(&dead, 1).await;
            kept.sort();
            assert_eq!(kept, ["0", "1", "2"], "crash {side:?} {at}");
            if finished {
                assert!(at > 9, "every message is copied and settled");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_redriven_once_and_in_order_wherever_the_process_crashes() {
    for side in SIDES {
        for at in 1.. {
            let (bus, stream) = world(4).await;
            give_all_up(&bus).await.unwrap();
            let faults = Faults::new(1);
            faults.crash_at(at, side);
            let faulty = faults.wrap(&bus);
            let redrive = async { faulty.dead_letters("dead").await?.redrive(None).await };
            let finished = timeout(LONG, redrive).await.is_ok();
            let dead = bus.dead_letters("dead").await.unwrap();
            for done in dead.redrive(None).await.unwrap() {
                assert!(done.failed.is_none(), "{done:?}");
            }
            assert_eq!(bodies(&stream, 5).await, ["0", "1", "2", "3"], "crash {side:?} {at}");
            assert!(dead.count().await.unwrap().is_empty());
            if finished {
                assert!(at > 12, "every letter is fetched, published and settled");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_stops_its_origin_and_stays() {
    let (bus, stream) = world(2).await;
    give_all_up(&bus).await.unwrap();
    let faults = Faults::new(1);
    let dead = faults.wrap(&bus).dead_letters("dead").await.unwrap();
    bus.delete_stream("s").await.unwrap();
    let done = dead.redrive(None).await.unwrap().remove(0);
    assert_eq!((done.redriven, done.failed.is_some_and(|e| e.is_not_found())), (0, true));
    bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    faults.set_rates(FaultRates { fail_after: 150, ..FaultRates::NONE });
    for _ in 0..100 {
        // An answer that is lost stops it; the next one goes on.
        let _ = timeout(2 * LONG, dead.redrive(None)).await.unwrap();
    }
    assert_eq!(bodies(&stream, 1).await, ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_dies_again_after_its_letter_was_purged_is_kept_again() {
    let (bus, _) = world(1).await;
    give_all_up(&bus).await.unwrap();
    let dead = bus.stream("dead").await.unwrap();
    dead.purge(&crate::SubjectFilter::all()).await.unwrap();
    bus.delete_consumer("s", "c").await.unwrap();
    give_all_up(&bus).await.unwrap();
    assert_eq!(bodies(&dead, 1).await, ["0"]);
}
