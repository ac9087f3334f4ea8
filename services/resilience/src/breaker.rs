//! A circuit breaker as it is held: shared, with a clock and with a wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::BoxError;
use crate::machine::{BreakerConfig, Machine, State};

/// How many transitions are kept to look at.
const HISTORY: usize = 512;

/// Stops calls to a dependency that fails or is slow, and tries it again. Clones are the same
/// breaker.
///
/// Closed, it counts the last calls; open, it refuses; half-open, it lets a few calls try, which
/// decide together: the states and thresholds of resilience4j (count-based window) and Polly. A
/// call counts in the state it was let through in; what ends in a later one is not counted. A
/// [`Permit`] that is dropped without an outcome gives its place back.
#[derive(Debug, Clone)]
pub struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// A place may be free, or the state has changed.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    machine: Machine,
    /// When it was made, by both clocks.
    made: (SystemTime, Instant),
    /// When a call failed last, or the state was not closed.
    troubled: Option<Instant>,
    /// When a call was let through or ended last.
    used: Instant,
    history: VecDeque<Transition>,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state that was entered.
    pub to: State,
    /// When, by this machine's clock as it stood when the breaker was made: from one change to the
    /// next is how long it truly was, whatever is done to the clock.
    pub at: SystemTime,
}

/// A breaker at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Its state. It is open until a call is let through again, even when its wait is over.
    pub state: State,
    /// For how long it has been in it.
    pub age: Duration,
    /// The share of failed calls in the window of this state.
    pub failure_rate: f64,
    /// For how long it has been closed without one failed call; since it was made, if none ever
    /// failed.
    pub calm: Duration,
    /// For how long it would have let a call through, not closed, and none came: nobody is trying.
    pub idle: Duration,
}

/// A call that was let through. Say how it went, or drop it to have it not counted.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    breaker: Breaker,
    tenure: u64,
    begun: Instant,
    ended: bool,
}

/// The breaker refused the call: nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker refused the call and nothing was sent: try again later")]
pub struct Refused {
    /// No call is let through sooner; unknown while others try.
    pub retry_after: Option<Duration>,
}

/// True when the call was refused by a breaker, and so never made.
pub fn is_refused(error: &BoxError) -> bool {
    error.downcast_ref::<Refused>().is_some()
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        let now = Instant::now();
        let machine = Machine::new(config, now);
        let made = (SystemTime::now(), now);
        let inner = Inner { machine, made, troubled: None, used: now, history: VecDeque::new() };
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), changed: Notify::new() }) }
    }

    /// Lets a call through, or refuses it. The caller sends at once: the call's time runs.
    pub fn try_acquire(&self) -> Result<Permit, Refused> {
        let now = Instant::now();
        let mut inner = self.lock();
        let tenure = inner
            .step(now, |machine| machine.admit(now))
            .map_err(|retry_after| Refused { retry_after })?;
        inner.used = now;
        drop(inner);
        Ok(Permit { breaker: self.clone(), tenure, begun: now, ended: false })
    }

    /// Waits until a call is let through. Dropping the future gives nothing away.
    pub async fn acquire(&self) -> Permit {
        loop {
            // Listening begins before asking, so that no change between the two is missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            match self.try_acquire() {
                Ok(permit) => return permit,
                Err(Refused { retry_after }) => wait(changed, retry_after).await,
            }
        }
    }

    /// Waits until a call would be let through, and takes nothing.
    pub async fn ready(&self) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let (place, left) = {
                let (inner, now) = (self.lock(), Instant::now());
                let open_for = now.duration_since(inner.machine.since());
                let open = inner.machine.state() == State::Open;
                let left = inner.machine.config().wait.saturating_sub(open_for);
                (inner.machine.has_place(now), open.then_some(left))
            };
            if place {
                return;
            }
            wait(changed, left).await;
        }
    }

    /// The breaker as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let (inner, now) = (self.lock(), Instant::now());
        let machine = &inner.machine;
        let (state, age) = (machine.state(), now.duration_since(machine.since()));
        let closed = state == State::Closed;
        let troubled = inner.troubled.unwrap_or_else(|| machine.since());
        let idle_since = match state {
            State::Open => machine.since() + machine.config().wait,
            _ => inner.used,
        };
        let idle = if closed || !machine.has_place(now) { None } else { Some(idle_since) };
        Snapshot {
            state,
            age,
            failure_rate: machine.failure_rate(),
            calm: if closed { now.duration_since(troubled) } else { Duration::ZERO },
            idle: idle.map_or(Duration::ZERO, |since| now.duration_since(since)),
        }
    }

    /// The last changes of state, oldest first.
    pub fn history(&self) -> Vec<Transition> {
        self.lock().history.iter().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that is done under the lock can panic half-way.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Moves the machine, and writes down what that changed.
    fn step<T>(&mut self, now: Instant, step: impl FnOnce(&mut Machine) -> T) -> T {
        let (state, before) = (self.machine.state(), self.machine.tenure());
        let done = step(&mut self.machine);
        if self.machine.tenure() != before {
            if self.history.len() == HISTORY {
                self.history.pop_front();
            }
            let (clock, begin) = self.made;
            let at = clock + now.duration_since(begin);
            self.history.push_back(Transition { to: self.machine.state(), at });
        }
        if state != State::Closed || self.machine.state() != State::Closed {
            self.troubled = Some(now);
        }
        done
    }
}

impl Permit {
    /// The call went well.
    pub fn succeeded(self) {
        self.end(false);
    }

    /// The call failed in a way that tells against the dependency.
    pub fn failed(self) {
        self.end(true);
    }

    fn end(mut self, failed: bool) {
        self.ended = true;
        let (now, tenure) = (Instant::now(), self.tenure);
        let took = now.duration_since(self.begun);
        let mut inner = self.breaker.lock();
        inner.step(now, |machine| machine.record(tenure, failed, took, now));
        inner.used = now;
        if failed {
            inner.troubled = Some(now);
        }
        drop(inner);
        self.breaker.shared.changed.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.ended {
            self.breaker.lock().machine.forget(self.tenure);
            self.breaker.shared.changed.notify_waiters();
        }
    }
}

async fn wait(changed: impl Future<Output = ()>, at_most: Option<Duration>) {
    match at_most {
        Some(left) => tokio::select! { () = changed => {}, () = tokio::time::sleep(left) => {} },
        None => changed.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        let wait = Duration::from_secs(1);
        let config = BreakerConfig { window: 2, minimum_calls: 2, wait, ..Default::default() };
        Breaker::new(BreakerConfig { half_open_calls: 1, ..config })
    }

    fn opened() -> Breaker {
        let breaker = breaker();
        for _ in 0..2 {
            breaker.try_acquire().unwrap().failed();
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_through_when_the_wait_is_over_and_not_before() {
        let (breaker, begin) = (opened(), Instant::now());
        breaker.ready().await;
        let permit = breaker.acquire().await;
        assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
        assert_eq!(breaker.snapshot().state, State::HalfOpen);
        assert_eq!(breaker.try_acquire().unwrap_err(), Refused { retry_after: None });
        permit.succeeded();
        let history = breaker.history();
        let states: Vec<_> = history.iter().map(|change| change.to).collect();
        assert_eq!(states, [State::Open, State::HalfOpen, State::Closed]);
        let open = history[1].at.duration_since(history[0].at).unwrap();
        assert!(open >= Duration::from_secs(1), "stamped by the clock that it waits by: {open:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_dropped_lets_the_next_one_try() {
        let breaker = opened();
        let trial = breaker.acquire().await;
        let (next, ()) = tokio::join!(breaker.acquire(), async { drop(trial) });
        next.succeeded();
        assert_eq!(breaker.snapshot().state, State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn calm_counts_from_the_last_failure_and_idle_from_when_a_trial_was_due() {
        let breaker = breaker();
        breaker.try_acquire().unwrap().failed();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(breaker.snapshot().calm, Duration::from_secs(3));
        breaker.try_acquire().unwrap().failed();
        tokio::time::advance(Duration::from_secs(3)).await;
        let open = breaker.snapshot();
        assert_eq!((open.calm, open.idle), (Duration::ZERO, Duration::from_secs(2)));
        breaker.acquire().await.succeeded();
        tokio::time::advance(Duration::from_secs(1)).await;
        let closed = breaker.snapshot();
        assert_eq!((closed.calm, closed.idle), (Duration::from_secs(1), Duration::ZERO));
    }
}
