//! How a service is, by its probes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    /// It answers well, and in time.
    Healthy,
    /// It answers well, and late; or its breaker is not closed.
    Degraded,
    /// It answers that it has failed.
    Unhealthy,
    /// It does not answer: refused, no name, too late.
    Down,
}

impl Health {
    /// As it is written: `HEALTHY`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Degraded => "DEGRADED",
            Self::Unhealthy => "UNHEALTHY",
            Self::Down => "DOWN",
        }
    }
}

/// What a probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// An answer with this status, after this long.
    Answer { status: u16, took: Duration },
    /// None.
    Nothing,
}

impl Probe {
    /// What it says of the service. `trusted` is false while a breaker is not closed towards it.
    pub(super) fn health(self, objective: Duration, trusted: bool) -> Health {
        match self {
            Self::Nothing => Health::Down,
            Self::Answer { status, .. } if status >= 400 => Health::Unhealthy,
            Self::Answer { took, .. } if took > objective || !trusted => Health::Degraded,
            Self::Answer { .. } => Health::Healthy,
        }
    }
}

/// What a service is said to be: the first probe says it, and two in a row that agree change it.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    shown: Option<Health>,
    other: Option<Health>,
}

impl Standing {
    pub(super) fn shown(&self) -> Option<Health> {
        self.shown
    }

    /// Takes a probe's word. True when what is shown has changed.
    pub(super) fn take(&mut self, health: Health) -> bool {
        let changes = match self.shown {
            None => true,
            Some(shown) if shown == health => {
                self.other = None;
                return false;
            }
            Some(_) => self.other == Some(health),
        };
        self.other = (!changes).then_some(health);
        if changes {
            self.shown = Some(health);
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_probe_is_told_apart() {
        let (objective, late) = (Duration::from_millis(100), Duration::from_millis(101));
        let answer = |status, took| Probe::Answer { status, took };
        for (probe, trusted, health) in [
            (answer(200, objective), true, Health::Healthy),
            (answer(200, late), true, Health::Degraded),
            (answer(200, objective), false, Health::Degraded),
            (answer(500, objective), true, Health::Unhealthy),
            (answer(503, late), false, Health::Unhealthy),
            (Probe::Nothing, false, Health::Down),
        ] {
            assert_eq!(probe.health(objective, trusted), health, "{probe:?} {trusted}");
        }
    }

    #[test]
    fn two_probes_in_a_row_change_it_and_one_does_not() {
        use Health::{Degraded, Down, Healthy};
        let mut standing = Standing::default();
        let shown: Vec<_> = [Healthy, Down, Healthy, Down, Degraded, Down, Down, Healthy, Healthy]
            .into_iter()
            .map(|health| {
                standing.take(health);
                standing.shown().unwrap()
            })
            .collect();
        let expected = [Healthy, Healthy, Healthy, Healthy, Healthy, Healthy, Down, Down, Healthy];
        assert_eq!(shown, expected);
    }
}
