//! The layers against models: whatever comes in whatever order, each does what a few lines that are
//! written for reading say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockgate_resilience::{
    BoxError, Breaker, BreakerConfig, BreakerLayer, Bulkhead, BulkheadFull, Deadline, Retry,
    RetryBudget, RetryConfig, State, is_refused,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, ServiceExt, service_fn};

type Seen = BTreeMap<&'static str, u32>;

/// Checks what `strategy` makes, in paused time, and that each of `must` was met on the way: a
/// comparison in which one of them never happens says nothing about it.
fn check<S: Strategy>(
    strategy: S,
    must: &[&str],
    test: impl AsyncFn(S::Value, &RefCell<Seen>) -> Result<(), TestCaseError>,
) {
    let seen = RefCell::new(Seen::new());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let checked = runner.run(&strategy, |value| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(test(value, &seen))
    });
    checked.unwrap();
    for what in must {
        assert!(seen.borrow().contains_key(what), "{what}: never among {:?}", seen.borrow());
    }
}

fn saw(seen: &RefCell<Seen>, what: &'static str) {
    *seen.borrow_mut().entry(what).or_default() += 1;
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A call that takes so long, and fails or does not.
fn takes_and_fails() -> impl Strategy<Value = (u64, bool)> {
    (prop_oneof![3 => 0..10_u64, 1 => 25..60_u64], any::<bool>())
}

/// One call after the other: which are let through, and what the breaker is then.
#[test]
fn a_breaker_lets_through_what_its_model_does() {
    let calls = proptest::collection::vec((takes_and_fails(), 0..60_u64), 1..80);
    let must = ["refused", "opened", "opened by slow calls", "opened again", "closed again"];
    check((1..6_usize, 1..6_usize, 1..4_usize, calls), &must, async |case, seen| {
        let (window, minimum_calls, half_open_calls, calls) = case;
        let config = BreakerConfig {
            window,
            minimum_calls,
            failure_rate: 0.5,
            slow_after: ms(20),
            slow_rate: 1.0,
            wait: ms(100),
            half_open_calls,
        };
        let breaker = Breaker::new(config);
        let call = BreakerLayer::new(breaker.clone());
        let call = ServiceBuilder::new().layer(call).service(service_fn(attempt));
        let (mut state, mut last, mut opened) = (State::Closed, VecDeque::new(), Instant::now());
        for ((took, fails), gap) in calls {
            if state == State::Open && opened.elapsed() >= ms(100) {
                (state, last) = (State::HalfOpen, VecDeque::new());
            }
            let answer = call.clone().oneshot((took, fails)).await;
            let refused = answer.as_ref().is_err_and(is_refused);
            prop_assert_eq!(refused, state == State::Open);
            if refused {
                saw(seen, "refused");
            } else {
                prop_assert_eq!(answer.is_err(), fails);
                last.push_back((fails, took >= 20));
                let trial = state == State::HalfOpen;
                let size = if trial { half_open_calls } else { window };
                let least = if trial { half_open_calls } else { minimum_calls.min(window) };
                if last.len() > size {
                    last.pop_front();
                }
                let failed = last.iter().filter(|call| call.0).count() * 2 >= last.len();
                let slow = last.iter().all(|call| call.1);
                if last.len() >= least && (failed || slow) {
                    let why = if trial { "opened again" } else { "opened" };
                    saw(seen, if failed { why } else { "opened by slow calls" });
                    (state, opened, last) = (State::Open, Instant::now(), VecDeque::new());
                } else if last.len() >= least && trial {
                    saw(seen, "closed again");
                    (state, last) = (State::Closed, VecDeque::new());
                }
            }
            prop_assert_eq!(breaker.snapshot().state, state);
            sleep(ms(gap)).await;
        }
        Ok(())
    });
}

async fn attempt((took, fails): (u64, bool)) -> Result<(), BoxError> {
    sleep(ms(took)).await;
    if fails { Err("it fails".into()) } else { Ok(()) }
}

/// Who comes when, and stays how long: who has a place and when, and who is told that there is none.
#[test]
fn a_bulkhead_serves_in_the_order_of_arrival() {
    let comers = proptest::collection::vec((1..200_u64, 1..800_u64), 1..30);
    let wait = prop_oneof![Just(0), 1..600_u64];
    let must = ["at once", "waited", "in vain", "in vain at once"];
    check((1..4_usize, wait, comers), &must, async |(places, wait, comers), seen| {
        // The model: when each place is free, and so when each comer has one.
        let mut free = vec![0; places];
        let (mut now, mut expected, mut tie) = (0, Vec::new(), false);
        for (gap, stays) in &comers {
            now += gap;
            let first = (0..places).min_by_key(|place| free[*place]).unwrap();
            let begins = free[first].max(now);
            tie |= begins == now + wait && begins > now || free.contains(&now);
            let served = begins == now || begins < now + wait;
            if served {
                free[first] = begins + stays;
            }
            let ends = if served { begins + stays } else { now + wait };
            expected.push((served, ends));
            saw(
                seen,
                match (begins == now, served, wait) {
                    (true, ..) => "at once",
                    (_, true, _) => "waited",
                    (_, false, 0) => "in vain at once",
                    (_, false, _) => "in vain",
                },
            );
        }
        // Who is first of two things at the same moment is nobody's promise.
        prop_assume!(!tie);

        let begin = Instant::now();
        let bulkhead = ServiceBuilder::new().layer(Bulkhead::new(places, ms(wait)));
        let call = bulkhead.service(service_fn(|stays| attempt((stays, false))));
        let mut arrives = 0;
        let calls = comers.iter().map(|(gap, stays)| {
            arrives += gap;
            let (call, arrives, stays) = (call.clone(), arrives, *stays);
            async move {
                sleep(ms(arrives)).await;
                let answer = call.oneshot(stays).await;
                let full = answer.as_ref().is_err_and(|why| why.is::<BulkheadFull>());
                assert!(full || answer.is_ok());
                (!full, u64::try_from(begin.elapsed().as_millis()).unwrap())
            }
        });
        prop_assert_eq!(futures_util::future::join_all(calls).await, expected);
        Ok(())
    });
}

/// How often each call is attempted and what it ends with, one call after the other.
#[test]
fn retries_end_at_their_number_at_the_budget_and_at_what_is_permanent() {
    // How often it fails before it goes well, and whether that is an error of the permanent kind.
    let calls = proptest::collection::vec((0..6_u32, any::<bool>()), 1..40);
    let budget = proptest::option::of((0..=10_u32, 0..4_u32));
    let must = ["went well", "at the last attempt", "at the budget", "permanent"];
    check((1..5_u32, budget, calls), &must, async |(attempts, budget, calls), seen| {
        let config = RetryConfig { attempts, ..RetryConfig::default() };
        let shared = budget.map(|(tenths, most)| RetryBudget::new(f64::from(tenths) / 10.0, most));
        let again = |why: &BoxError| why.to_string() == "again";
        let retry = Retry::layer(config, shared, again).unwrap();
        let sent = Arc::new(Mutex::new(0));
        let count = sent.clone();
        let call = ServiceBuilder::new().layer(retry).service(service_fn(move |(fails, last)| {
            let mut sent = count.lock().unwrap();
            *sent += 1;
            let answer = match *sent <= fails {
                true => Err::<(), BoxError>("again".into()),
                false if last => Err("never".into()),
                false => Ok(()),
            };
            async { answer }
        }));
        let mut tenths = budget.map_or(0, |(_, most)| most * 10);
        for (fails, last) in calls {
            *sent.lock().unwrap() = 0;
            let answer = call.clone().oneshot((fails, last)).await;
            let mut expected = 1;
            let ended = loop {
                if expected > fails {
                    if let Some((share, most)) = budget {
                        tenths = (tenths + share).min(most * 10);
                    }
                    break if last { "permanent" } else { "went well" };
                }
                if expected == attempts {
                    break "at the last attempt";
                }
                if budget.is_some() && tenths < 10 {
                    break "at the budget";
                }
                tenths = tenths.saturating_sub(10);
                expected += 1;
            };
            saw(seen, ended);
            prop_assert_eq!(*sent.lock().unwrap(), expected);
            let error = answer.err().map(|why| why.to_string());
            let expected = match ended {
                "went well" => None,
                "permanent" => Some("never"),
                _ => Some("again"),
            };
            prop_assert_eq!(error.as_deref(), expected);
        }
        Ok(())
    });
}

/// Each pause is between what doubling says and that much longer, and calls that fail together draw
/// pauses of their own.
#[test]
fn pauses_double_and_are_spread() {
    let sizes = (1..300_u64, 1..2000_u64, 0..=10_u32);
    check(sizes, &["at the longest", "spread"], async |(pause, more, tenths), seen| {
        const CALLS: usize = 20;
        let (longest, jitter) = (pause + more, f64::from(tenths) / 10.0);
        let config =
            RetryConfig { attempts: 5, pause: ms(pause), longest_pause: ms(longest), jitter };
        let retry = Retry::layer(config, None, |_: &BoxError| true).unwrap();
        let times = Arc::new(Mutex::new(vec![Vec::new(); CALLS]));
        let book = times.clone();
        let call = ServiceBuilder::new().layer(retry).service(service_fn(move |caller: usize| {
            book.lock().unwrap()[caller].push(Instant::now());
            async { Err::<(), BoxError>("no".into()) }
        }));
        let calls = (0..CALLS).map(|caller| call.clone().oneshot(caller));
        futures_util::future::join_all(calls).await;
        let times = times.lock().unwrap();
        for caller in times.iter() {
            prop_assert_eq!(caller.len(), 5);
            for (retried, pair) in caller.windows(2).enumerate() {
                let least = (pause << retried).min(longest);
                let most = ms(least).mul_f64(1.0 + jitter).min(ms(longest));
                let took = pair[1] - pair[0];
                // A timer goes off within its millisecond.
                prop_assert!(
                    took >= ms(least) && took <= most + ms(2),
                    "{took:?} {least} {most:?}"
                );
                if least == longest {
                    saw(seen, "at the longest");
                }
            }
        }
        if ms(pause).mul_f64(jitter).min(ms(more)) > ms(20) {
            saw(seen, "spread");
            let first: Vec<_> = times.iter().map(|caller| caller[1] - caller[0]).collect();
            prop_assert!(first.iter().any(|pause| *pause != first[0]), "{first:?}");
        }
        Ok(())
    });
}

/// A call has its answer in time, or is told so when the time is over and not later.
#[test]
fn a_deadline_is_when_it_says() {
    let must = ["in time", "too late"];
    check((1..500_u64, takes_and_fails(), 1..20_u64), &must, async |case, seen| {
        let (limit, (took, fails), times) = case;
        let took = took * times;
        prop_assume!(took != limit);
        let begin = Instant::now();
        let deadline = ServiceBuilder::new().layer(Deadline::new(ms(limit)));
        let answer = deadline.service(service_fn(attempt)).oneshot((took, fails)).await;
        let late = answer.is_err_and(|why| why.is::<lockgate_resilience::DeadlinePassed>());
        prop_assert_eq!(late, took > limit);
        prop_assert_eq!(begin.elapsed(), ms(took.min(limit)));
        saw(seen, if late { "too late" } else { "in time" });
        Ok(())
    });
}

#[test]
fn pauses_that_make_no_sense_are_refused() {
    let config = RetryConfig { longest_pause: ms(1), ..RetryConfig::default() };
    let why = Retry::layer(config, None, |_: &BoxError| true).err().unwrap();
    assert!(why.to_string().contains("maximum must not be less than minimum"), "{why}");
}
