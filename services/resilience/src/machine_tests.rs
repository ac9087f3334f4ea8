//! The machine against a model that is written for reading and recounts everything each time.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;

/// What is done to both, in the order in which it is done.
#[derive(Debug, Clone)]
enum Step {
    Ask,
    /// The oldest call under way ends, or the newest.
    End {
        oldest: bool,
        failed: bool,
        took_ms: u64,
    },
    Abandon,
    Pass {
        ms: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Ask),
        4 => (any::<bool>(), any::<bool>(), 0..40_u64)
            .prop_map(|(oldest, failed, took_ms)| Step::End { oldest, failed, took_ms }),
        1 => Just(Step::Abandon),
        2 => (0..80_u64).prop_map(|ms| Step::Pass { ms }),
    ];
    proptest::collection::vec(step, 0..200)
}

fn configs() -> impl Strategy<Value = BreakerConfig> {
    let rate = prop_oneof![Just(0.3), Just(0.5), Just(1.0), Just(1.1)];
    (1..8_usize, 1..10_usize, rate.clone(), rate, 1..5_usize).prop_map(
        |(window, minimum_calls, failure_rate, slow_rate, half_open_calls)| BreakerConfig {
            window,
            minimum_calls,
            failure_rate,
            slow_after: Duration::from_millis(20),
            slow_rate,
            wait: Duration::from_millis(50),
            half_open_calls,
        },
    )
}

/// Every state ever entered, each with all that ended in it and how many are under way.
#[derive(Debug)]
struct Model {
    config: BreakerConfig,
    tenures: Vec<(State, u64)>,
    ended: Vec<(u64, bool, bool)>,
    under_way: Vec<u64>,
    now: u64,
}

impl Model {
    fn new(config: BreakerConfig) -> Self {
        let tenures = vec![(State::Closed, 0)];
        Self { config, tenures, ended: Vec::new(), under_way: Vec::new(), now: 0 }
    }

    fn tenure(&self) -> u64 {
        self.tenures.len() as u64 - 1
    }

    fn state(&self) -> (State, u64) {
        self.tenures[self.tenures.len() - 1]
    }

    fn here(&self) -> Vec<(u64, bool, bool)> {
        let here = self.tenure();
        self.ended.iter().copied().filter(|(tenure, ..)| *tenure == here).collect()
    }

    fn ask(&mut self) -> bool {
        if let (State::Open, since) = self.state()
            && self.now >= since + 50
        {
            self.tenures.push((State::HalfOpen, self.now));
        }
        let here = self.tenure();
        let out = self.under_way.iter().filter(|tenure| **tenure == here).count();
        let yes = match self.state().0 {
            State::Closed => true,
            State::Open => false,
            State::HalfOpen => out + self.here().len() < self.config.half_open_calls,
        };
        if yes {
            self.under_way.push(here);
        }
        yes
    }

    fn end(&mut self, at: usize, failed: bool, slow: bool) {
        let tenure = self.under_way.remove(at);
        self.ended.push((tenure, failed, slow));
        if tenure != self.tenure() {
            return;
        }
        let (size, least) = match self.state().0 {
            State::Closed => {
                (self.config.window, self.config.minimum_calls.min(self.config.window))
            }
            _ => (self.config.half_open_calls, self.config.half_open_calls),
        };
        let all = self.here();
        let last = &all[all.len().saturating_sub(size)..];
        if last.len() < least {
            return;
        }
        let share = |bad: usize| bad as f64 / last.len() as f64;
        let failing = share(last.iter().filter(|call| call.1).count()) >= self.config.failure_rate;
        let slow = share(last.iter().filter(|call| call.2).count()) >= self.config.slow_rate;
        if failing || slow {
            self.tenures.push((State::Open, self.now));
        } else if self.state().0 == State::HalfOpen {
            self.tenures.push((State::Closed, self.now));
        }
    }
}

/// How often each thing happened that the machine has to get right.
type Seen = BTreeMap<&'static str, u32>;

fn compare(config: BreakerConfig, steps: Vec<Step>, seen: &mut Seen) -> Result<(), TestCaseError> {
    let mut saw = |what| *seen.entry(what).or_default() += 1;
    let begin = Instant::now();
    let (mut machine, mut model) = (Machine::new(config.clone(), begin), Model::new(config));
    for step in steps {
        let now = begin + Duration::from_millis(model.now);
        let before = model.state().0;
        match step {
            Step::Ask => {
                let admitted = machine.admit(now);
                prop_assert_eq!(admitted.is_ok(), model.ask());
                match admitted {
                    Ok(tenure) => prop_assert_eq!(tenure, model.tenure()),
                    Err(Some(_)) => saw("refused, open"),
                    Err(None) => saw("refused, half-open"),
                }
            }
            Step::End { .. } | Step::Abandon if model.under_way.is_empty() => {}
            Step::End { oldest, failed, took_ms } => {
                let at = if oldest { 0 } else { model.under_way.len() - 1 };
                let tenure = model.under_way[at];
                if tenure != model.tenure() {
                    saw("came too late");
                }
                machine.record(tenure, failed, Duration::from_millis(took_ms), now);
                model.end(at, failed, took_ms >= 20);
                match (before, model.state().0, failed) {
                    (State::Closed, State::Open, true) => saw("closed to open"),
                    (State::Closed, State::Open, false) => saw("closed to open by slow calls"),
                    (State::HalfOpen, State::Open, _) => saw("half-open to open"),
                    (State::HalfOpen, State::Closed, _) => saw("half-open to closed"),
                    _ => {}
                }
            }
            Step::Abandon => {
                let tenure = model.under_way.remove(0);
                if tenure == model.tenure() && before == State::HalfOpen {
                    saw("a trial was abandoned");
                }
                machine.forget(tenure);
            }
            Step::Pass { ms } => model.now += ms,
        }
        prop_assert_eq!(machine.state(), model.state().0);
        prop_assert_eq!(machine.tenure(), model.tenure());
    }
    // Whatever happened, it never tries sooner than it has to wait.
    for pair in model.tenures.windows(2) {
        if pair[0].0 == State::Open {
            prop_assert_eq!(pair[1].0, State::HalfOpen);
            prop_assert!(pair[1].1 - pair[0].1 >= 50);
        }
    }
    Ok(())
}

#[test]
fn it_does_what_the_model_does() {
    let seen = RefCell::new(Seen::new());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let compared = runner.run(&(configs(), steps()), |(config, steps)| {
        compare(config, steps, &mut seen.borrow_mut())
    });
    compared.unwrap();
    // A comparison in which one of these never happens says nothing about it.
    for what in [
        "refused, open",
        "refused, half-open",
        "came too late",
        "closed to open",
        "closed to open by slow calls",
        "half-open to open",
        "half-open to closed",
        "a trial was abandoned",
    ] {
        assert!(seen.borrow().contains_key(what), "{what}: never among {:?}", seen.borrow());
    }
}

#[test]
fn what_was_sent_before_it_opened_has_no_say_when_it_tries() {
    let config = BreakerConfig { window: 2, minimum_calls: 2, ..BreakerConfig::default() };
    let (begin, wait) = (Instant::now(), config.wait);
    let mut machine = Machine::new(config, begin);
    let late = machine.admit(begin).unwrap();
    for _ in 0..2 {
        let tenure = machine.admit(begin).unwrap();
        machine.record(tenure, true, Duration::ZERO, begin);
    }
    assert_eq!(machine.admit(begin), Err(Some(wait)));
    let trial = machine.admit(begin + wait).unwrap();
    machine.record(late, true, wait, begin + wait);
    assert_eq!((machine.state(), trial), (State::HalfOpen, 2));
}
