//! Settling: what an ack ends, what a lease brings back, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Target;
use super::bench::{Case, PATIENCE, SHORT_LEASE, ack_all, collect, refuses, sequences};
use crate::capability::{Capability, Support};
use crate::consumer::Consumer;
use crate::driver::Settlement;
use crate::error::ErrorKind;

/// An ack by the token of a delivery that was given back either settles the message for good, or is
/// refused as stale and the message comes again: it is never taken and forgotten.
pub async fn ack_after_retry_is_kept_or_refused(target: &dyn Target) {
    let case = Case::new(target).await;
    case.publish("a").await;
    let consumer = case.consumer("c").open().await.unwrap();
    let first = collect(&consumer, 1).await.remove(0);
    let (token, delay) = (first.token().clone(), Duration::from_secs(1));
    first.retry(delay).await.unwrap();
    match consumer.settle(&token, Settlement::Ack).await {
        Ok(()) => {
            tokio::time::sleep(2 * delay).await;
            case.assert_nothing_before_a_new_message(&consumer).await;
        }
        Err(stale) => {
            assert_eq!(stale.kind(), ErrorKind::Stale, "{stale}");
            let again = collect(&consumer, 1).await.remove(0);
            assert_eq!(again.attempt(), 2);
            again.ack_confirmed().await.unwrap();
        }
    }
}

/// After a confirmed ack the message never comes again, however often it is acked.
pub async fn ack_confirmed_is_final(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").ack_wait(SHORT_LEASE).open().await.unwrap();
    case.publish("a").await;
    let delivery = collect(&consumer, 1).await.remove(0);
    let token = delivery.token().clone();
    delivery.ack_confirmed().await.unwrap();
    assert_eq!(case.info("c").await.unsettled, 0, "recorded when it returned");
    consumer.settle(&token, Settlement::Ack).await.expect("acking twice is as good as once");
    tokio::time::sleep(2 * SHORT_LEASE).await;
    case.assert_nothing_before_a_new_message(&consumer).await;
}

/// A delivery that nobody settles comes again when its lease ends, with the next attempt number.
pub async fn drop_unsettled_redelivers(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").ack_wait(SHORT_LEASE).open().await.unwrap();
    let sequence = case.publish("a").await;
    let started = Instant::now();
    for attempt in 1..=3 {
        let delivery = collect(&consumer, 1).await.remove(0);
        assert_eq!((delivery.message().sequence, delivery.attempt()), (sequence, attempt));
        assert!(started.elapsed() >= SHORT_LEASE * (attempt - 1), "delivered while leased");
        if attempt == 3 {
            delivery.ack_confirmed().await.unwrap();
        }
    }
    tokio::time::sleep(2 * SHORT_LEASE).await;
    case.assert_nothing_before_a_new_message(&consumer).await;
}

/// The consumer's position is what was settled: acks of A, B and D stay after everything of the
/// process is gone; C and E come again.
pub async fn checkpoint_capture(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").ack_wait(SHORT_LEASE).open().await.unwrap();
    case.publish_many("a", 5).await;
    let mut left = Vec::new();
    for delivery in collect(&consumer, 5).await {
        match delivery.message().sequence {
            1 | 2 | 4 => delivery.ack_confirmed().await.unwrap(),
            _ => left.push(delivery),
        }
    }
    drop((left, consumer));
    let case = case.again(target).await;
    let consumer = case.bus.bind(&case.name, "c").await.unwrap();
    let again = collect(&consumer, 2).await;
    assert_eq!(sequences(&again), [3, 5]);
    // Where attempts are counted by the process, its end is the end of the count.
    let counted = case.bus.support(Capability::AttemptCount) == Support::Native;
    assert!(!counted || again.iter().all(|delivery| delivery.attempt() == 2));
    ack_all(again).await;
    case.assert_nothing_before_a_new_message(&consumer).await;
    assert!(case.info("c").await.settled_sequence >= 5);
}

/// A delayed retry comes no sooner than asked for, and holds nothing else up meanwhile.
pub async fn retry_delay_floor(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::RetryDelay).await {
        return;
    }
    let consumer = case.consumer("c").open().await.unwrap();
    let (sequence, delay) = (case.publish("a").await, Duration::from_millis(1500));
    let first = collect(&consumer, 1).await.remove(0);
    let asked = Instant::now();
    first.retry(delay).await.unwrap();
    let later = case.publish("b").await;
    let next = collect(&consumer, 1).await;
    // On a machine that stalled here for the whole delay the retry may rightly be the first.
    let in_time = asked.elapsed() < delay;
    assert!(!in_time || sequences(&next) == [later], "a resting message holds up a new one");
    let mut both = next;
    both.extend(collect(&consumer, 1).await);
    assert!(asked.elapsed() >= delay, "delivered after {:?}", asked.elapsed());
    both.sort_by_key(|delivery| delivery.message().sequence);
    assert_eq!(sequences(&both), [sequence, later]);
    assert_eq!((both[0].attempt(), both[1].attempt()), (2, 1));
    ack_all(both).await;
}

/// A delayed retry comes, and not too early, although the process that asked for it is gone.
pub async fn retry_survives_crash(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::RetryDelay).await {
        return;
    }
    let consumer = case.consumer("c").open().await.unwrap();
    let (sequence, delay) = (case.publish("a").await, Duration::from_secs(2));
    let first = collect(&consumer, 1).await.remove(0);
    let asked = Instant::now();
    first.retry(delay).await.unwrap();
    drop(consumer);
    let again = case.again(target).await;
    drop(case);
    let consumer = again.bus.bind(&again.name, "c").await.unwrap();
    let second = collect(&consumer, 1).await.remove(0);
    assert!(asked.elapsed() >= delay, "delivered after {:?}", asked.elapsed());
    assert_eq!((second.message().sequence, second.attempt()), (sequence, 2));
    second.ack_confirmed().await.unwrap();
}

/// A message that always fails does not keep the others from being done.
pub async fn poison_does_not_block(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").max_unsettled(4).open().await.unwrap();
    case.publish_many("a", 30).await;
    let (mut done, mut poisoned) = (BTreeSet::new(), 0);
    for _ in 0..2000 {
        for delivery in collect(&consumer, 1).await {
            if delivery.message().sequence == 1 {
                poisoned += 1;
                delivery.retry(Duration::from_millis(10)).await.unwrap();
            } else {
                done.insert(delivery.message().sequence);
                delivery.ack_confirmed().await.unwrap();
            }
        }
        if done.len() == 29 && poisoned > 1 {
            return;
        }
    }
    panic!("{} of 29 done, the poison was seen {poisoned} times", done.len());
}

/// A message is delivered as often as allowed, and then no more: not after a lost lease, not
/// after a retry.
pub async fn max_attempts_end(target: &dyn Target) {
    let case = Case::new(target).await;
    let builder = case.consumer("c").ack_wait(SHORT_LEASE).max_attempts(3);
    let consumer = builder.open().await.unwrap();
    case.publish_many("a", 2).await;
    let mut attempts = BTreeMap::from([(1, 0), (2, 0)]);
    for _ in 0..6 {
        let delivery = collect(&consumer, 1).await.remove(0);
        let sequence = delivery.message().sequence;
        let before = attempts.get_mut(&sequence).expect("one of the two");
        *before += 1;
        assert_eq!(delivery.attempt(), *before, "message {sequence}");
        // The first is retried, the second is left to its lease.
        if sequence == 1 {
            delivery.retry(Duration::ZERO).await.unwrap();
        }
    }
    assert!(attempts.values().all(|attempts| *attempts == 3), "{attempts:?}");
    tokio::time::sleep(2 * SHORT_LEASE).await;
    case.assert_nothing_before_a_new_message(&consumer).await;
    case.wait_unsettled("c", 0).await;
}

/// A rejected message never comes again, although it was not done.
pub async fn reject_is_terminal(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").ack_wait(SHORT_LEASE).open().await.unwrap();
    case.publish("a").await;
    let delivery = collect(&consumer, 1).await.remove(0);
    delivery.reject("the price is negative, and \"so on\"\nand on").await.unwrap();
    case.wait_unsettled("c", 0).await;
    tokio::time::sleep(2 * SHORT_LEASE).await;
    case.assert_nothing_before_a_new_message(&consumer).await;
}

/// While the lease is extended nobody else gets the message, for several times its length;
/// without, it is delivered again and the slow holder's ack is refused.
pub async fn extend_keeps_lease(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::LeaseExtension).await {
        return;
    }
    let consumer = case.consumer("slow").ack_wait(SHORT_LEASE).open().await.unwrap();
    case.publish("a").await;
    let slow = collect(&consumer, 1).await.remove(0);
    let faster = collect(&consumer, 1).await.remove(0);
    assert_eq!(faster.attempt(), 2);
    let token = slow.token().clone();
    assert_eq!(slow.ack_confirmed().await.unwrap_err().error.kind(), ErrorKind::Stale);
    let fenced = consumer.settle(&token, Settlement::Ack).await;
    if let Err(error) = fenced {
        assert_eq!(error.kind(), ErrorKind::Stale, "{error}");
    }
    faster.ack_confirmed().await.unwrap();

    // A stall of this machine would end the lease rightly: then the case is tried again, slower.
    for lease in [1, 2, 4, 8, 16].map(Duration::from_secs) {
        if extends_five_times(&case, lease).await {
            return;
        }
    }
    panic!("this machine stalls for seconds at a time: no verdict");
}

/// False when this machine was too slow for the lease to be kept.
async fn extends_five_times(case: &Case, lease: Duration) -> bool {
    let name = format!("extends-{}", lease.as_secs());
    let consumer = case.consumer(&name).ack_wait(lease).open().await.unwrap();
    let mut kept = collect(&consumer, 1).await.remove(0);
    assert_eq!(kept.message().sequence, 1);
    let (started, mut renewed) = (Instant::now(), Instant::now());
    while started.elapsed() < 5 * lease {
        let meanwhile = consumer.fetch(1, lease / 5).await.unwrap();
        let extended = kept.extend().await;
        if renewed.elapsed() > lease * 4 / 5 {
            return false;
        }
        assert!(meanwhile.is_empty(), "delivered while the lease was kept");
        extended.unwrap();
        renewed = Instant::now();
    }
    let settled = kept.ack_confirmed().await;
    if renewed.elapsed() > lease * 4 / 5 {
        return false;
    }
    settled.unwrap();
    ends_settled(&consumer).await;
    true
}

async fn ends_settled(consumer: &Consumer) {
    let deadline = Instant::now() + PATIENCE;
    while consumer.info().await.unwrap().unsettled > 0 {
        assert!(Instant::now() < deadline, "an ack was not recorded");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
