//! The handle: what happens to each operation, decided in the order they begin.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::random::SplitMix;

/// How often each fault strikes, per mille of the operations, each drawn on its own.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::fault::{FaultRates, Faults};
/// use bus::ErrorKind;
///
/// // Every answer is lost: what it was about has happened.
/// let faults = Faults::new(1).with_rates(FaultRates { fail_after: 1000, ..FaultRates::NONE });
/// let lost = faults.wrap(&bus).ensure_stream(&bus::StreamConfig::parse("bills", &["bills"])?).await;
/// assert_eq!(lost.err().map(|error| error.kind()), Some(ErrorKind::Timeout));
/// assert_eq!(bus.stream("bills").await?.info().await?.messages, 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultRates {
    /// Operations that wait before they begin.
    pub delay: u16,
    /// The longest such wait; each is at least a millisecond.
    pub max_delay: Duration,
    /// Operations that fail before their effect.
    pub fail_before: u16,
    /// Operations whose effect happens and whose answer is lost.
    pub fail_after: u16,
}

impl FaultRates {
    /// No faults.
    pub const NONE: Self =
        Self { delay: 0, max_delay: Duration::from_millis(5), fail_before: 0, fail_after: 0 };

    /// Enough of everything to meet every path within some hundred operations.
    pub const ROUGH: Self =
        Self { delay: 100, max_delay: Duration::from_millis(5), fail_before: 50, fail_after: 50 };
}

/// On which side of its effect an operation is cut off by a crash.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use std::time::Duration;
/// use bus::Message;
/// use bus::fault::{CrashSide, Faults};
///
/// for (side, stored) in [(CrashSide::Before, 0), (CrashSide::After, 1)] {
///     let faults = Faults::new(1);
///     let orders = faults.wrap(&bus).stream("orders").await?; // operation 1
///     faults.crash_at(2, side);
///     let publish = orders.publish(Message::new("orders.created", "42")?);
///     assert!(tokio::time::timeout(Duration::from_millis(10), publish).await.is_err(), "it hangs");
///     assert_eq!(bus.stream("orders").await?.info().await?.messages, stored);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashSide {
    /// The effect does not happen.
    Before,
    /// The effect has happened; nobody hears of it.
    After,
}

/// Steers the faults of every [`super::FaultDriver`] made with it. Cheap to clone; clones share
/// the count, the trace and the crash.
///
/// The same seed, rates and order of calls make the same decisions.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::fault::{FaultRates, Faults};
///
/// let mut traces = Vec::new();
/// for _ in 0..2 {
///     let bus = bus::Bus::connect("embedded:").await?;
///     bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
///     let faults = Faults::new(42).with_rates(FaultRates::ROUGH);
///     faults.record(100);
///     let faulty = faults.wrap(&bus);
///     for _ in 0..20 {
///         let _ = faulty.stream("orders").await;
///     }
///     assert_eq!(faults.operations(), 20);
///     traces.push(faults.trace());
/// }
/// assert_eq!(traces[0], traces[1], "the same seed fails in the same way");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    crashed: CancellationToken,
}

#[derive(Debug)]
struct State {
    random: SplitMix,
    rates: FaultRates,
    operations: u64,
    crash: Option<(u64, CrashSide)>,
    trace: Vec<String>,
    trace_limit: usize,
}

/// What is to happen to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) delay: Option<Duration>,
    pub(super) fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    FailBefore,
    FailAfter,
    Crash(CrashSide),
}

impl Faults {
    /// A handle without faults yet: it counts.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: SplitMix::new(seed),
            rates: FaultRates::NONE,
            operations: 0,
            crash: None,
            trace: Vec::new(),
            trace_limit: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), crashed: CancellationToken::new() }
    }

    /// The same handle with these rates from now on; [`FaultRates::NONE`] heals the backend.
    #[must_use]
    pub fn with_rates(self, rates: FaultRates) -> Self {
        self.set_rates(rates);
        self
    }

    /// Uses these rates from the next operation on.
    pub fn set_rates(&self, rates: FaultRates) {
        self.lock().rates = rates;
    }

    /// Crashes at the `operation`-th operation of this handle, counted from 1. An operation that
    /// its caller drops before it is cut off passes the crash on to the next one to begin.
    pub fn crash_at(&self, operation: u64, side: CrashSide) {
        self.lock().crash = Some((operation, side));
    }

    /// Cancelled when the crash has happened.
    pub fn crashed(&self) -> CancellationToken {
        self.crashed.clone()
    }

    /// How many operations have begun. A change that a watch reports counts when it arrives.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Keeps the first `limit` operations for [`Faults::trace`].
    pub fn record(&self, limit: usize) {
        self.lock().trace_limit = limit;
    }

    /// The recorded operations as `operation stream/key: fate`, to compare two runs by.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone()
    }

    /// The bus with this handle's faults on every operation.
    pub fn wrap(&self, bus: &Bus) -> Bus {
        bus.clone().on_driver(Arc::new(super::FaultDriver::new(bus.driver(), self.clone())))
    }

    /// Runs one operation under its plan.
    pub(super) async fn run<T>(
        &self,
        operation: &'static str,
        target: &(dyn Display + Sync),
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let plan = self.begin(operation, target).await;
        self.carry_out(plan, effect).await
    }

    /// Draws the plan of the next operation and sits out its delay; never returns after a crash,
    /// nor from the operation that crashes before its effect.
    pub(super) async fn begin(
        &self,
        operation: &'static str,
        target: &(dyn Display + Sync),
    ) -> Plan {
        let plan = if self.crashed.is_cancelled() {
            std::future::pending().await
        } else {
            self.plan(operation, target)
        };
        if plan.fate == Fate::Crash(CrashSide::Before) {
            return self.crash().await;
        }
        if let Some(delay) = plan.delay {
            let armed = self.rearm(plan);
            self.unless_crashed(tokio::time::sleep(delay)).await;
            armed.disarm();
        }
        plan
    }

    /// Does the effect, or not, as planned.
    pub(super) async fn carry_out<T>(
        &self,
        plan: Plan,
        effect: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if plan.fate == Fate::FailBefore {
            return Err(unavailable());
        }
        let armed = self.rearm(plan);
        let result = self.unless_crashed(effect).await;
        armed.disarm();
        match plan.fate {
            Fate::Crash(_) => self.crash().await,
            Fate::FailAfter => result.and_then(|_| Err(answer_lost())),
            Fate::Pass | Fate::FailBefore => result,
        }
    }

    /// Waits for `future`, or for ever if the process crashes meanwhile.
    pub(super) async fn unless_crashed<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::select! { biased;
            () = self.crashed.cancelled() => std::future::pending().await,
            done = future => done,
        }
    }

    /// The crash: nothing through this handle returns from now on, this included.
    pub(super) async fn crash<T>(&self) -> T {
        self.crashed.cancel();
        std::future::pending().await
    }

    fn plan(&self, operation: &'static str, target: &(dyn Display + Sync)) -> Plan {
        let mut state = self.lock();
        state.operations += 1;
        let plan = state.draw();
        if state.trace.len() < state.trace_limit {
            let line = format!("{operation} {target}: {:?}", plan.fate);
            state.trace.push(line);
        }
        plan
    }

    /// Hands a crash that this operation carries on to the next one, unless it is disarmed.
    fn rearm(&self, plan: Plan) -> Armed<'_> {
        Armed { faults: self, carries: matches!(plan.fate, Fate::Crash(_)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below panics between two writes, so a poisoned lock is sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn draw(&mut self) -> Plan {
        // The same number of draws for every operation: a changed rate shifts no later decision.
        let (slow, fails) = (self.random.below(1000), self.random.below(1000));
        let most = u64::try_from(self.rates.max_delay.as_millis()).unwrap_or(u64::MAX).max(1);
        let delay = Duration::from_millis(1 + self.random.below(most));
        let (before, after) = (u64::from(self.rates.fail_before), u64::from(self.rates.fail_after));
        let fate = match self.crash {
            Some((at, side)) if at == self.operations => Fate::Crash(side),
            _ if fails < before => Fate::FailBefore,
            _ if fails < before + after => Fate::FailAfter,
            _ => Fate::Pass,
        };
        Plan { delay: (slow < u64::from(self.rates.delay)).then_some(delay), fate }
    }
}

struct Armed<'a> {
    faults: &'a Faults,
    carries: bool,
}

impl Armed<'_> {
    fn disarm(mut self) {
        self.carries = false;
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        if self.carries && !self.faults.crashed.is_cancelled() {
            let mut state = self.faults.lock();
            let next = state.operations + 1;
            state.crash = state.crash.map(|(_, side)| (next, side));
        }
    }
}

pub(super) fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the backend is away on purpose: try again")
}

fn answer_lost() -> Error {
    Error::new(ErrorKind::Timeout, "the answer was lost on purpose: the operation happened")
}
