//! How many patients there are, and until when.

use std::time::Duration;

use super::{EVERY, ORDER_COUNT, PATIENTS, PHASE};
use crate::flow::Failure;
use crate::settings::Settings;

/// How many patients there are, over time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// How often each of them orders.
    every: Duration,
    /// How many, one phase after another; one number holds for ever.
    levels: Vec<u64>,
    phase: Duration,
    /// How many orders there are in all, if that is bounded.
    pub(super) orders: Option<u64>,
}

impl Plan {
    pub(super) fn read(settings: &Settings) -> Result<Self, Failure> {
        let plan = Self {
            every: settings.time(&EVERY)?,
            levels: settings.counts(&PATIENTS)?,
            phase: settings.time(&PHASE)?,
            orders: Some(settings.count(&ORDER_COUNT)?).filter(|orders| *orders > 0),
        };
        if plan.every.is_zero() {
            return Err("--every 0s: a patient that orders all the time is none to help".into());
        }
        Ok(plan)
    }

    /// How many patients there are this long after the beginning; `None` when it is over.
    pub(super) fn patients(&self, after: Duration) -> Option<u64> {
        match self.levels.as_slice() {
            [always] => Some(*always),
            levels => {
                let phase = after.as_nanos().checked_div(self.phase.as_nanos())?;
                levels.get(usize::try_from(phase).ok()?).copied()
            }
        }
    }

    /// The time between two orders of this many patients.
    pub(super) fn pause(&self, patients: u64) -> Duration {
        let patients = u32::try_from(patients).unwrap_or(u32::MAX);
        self.every.checked_div(patients).unwrap_or(self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(levels: &[u64]) -> Plan {
        let second = Duration::from_secs(1);
        Plan { every: second, levels: levels.to_vec(), phase: 20 * second, orders: None }
    }

    #[test]
    fn each_number_holds_for_a_phase_and_one_alone_for_ever() {
        let at = |levels: &[u64], second| plan(levels).patients(Duration::from_secs(second));
        assert_eq!([0, 19, 20, 59].map(|s| at(&[1, 3, 10], s)), [1, 1, 3, 10].map(Some));
        assert_eq!(at(&[1, 3, 10], 60), None);
        assert_eq!(at(&[3], 1_000_000), Some(3));
    }

    #[test]
    fn more_patients_order_more_often() {
        assert_eq!(plan(&[1]).pause(1), Duration::from_secs(1));
        assert_eq!(plan(&[1]).pause(10), Duration::from_millis(100));
    }
}
