//! The experiment: orders at a steady rate, a fault in the middle third, recovery, and a verdict.

mod ledger;
mod load;
mod local;
mod plot;
mod report;
mod run;
mod summary;
mod timeline;

use super::{Fault, Mode, Settings};

pub use self::local::{isolated, ready, serve};
pub use self::report::html;
pub use self::run::run;
pub use self::summary::{Bound, Summary};
pub use self::timeline::{Sample, Shot, Stretch, Timeline};

/// What to try.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many orders are sent.
    pub orders: u32,
    /// How many in a second. They are sent when they are due, whether or not earlier ones have
    /// been answered.
    pub rate: u32,
    /// What the external service does during the middle third.
    pub fault: Fault,
    /// Which roles are killed in the middle of the fault, and started again at once.
    pub kill: Vec<&'static str>,
    /// Times and layers. Ports and names are chosen by the run.
    pub settings: Settings,
}

impl Plan {
    /// Orders at a rate, a fault in the middle, nobody killed, [`Settings::brisk`].
    pub fn new(orders: u32, rate: u32, mode: Mode) -> Self {
        let settings = Settings::brisk();
        Self { orders, rate, fault: mode.into(), kill: Vec::new(), settings }
    }

    /// True when every probe of the fault meets it.
    fn always_fails(&self) -> bool {
        match self.fault.mode {
            Mode::Slow | Mode::Down => true,
            Mode::Error => self.fault.rate.is_none_or(|rate| rate >= 1.0),
            Mode::Normal | Mode::Flapping => false,
        }
    }
}

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The services are starting.
    Starting,
    /// Orders are sent, nothing is wrong.
    Before,
    /// The external service misbehaves.
    Fault,
    /// It is well again, orders are still sent.
    After,
    /// No more orders are sent; those that are not decided are waited for.
    Draining,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Orders that were sent.
    pub sent: u32,
    /// Orders that are decided.
    pub decided: u32,
}

impl Default for Progress {
    fn default() -> Self {
        Self { phase: Phase::Starting, sent: 0, decided: 0 }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The figures, and which bounds hold.
    pub summary: Summary,
    /// What happened when.
    pub timeline: Timeline,
}
