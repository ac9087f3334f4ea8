//! The loop on the embedded backend: random handlers, faults, crashes and rivals, on paused time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proptest::prelude::*;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Jitter};
use crate::embedded::Embedded;
use crate::error::Result;
use crate::handler::{HandlerError, Outcome, Received};
use crate::middleware::{AfterPublish, Disposition, Handling, Middleware, Publishing, Work};
use crate::random::{SplitMix, hash};
use crate::{Bus, ConsumerBuilder, Message, Stream, StreamConfig, StreamName};

const LEASE: Duration = Duration::from_secs(3);
const HOUR: Duration = Duration::from_secs(3600);

/// What handlers did, over all processes.
#[derive(Default)]
struct Journal {
    /// Completed handlings of each key, in order.
    completed: BTreeMap<Vec<u8>, Vec<u64>>,
    at_work: BTreeSet<Vec<u8>>,
    faults: Vec<String>,
    handled: usize,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Journal>>);

impl Shared {
    fn with<T>(&self, look: impl FnOnce(&mut Journal) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, received: &Received) -> Begun {
        let key = received.message.order_key().to_vec();
        self.with(|journal| {
            journal.handled += 1;
            if !journal.at_work.insert(key.clone()) {
                let sequence = received.message.sequence;
                journal.faults.push(format!("{sequence} began while {key:?} was at work"));
            }
        });
        Begun { shared: self.clone(), key }
    }

    fn completed(&self) -> BTreeSet<u64> {
        self.with(|journal| journal.completed.values().flatten().copied().collect())
    }
}

/// A handler at work; dropped when it ends in any way.
struct Begun {
    shared: Shared,
    key: Vec<u8>,
}

impl Begun {
    fn complete(&self, sequence: u64) {
        self.shared.with(|journal| {
            let completed = journal.completed.entry(self.key.clone()).or_default();
            completed.push(sequence);
            if !completed.is_sorted() {
                journal.faults.push(format!("out of order in {:?}: {completed:?}", self.key));
            }
        });
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.shared.with(|journal| journal.at_work.remove(&self.key));
    }
}

/// Takes a while, and fails, panics, asks for a retry or rejects now and then.
async fn erratic(shared: Shared, seed: u64, received: Received) -> Result<Outcome, HandlerError> {
    let begun = shared.begin(&received);
    let (sequence, attempt) = (received.message.sequence, received.attempt);
    let parts = [seed, sequence, u64::from(attempt)].map(u64::to_be_bytes);
    let drawn = hash(&[&parts[0], &parts[1], &parts[2]]);
    sleep(Duration::from_millis(drawn % 97 * u64::from(drawn.is_multiple_of(7)) * 60)).await;
    match drawn % 23 {
        0 => panic!("on purpose"),
        1 | 2 => Err("on purpose".into()),
        3 => Ok(Outcome::Retry(Duration::from_millis(drawn % 1000))),
        4 => Ok(Outcome::Reject(String::from("on purpose"))),
        _ => {
            begun.complete(sequence);
            Ok(Outcome::Ack)
        }
    }
}

struct World {
    broker: Embedded,
    bus: Bus,
    stream: Stream,
    shared: Shared,
}

async fn world() -> World {
    let broker = Embedded::new();
    let bus = Bus::with_driver(Arc::new(broker.another()));
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    let dead = StreamConfig::dead_letters(StreamName::new("dead").unwrap());
    bus.ensure_stream(&dead).await.unwrap();
    World { broker, bus, stream, shared: Shared::default() }
}

impl World {
    async fn publish(&self, key: u64, body: &str) -> u64 {
        let message = Message::new("s.a", body.to_owned()).unwrap().key(key.to_be_bytes());
        self.stream.publish(message).await.unwrap().sequence
    }

    fn builder(bus: &Bus) -> ConsumerBuilder {
        bus.consumer("s", "c").ack_wait(LEASE).ordered_by_key().dead_letters("dead").retry(
            Backoff::exponential(Duration::from_millis(50))
                .cap(Duration::from_secs(2))
                .jitter(Jitter::Full),
        )
    }

    async fn dead(&self) -> BTreeSet<u64> {
        let letters = self.bus.dead_letters("dead").await.unwrap().list(None, 1000).await.unwrap();
        letters.into_iter().map(|letter| letter.sequence).collect()
    }
}

type Running = JoinHandle<Result<()>>;

mod faulty {
    use super::*;
    use crate::fault::{FaultRates, Faults};

    const RATES: FaultRates = FaultRates {
        delay: 200,
        max_delay: Duration::from_millis(400),
        fail_before: 30,
        fail_after: 30,
    };
    const AWAY: FaultRates = FaultRates { fail_before: 1000, ..RATES };

    /// A process with faults of its own, which a drop of the handle's task ends as a crash would.
    fn process(world: &World, seed: u64, stop: CancellationToken) -> (Faults, Running) {
        let connection = Bus::with_driver(Arc::new(world.broker.another()));
        let faults = Faults::new(seed).with_rates(RATES);
        let builder = World::builder(&faults.wrap(&connection));
        let shared = world.shared.clone();
        let builder = builder.max_in_flight(4).max_unsettled(12).max_attempts(8);
        let running =
            builder.run(stop, move |received: Received| erratic(shared.clone(), seed, received));
        (faults, tokio::spawn(running))
    }

    /// Two processes at any time. Again and again one of them crashes and is replaced, or is cut
    /// off from the backend for longer or shorter than leases last.
    async fn run(seed: u64, keys: u64, messages: usize, troubles: usize) {
        let world = world().await;
        let mut random = SplitMix::new(seed);
        let stop = CancellationToken::new();
        let mut running: Vec<_> =
            (0..2).map(|_| process(&world, random.next(), stop.clone())).collect();
        let (mut sequences, mut healing) = (BTreeSet::new(), JoinSet::new());
        for at in 0..messages {
            sequences.insert(world.publish(random.next() % keys, "x").await);
            sleep(Duration::from_millis(random.next() % 200)).await;
            if at % (messages / (troubles + 1)).max(1) == 3 {
                let victim = (random.next() % 2) as usize;
                if random.next().is_multiple_of(2) {
                    let away = Duration::from_millis(random.next() % 8000);
                    let faults = running[victim].0.clone();
                    faults.set_rates(AWAY);
                    healing.spawn(async move {
                        sleep(away).await;
                        faults.set_rates(RATES);
                    });
                    continue;
                }
                let (_, crashed) = std::mem::replace(
                    &mut running[victim],
                    process(&world, random.next(), stop.clone()),
                );
                crashed.abort();
                let _ = crashed.await;
            }
        }
        healing.join_all().await;
        let deadline = Instant::now() + HOUR;
        loop {
            let mut ended = world.shared.completed();
            ended.extend(world.dead().await);
            if ended == sequences {
                break;
            }
            assert!(Instant::now() < deadline, "lost: {:?}", sequences.difference(&ended));
            sleep(Duration::from_secs(1)).await;
        }
        for (faults, _) in &running {
            faults.set_rates(FaultRates::NONE);
        }
        stop.cancel();
        for (_, running) in running {
            timeout(HOUR, running).await.expect("the drain ends").unwrap().unwrap();
        }
        world.shared.with(|journal| assert_eq!(journal.faults, Vec::<String>::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
        #[test]
        fn key_order_holds_and_nothing_is_lost(
            seed: u64, keys in 1_u64..6, messages in 20_usize..80, troubles in 0_usize..8,
        ) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(run(seed, keys, messages, troubles));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_holds_its_key_and_no_other() {
    let world = world().await;
    let (first, second) = (world.publish(1, "fails").await, world.publish(1, "x").await);
    let other = world.publish(2, "x").await;
    let (stop, log) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
    let (noted, began) = (log.clone(), Instant::now());
    let builder = World::builder(&world.bus).retry(Backoff::fixed(4 * LEASE)).max_in_flight(1);
    let running = tokio::spawn(builder.run(stop.clone(), move |received: Received| {
        let at = began.elapsed() >= 4 * LEASE;
        noted.lock().unwrap().push((received.message.sequence, received.attempt, at));
        async move {
            let fails = received.message.payload.as_deref() == Some(b"fails");
            if fails && received.attempt == 1 { Err("on purpose".into()) } else { Ok(Outcome::Ack) }
        }
    }));
    sleep(6 * LEASE).await;
    let expected = [(first, 1, false), (other, 1, false), (first, 2, true), (second, 1, true)];
    assert_eq!(*log.lock().unwrap(), expected);
    assert_eq!(world.bus.consumer_info("s", "c").await.unwrap().unsettled, 0);
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Publishes one message to a loop that holds it for as long as `gate` says, and starts another.
async fn two_owners(world: &World) -> (CancellationToken, Running, CancellationToken, Running) {
    let start = || {
        let (stop, shared) = (CancellationToken::new(), world.shared.clone());
        let run = World::builder(&world.bus).run(stop.clone(), move |received: Received| {
            let begun = shared.begin(&received);
            async move {
                begun.complete(received.message.sequence);
                Ok(Outcome::Ack)
            }
        });
        (stop, tokio::spawn(run))
    };
    let (stop, first) = start();
    sleep(Duration::from_secs(1)).await;
    let (stop_standby, standby) = start();
    sleep(Duration::from_secs(60)).await;
    (stop, first, stop_standby, standby)
}

#[tokio::test(start_paused = true)]
async fn a_clean_hand_over_takes_a_moment_and_a_crash_a_lease() {
    for (crashes, at_most) in [(false, LEASE / 6), (true, LEASE * 3 / 2)] {
        let world = world().await;
        let (stop, first, stop_standby, standby) = two_owners(&world).await;
        if crashes {
            first.abort();
            let _ = first.await;
        } else {
            stop.cancel();
            first.await.unwrap().unwrap();
        }
        let (stopped, sequence) = (Instant::now(), world.publish(1, "x").await);
        while !world.shared.completed().contains(&sequence) {
            assert!(stopped.elapsed() < at_most, "crashes: {crashes}");
            sleep(Duration::from_millis(10)).await;
        }
        stop_standby.cancel();
        standby.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_brings_down_every_process_is_not_handled_for_ever() {
    let world = world().await;
    let (poison, after) = (world.publish(1, "crash").await, world.publish(1, "x").await);
    let handled = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..4 {
        let (log, stop) = (handled.clone(), CancellationToken::new());
        let builder = World::builder(&world.bus).max_attempts(2);
        let run = builder.run(stop.clone(), move |received: Received| {
            let sequence = received.message.sequence;
            log.lock().unwrap().push(sequence);
            let crashes = received.message.payload.as_deref() == Some(b"crash");
            async move {
                if crashes {
                    std::future::pending::<()>().await;
                }
                Ok(Outcome::Ack)
            }
        });
        // As long as the lease is extended it works; then the process is killed.
        let _ = timeout(10 * LEASE, run).await;
    }
    let handled = handled.lock().unwrap().clone();
    assert_eq!(handled.iter().filter(|sequence| **sequence == poison).count(), 2);
    // It waited behind the poison each time: it is not given up for that.
    assert_eq!(handled.last(), Some(&after));
    assert_eq!(world.dead().await, BTreeSet::from([poison]));
    assert_eq!(world.bus.consumer_info("s", "c").await.unwrap().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_hands_back_what_waits_in_line() {
    let world = world().await;
    for _ in 0..5 {
        world.publish(1, "x").await;
    }
    let (stop, shared) = (CancellationToken::new(), world.shared.clone());
    let running =
        tokio::spawn(World::builder(&world.bus).run(stop.clone(), move |received: Received| {
            let begun = shared.begin(&received);
            async move {
                sleep(2 * LEASE).await;
                begun.complete(received.message.sequence);
                Ok(Outcome::Ack)
            }
        }));
    sleep(LEASE).await;
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(world.shared.completed(), BTreeSet::from([1]));
    let consumer = world.bus.bind("s", "c").await.unwrap();
    let back = consumer.fetch(10, Duration::ZERO).await.unwrap();
    let back: Vec<_> = back.iter().map(|d| (d.message().sequence, d.attempt())).collect();
    assert_eq!(back, [(2, 2), (3, 2), (4, 2), (5, 2)]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_need_a_stream_that_takes_them() {
    let world = world().await;
    let open = |dead: &str| world.bus.consumer("s", "d").dead_letters(dead).open();
    let missing = open("nowhere").await.map(|_| ()).unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("consumer s/d"), "{missing}");
    let narrow = StreamConfig::parse("narrow", &["narrow.s.other"]).unwrap();
    world.bus.ensure_stream(&narrow).await.unwrap();
    let refused = open("narrow").await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("narrow.s.d"), "{refused}");
    assert!(world.bus.consumer_info("s", "d").await.unwrap_err().is_not_found());
    open("dead").await.unwrap();
    let kept = world.bus.consumer_info("s", "d").await.unwrap().config;
    assert_eq!(kept.metadata[crate::engine::dead_letter::TARGET_METADATA], "dead");
    let none = world.bus.consumer("s", "e").open().await.unwrap();
    world.publish(1, "x").await;
    let delivery = none.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let refused = delivery.dead_letter("why").await.unwrap_err();
    refused.delivery.ack_confirmed().await.unwrap();
}

/// Panics once at each of its points, for the first message.
#[derive(Default)]
struct Fragile(Arc<Mutex<BTreeSet<&'static str>>>);

impl Fragile {
    fn once(&self, point: &'static str, sequence: u64) {
        let mut met = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = sequence == 1 && met.insert(point);
        drop(met);
        assert!(!first, "{point} panics");
    }
}

impl Middleware for Fragile {
    fn handle(&self, work: &Arc<Work>, next: Handling) -> Handling {
        self.once("handle", work.received.message.sequence);
        next
    }

    fn publish(&self, _: Publishing<'_>, _: &mut Message) -> Option<AfterPublish> {
        self.once("publish", 1);
        let told = Self(self.0.clone());
        Some(Box::new(move |_| told.once("published", 1)))
    }

    fn settled(&self, work: &Work, how: Disposition) {
        let point = if how == Disposition::Left { "left" } else { "settled" };
        self.once(point, work.received.message.sequence);
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_anywhere_in_the_loop_settles_nothing_by_itself_and_frees_the_line() {
    for by_key in [true, false] {
        let world = world().await;
        let (first, second) = (world.publish(1, "give up").await, world.publish(1, "b").await);
        let (stop, panics) = (CancellationToken::new(), Arc::default());
        let builder =
            world.bus.consumer("s", "c").ack_wait(LEASE).layer(Fragile(Arc::clone(&panics)));
        let builder = builder.dead_letters("dead");
        let builder = if by_key { builder.ordered_by_key() } else { builder };
        let running = builder.run(stop.clone(), move |received: Received| async move {
            Ok::<_, HandlerError>(match received.message.sequence == first {
                true => Outcome::Reject("on purpose".into()),
                false => Outcome::Ack,
            })
        });
        let settled = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                let info = world.bus.consumer_info("s", "c").await.unwrap();
                if (info.unsettled, info.settled_sequence) == (0, second) {
                    return stop.cancel();
                }
            }
        };
        let both = async { tokio::join!(running, settled).0 };
        timeout(HOUR, both).await.expect("no key waits for ever").unwrap();
        let met = panics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(met.len(), 5, "every point was met, by key {by_key}: {met:?}");
        assert_eq!(world.dead().await, BTreeSet::from([first]), "kept once");
    }
}
