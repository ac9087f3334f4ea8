//! The states of a circuit breaker, without clock, lock or task: what decides is in one place and
//! is compared with a reference model.

use std::time::Duration;

use tokio::time::Instant;

use crate::window::{Call, Window};

/// When a breaker opens, and how it closes again.
#[derive(Debug, Clone, PartialEq)]
pub struct BreakerConfig {
    /// How many of the last calls are looked at.
    pub window: usize,
    /// Below this many calls in the window it does not open; more than the window counts as the
    /// window.
    pub minimum_calls: usize,
    /// It opens when at least this share of them failed. Above 1 it never does.
    pub failure_rate: f64,
    /// A call that takes at least this long is slow, whether it failed or not.
    pub slow_after: Duration,
    /// It opens when at least this share of them was slow. Above 1 it never does.
    pub slow_rate: f64,
    /// How long it stays open before it lets calls try.
    pub wait: Duration,
    /// How many calls try, and decide together.
    pub half_open_calls: usize,
}

/// A window of 20 calls of which 10 must have ended, half of them failed or all of them slow
/// (3 s); 10 s open, then 3 calls that try.
impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            window: 20,
            minimum_calls: 10,
            failure_rate: 0.5,
            slow_after: Duration::from_secs(3),
            slow_rate: 1.0,
            wait: Duration::from_secs(10),
            half_open_calls: 3,
        }
    }
}

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Lets all through, and counts.
    Closed,
    /// Lets none through.
    Open,
    /// Lets a few through, whose outcomes decide.
    HalfOpen,
}

impl State {
    /// `closed`, `open` or `half-open`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// The state machine. `tenure` counts the transitions: what was let through in one state has no
/// say in a later one.
#[derive(Debug)]
pub(crate) struct Machine {
    config: BreakerConfig,
    state: State,
    since: Instant,
    tenure: u64,
    window: Window,
    /// Calls of this half-open tenure that are under way or have ended.
    admitted: usize,
}

impl Machine {
    pub(crate) fn new(config: BreakerConfig, now: Instant) -> Self {
        let window = Window::new(config.window);
        Self { config, state: State::Closed, since: now, tenure: 0, window, admitted: 0 }
    }

    pub(crate) fn config(&self) -> &BreakerConfig {
        &self.config
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn tenure(&self) -> u64 {
        self.tenure
    }

    pub(crate) fn failure_rate(&self) -> f64 {
        self.window.failure_rate()
    }

    /// True when a call at `now` would be let through.
    pub(crate) fn has_place(&self, now: Instant) -> bool {
        match self.state {
            State::Closed => true,
            State::Open => now.duration_since(self.since) >= self.config.wait,
            State::HalfOpen => self.admitted < self.config.half_open_calls.max(1),
        }
    }

    /// Lets a call through, and says in which tenure; or how long it is refused for certain, where
    /// that is known.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<u64, Option<Duration>> {
        if !self.has_place(now) {
            let left = self.config.wait.saturating_sub(now.duration_since(self.since));
            return Err((self.state == State::Open).then_some(left));
        }
        if self.state == State::Open {
            self.become_(State::HalfOpen, now);
        }
        if self.state == State::HalfOpen {
            self.admitted += 1;
        }
        Ok(self.tenure)
    }

    /// A call that was let through in `tenure` ended.
    pub(crate) fn record(&mut self, tenure: u64, failed: bool, took: Duration, now: Instant) {
        if tenure != self.tenure {
            return;
        }
        self.window.push(Call { failed, slow: took >= self.config.slow_after });
        let enough = match self.state {
            State::Closed => self.config.minimum_calls.clamp(1, self.config.window.max(1)),
            State::HalfOpen => self.config.half_open_calls.max(1),
            State::Open => return,
        };
        if self.window.len() < enough {
            return;
        }
        let bad = self.window.failure_rate() >= self.config.failure_rate
            || self.window.slow_rate() >= self.config.slow_rate;
        match (self.state, bad) {
            (_, true) => self.become_(State::Open, now),
            (State::HalfOpen, false) => self.become_(State::Closed, now),
            _ => {}
        }
    }

    /// A call that was let through in `tenure` never ended: its place is free again.
    pub(crate) fn forget(&mut self, tenure: u64) {
        if tenure == self.tenure && self.state == State::HalfOpen {
            self.admitted = self.admitted.saturating_sub(1);
        }
    }

    fn become_(&mut self, state: State, now: Instant) {
        let size = match state {
            State::HalfOpen => self.config.half_open_calls,
            _ => self.config.window,
        };
        (self.state, self.since, self.admitted) = (state, now, 0);
        self.window = Window::new(size);
        self.tenure += 1;
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
