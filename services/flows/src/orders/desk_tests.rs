//! A crash at every step between a change and what is published because of it.

use std::sync::Arc;

use bus::embedded::Embedded;
use bus::fault::{CrashSide, Faults};
use bus::{Bus, Start};

use super::*;
use crate::flow::Context;
use crate::orders::event::Facts;
use crate::orders::settings::Settings;
use crate::orders::stage::Stage;
use crate::orders::topic::Topic;
use crate::orders::topology::{Bucket, prepare_with};

const AFTER: Duration = Duration::from_secs(60);

async fn shop() -> Bus {
    let bus = Bus::with_driver(Arc::new(Embedded::new()));
    let context = Context::new(bus.clone(), bus.clone());
    prepare_with(&context, &Settings::default()).await.unwrap();
    bus
}

async fn desk(bus: &Bus) -> Desk {
    Desk::new(Bucket::Orders.open(bus).await.unwrap(), Topics::open(bus).await.unwrap())
}

/// The record counts; the first change says two things.
fn first(order: &OrderId) -> impl FnMut(Option<u32>) -> Option<(u32, Vec<Event>)> + Send {
    let event = Event::new("s", Topic::OrdersCreated, order, "t", Facts::of(Stage::OrderCreated));
    move |there| there.is_none().then(|| (1, vec![event.clone(), event.log_entry()]))
}

/// How many messages stand on the two topics, and how many marks are left.
async fn found(bus: &Bus) -> (usize, usize, usize) {
    let count = async |topic: Topic| {
        let stream = bus.stream(topic.name()).await.unwrap();
        let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
        reader.next(100, Duration::from_millis(1)).await.unwrap().len()
    };
    let marks = Bucket::Orders.open(bus).await.unwrap().keys("due.>").await.unwrap().len();
    (count(Topic::OrdersCreated).await, count(Topic::LoggingEvents).await, marks)
}

/// Makes the change as a process that crashes at its `step`-th operation; true when it got through
/// before that.
async fn crashes_at(bus: &Bus, step: u64, side: CrashSide, on_request: bool) -> bool {
    let faults = Faults::new(1);
    let order = OrderId::of_key("1");
    let desk = desk(&faults.wrap(bus)).await;
    faults.crash_at(faults.operations() + step, side);
    let crashed = faults.crashed();
    let change = async {
        match on_request {
            true => desk.change_on_request(&order, first(&order)).await,
            false => desk.change(&order, first(&order)).await,
        }
    };
    tokio::select! { biased;
        () = crashed.cancelled() => false,
        changed = change => changed.unwrap() == Some(1),
    }
}

const SIDES: [CrashSide; 2] = [CrashSide::Before, CrashSide::After];

#[tokio::test(start_paused = true)]
async fn a_request_that_breaks_off_anywhere_is_all_or_nothing_after_the_sweep() {
    for side in SIDES {
        let (mut step, mut finished, mut lost) = (0, 0, 0);
        loop {
            step += 1;
            let bus = shop().await;
            let through = crashes_at(&bus, step, side, true).await;
            let mut sweep = Sweep::new(desk(&bus).await, AFTER);
            sweep.once::<u32>().await.unwrap();
            let early = found(&bus).await.2;
            tokio::time::advance(AFTER).await;
            sweep.once::<u32>().await.unwrap();
            let kept = desk(&bus).await.get::<u32>(&OrderId::of_key("1")).await.unwrap();
            match kept {
                Some(1) => {
                    assert_eq!(found(&bus).await, (1, 1, 0), "{side:?} {step}");
                    finished += early;
                }
                _ => {
                    assert_eq!(found(&bus).await, (0, 0, 0), "{side:?} {step}");
                    lost += 1;
                }
            }
            if through {
                break;
            }
        }
        // The mark, the read before the change, and what follows it: all were met.
        assert!(step > 6 && finished >= 3 && lost >= 1, "{side:?}: {step} {finished} {lost}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_handled_again_finishes_what_broke_off_anywhere() {
    for side in SIDES {
        let mut step = 0;
        loop {
            step += 1;
            let bus = shop().await;
            let through = crashes_at(&bus, step, side, false).await;
            let order = OrderId::of_key("1");
            let again = desk(&bus).await.change(&order, first(&order)).await.unwrap();
            assert_eq!(again, Some(1));
            assert_eq!(found(&bus).await, (1, 1, 0), "{side:?} {step}");
            if through {
                break;
            }
        }
        assert!(step > 4, "{side:?}: {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_of_a_request_at_work_is_left_alone() {
    let bus = shop().await;
    let marks = Bucket::Orders.open(&bus).await.unwrap();
    marks.create(format!("due.{}.1", OrderId::of_key("1")), "").await.unwrap();
    let mut sweep = Sweep::new(desk(&bus).await, AFTER);
    for seconds in [0, 30, 29] {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        sweep.once::<u32>().await.unwrap();
        assert_eq!(found(&bus).await.2, 1);
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    sweep.once::<u32>().await.unwrap();
    assert_eq!(found(&bus).await.2, 0);
}
