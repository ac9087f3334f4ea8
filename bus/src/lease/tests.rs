//! Leases on the embedded backend, on paused time: one holder at a time, and always a next one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, advance, sleep, sleep_until, timeout};

use super::{Attempt, Contender, Lease};
use crate::embedded::Embedded;
use crate::{BucketConfig, BucketName, Bus, ErrorKind, KeyValue};

const TTL: Duration = Duration::from_secs(3);

struct World {
    broker: Embedded,
    bucket: KeyValue,
}

impl World {
    async fn new() -> Self {
        let broker = Embedded::new();
        let bus = Bus::with_driver(Arc::new(broker.another()));
        let config = BucketConfig::new(BucketName::new("leases").unwrap());
        Self { bucket: bus.ensure_kv(&config).await.unwrap(), broker }
    }

    fn contender(&self, value: &str) -> Contender {
        Lease::contend(&self.bucket, "k", value, TTL).unwrap()
    }
}

/// Who has it, when the try does not get it.
async fn taken(contender: &mut Contender) -> Option<String> {
    match contender.try_take().await.unwrap() {
        Attempt::Taken { value, .. } => Some(value),
        Attempt::Held(_) => None,
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_holds_and_the_other_is_told_who() {
    let world = World::new().await;
    let (mut one, mut two) = (world.contender("one"), world.contender("two"));
    let first = one.take().await.unwrap();
    assert_eq!(Lease::holder(&world.bucket, "k").await.unwrap().as_deref(), Some("one"));
    // It is renewed: nobody follows, however long the other one looks.
    for _ in 0..100 {
        assert_eq!(taken(&mut two).await.as_deref(), Some("one"));
        assert!(first.holds());
        sleep(TTL / 4).await;
    }
    // The contender that got it is another one's rival as well: it does not take from itself.
    assert_eq!(taken(&mut one).await.as_deref(), Some("one"));
    assert!(matches!(
        Lease::try_take(&world.bucket, "k", "three", TTL).await.unwrap(),
        Attempt::Taken { value, .. } if value == "one"
    ));
}

#[tokio::test(start_paused = true)]
async fn a_release_hands_over_at_once_and_raises_the_term() {
    let world = World::new().await;
    let first = world.contender("one").take().await.unwrap();
    let status = first.status();
    let (mut two, began) = (world.contender("two"), Instant::now());
    assert_eq!(taken(&mut two).await.as_deref(), Some("one"));
    first.release().await;
    assert!(!status.holds());
    status.lost().await;
    assert_eq!(Lease::holder(&world.bucket, "k").await.unwrap(), None);
    let second = two.take().await.unwrap();
    assert_eq!((status.term(), second.term(), began.elapsed()), (1, 2, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_is_followed_after_its_time() {
    let world = World::new().await;
    let first = world.contender("one").take().await.unwrap();
    let (status, began) = (first.status(), Instant::now());
    drop(first);
    assert!(!status.holds());
    status.lost().await;
    let mut two = world.contender("two");
    let second = two.take().await.unwrap();
    assert!(began.elapsed() >= TTL && second.term() == 2);
    // And a record that a contender sees first when it comes late is waited for from then on.
    drop(second);
    sleep(10 * TTL).await;
    let (mut three, began) = (world.contender("three"), Instant::now());
    three.take().await.unwrap();
    assert!(began.elapsed() >= TTL);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_owner_does_not_hold_when_it_goes_on() {
    let world = World::new().await;
    let first = world.contender("one").take().await.unwrap();
    let mut two = world.contender("two");
    assert_eq!(taken(&mut two).await.as_deref(), Some("one"));
    // Neither its renewal nor anything else in this process runs meanwhile.
    advance(TTL).await;
    assert!(!first.holds());
    first.lost().await;
    let second = two.take().await.unwrap();
    assert!(second.holds() && second.term() == 2);
    // What the first one does now is nobody's business any more.
    sleep(TTL).await;
    assert!(!first.holds() && second.holds());
    first.release().await;
    sleep(TTL).await;
    assert!(second.holds());
    assert_eq!(Lease::holder(&world.bucket, "k").await.unwrap().as_deref(), Some("two"));
}

#[tokio::test(start_paused = true)]
async fn who_gives_itself_less_time_waits_as_long_as_the_holder() {
    let world = World::new().await;
    let first = Lease::contend(&world.bucket, "k", "long", 10 * TTL).unwrap().take().await.unwrap();
    let status = first.status();
    let mut short = Lease::contend(&world.bucket, "k", "short", TTL / 10).unwrap();
    let taking = tokio::spawn(async move { short.take().await.unwrap() });
    sleep(5 * TTL).await;
    assert!(status.holds() && !taking.is_finished());
    drop(first);
    let second = taking.await.unwrap();
    assert!(!status.holds() && second.holds());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_deleted_ends_the_lease_and_one_that_cannot_be_read_is_waited_for() {
    let world = World::new().await;
    let first = world.contender("one").take().await.unwrap();
    world.bucket.delete("k", None).await.unwrap();
    let second = world.contender("two").take().await.unwrap();
    timeout(TTL, first.lost()).await.expect("the renewal finds it gone");
    drop(second);
    world.bucket.put("k", "not a record").await.unwrap();
    let (mut three, began) = (world.contender("three"), Instant::now());
    assert_eq!(taken(&mut three).await.as_deref(), Some(""));
    three.take().await.unwrap();
    assert!(began.elapsed() >= TTL);
}

#[tokio::test(start_paused = true)]
async fn a_contender_tells_a_living_holder_from_one_that_stands_still() {
    let world = World::new().await;
    let first = world.contender("one").take().await.unwrap();
    let mut two = world.contender("two");
    let mut still = async || match two.try_take().await.unwrap() {
        Attempt::Taken { still, .. } => still,
        Attempt::Held(_) => panic!("it is held"),
    };
    assert_eq!(still().await, Duration::ZERO);
    sleep(TTL / 6).await;
    assert_eq!(still().await, TTL / 6);
    sleep(TTL / 4).await;
    assert_eq!(still().await, Duration::ZERO, "it was renewed");
    drop(first);
    sleep(TTL / 2).await;
    assert_eq!(still().await, TTL / 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_removed_leaves_nothing() {
    let world = World::new().await;
    let first = world.contender("one").take().await.unwrap();
    let status = first.status();
    first.remove().await;
    assert!(!status.holds() && world.bucket.get("k").await.unwrap().is_none());
    assert_eq!(world.contender("two").take().await.unwrap().term(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_version_wrote_is_understood() {
    let world = World::new().await;
    world.bucket.put("k", r#"{"term":7,"beat":3,"held":true}"#).await.unwrap();
    let mut one = world.contender("one");
    assert_eq!(taken(&mut one).await.as_deref(), Some(""));
    let held = one.take().await.unwrap();
    assert_eq!(held.term(), 8);
    let kept = world.bucket.get("k").await.unwrap().unwrap().value;
    let kept: serde_json::Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(
        (&kept["term"], &kept["held"], &kept["value"]),
        (&8.into(), &true.into(), &"one".into())
    );
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused() {
    let world = World::new().await;
    let refused = |key: &str, value: String, ttl| {
        let contender = Lease::contend(&world.bucket, key, value, ttl);
        contender.map(drop).unwrap_err().kind()
    };
    for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::MAX] {
        assert_eq!(refused("k", String::new(), ttl), ErrorKind::Invalid);
    }
    assert_eq!(refused("k", "x".repeat(1025), TTL), ErrorKind::Invalid);
    assert_eq!(refused("a b", String::new(), TTL), ErrorKind::Invalid);
}

#[cfg(feature = "fault")]
mod faulty {
    use std::sync::{Mutex, PoisonError};

    use proptest::prelude::*;
    use tokio::task::JoinSet;

    use super::*;
    use crate::LeaseStatus;
    use crate::fault::{FaultRates, Faults};
    use crate::random::SplitMix;

    const RATES: FaultRates = FaultRates {
        delay: 300,
        max_delay: Duration::from_millis(1500),
        fail_before: 100,
        fail_after: 100,
    };
    const AWAY: FaultRates = FaultRates { fail_before: 1000, ..RATES };

    type Statuses = Arc<Mutex<Vec<LeaseStatus>>>;

    /// Takes, holds for a while, and releases, drops or is cut off from the backend.
    async fn contend(world: Arc<World>, name: &'static str, seed: u64, statuses: Statuses) {
        let mut random = SplitMix::new(seed);
        let bus = Bus::with_driver(Arc::new(world.broker.another()));
        let faults = Faults::new(seed);
        let bucket = faults.wrap(&bus).kv("leases").await.unwrap();
        faults.set_rates(RATES);
        let mut contender = Lease::contend(&bucket, "k", name, TTL).unwrap();
        loop {
            if random.next().is_multiple_of(3) {
                // Somebody who stops waiting in the middle, and comes back.
                let patience = Duration::from_millis(random.next() % 4000);
                let Ok(taken) = timeout(patience, contender.take()).await else { continue };
                hold(taken.unwrap(), &faults, &mut random, &statuses).await;
            } else {
                let lease = contender.take().await.unwrap();
                hold(lease, &faults, &mut random, &statuses).await;
            }
        }
    }

    async fn hold(lease: Lease, faults: &Faults, random: &mut SplitMix, statuses: &Statuses) {
        statuses.lock().unwrap_or_else(PoisonError::into_inner).push(lease.status());
        let _ = timeout(Duration::from_millis(random.next() % 10_000), lease.lost()).await;
        match random.next() % 3 {
            0 => lease.release().await,
            1 => drop(lease),
            _ => {
                faults.set_rates(AWAY);
                sleep(Duration::from_millis(random.next() % 8000)).await;
                faults.set_rates(RATES);
            }
        }
    }

    async fn run(seed: u64) {
        let (world, statuses) = (Arc::new(World::new().await), Statuses::default());
        let mut contenders = JoinSet::new();
        for (at, name) in ["one", "two", "three"].into_iter().enumerate() {
            let seed = seed.wrapping_add(at as u64);
            contenders.spawn(contend(world.clone(), name, seed, statuses.clone()));
        }
        for _ in 0..20_000 {
            sleep(Duration::from_millis(23)).await;
            let statuses = statuses.lock().unwrap();
            let holding: Vec<u64> =
                statuses.iter().filter(|s| s.holds()).map(LeaseStatus::term).collect();
            assert!(holding.len() <= 1, "{holding:?} at once");
        }
        contenders.shutdown().await;
        let statuses = statuses.lock().unwrap();
        let terms: Vec<u64> = statuses.iter().map(LeaseStatus::term).collect();
        assert!(terms.len() > 10, "they hand over: {terms:?}");
        assert!(terms.windows(2).all(|pair| pair[0] < pair[1]), "{terms:?}");
    }

    /// A seed by which two held at once, before each try had a beat of its own.
    #[tokio::test(start_paused = true)]
    async fn a_seed_that_failed() {
        run(8_941_589_570_746_368_082).await;
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn two_never_hold_at_once(seed: u64) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(run(seed));
        }
    }

    /// A renewal that was written although its answer, and that of the look after it, were lost:
    /// the next try finds it and must not take it for its own, because the others may have seen it
    /// long before.
    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_the_try_that_wrote_it() {
        let world = World::new().await;
        let bus = Bus::with_driver(Arc::new(world.broker.another()));
        let faults = Faults::new(1);
        let bucket = faults.wrap(&bus).kv("leases").await.unwrap();
        let began = Instant::now();
        let lease = Lease::contend(&bucket, "k", "one", TTL).unwrap().take().await.unwrap();
        let at = |part: u32| sleep_until(began + TTL * part / 120);
        faults.set_rates(FaultRates { fail_after: 1000, ..FaultRates::NONE });
        at(41).await;
        assert_eq!(faults.operations(), 5, "opened, read and written; renewed and looked at");
        // The next try is at 50 and finds what the one at 40 wrote; then nothing gets through.
        faults.set_rates(FaultRates::NONE);
        at(51).await;
        faults.set_rates(AWAY);
        at(99).await;
        assert!(lease.holds());
        at(101).await;
        assert!(!lease.holds(), "the last write that it knows of began at 0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_whose_answer_was_lost_is_recognised_at_the_next_try() {
        let world = World::new().await;
        let bus = Bus::with_driver(Arc::new(world.broker.another()));
        let faults = Faults::new(1);
        let bucket = faults.wrap(&bus).kv("leases").await.unwrap();
        let mut one = Lease::contend(&bucket, "k", "one", TTL).unwrap();
        faults.set_rates(FaultRates { fail_after: 1000, ..FaultRates::NONE });
        // The read fails too: only what comes after it may be lost.
        assert!(one.try_take().await.unwrap_err().is_retryable());
        faults.set_rates(FaultRates::NONE);
        let entry = world.bucket.get("k").await.unwrap();
        assert!(entry.is_none());
        let id = one.id.clone();
        let stands = format!(r#"{{"term":1,"beat":0,"held":true,"id":"{id}","value":"one"}}"#);
        world.bucket.put("k", stands).await.unwrap();
        let Attempt::Held(lease) = one.try_take().await.unwrap() else {
            panic!("its own record is not in its way")
        };
        assert_eq!(lease.term(), 2);
    }
}
