//! Where a delivery of queue mode comes from.

use std::fmt;

use bus::{ConsumerName, Error, StreamName};

use crate::model::{Incarnation, Realm, names};

/// One of the queues that a generation of a subscription is served from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub(super) generation: u32,
    pub(super) part: Part,
}

/// The part of a generation that a lane carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// The rows of the prefill.
    Prefill,
    /// The final queue on a realm's log.
    Live(Realm),
}

impl Lane {
    /// The stream and the durable consumer on it.
    pub(super) fn queue(&self, of: &Incarnation) -> Result<(StreamName, ConsumerName), Error> {
        let of = Incarnation { generation: self.generation, ..of.clone() };
        match &self.part {
            Part::Prefill => {
                Ok((StreamName::new(names::PREFILL_STREAM)?, names::prefill_queue(&of)?))
            }
            Part::Live(realm) => Ok((names::log_stream(realm)?, names::final_queue(&of)?)),
        }
    }

    /// Where it is kept what of the lane is settled.
    pub(super) fn journal_key(&self, of: &Incarnation) -> String {
        let of = Incarnation { generation: self.generation, ..of.clone() };
        match &self.part {
            Part::Prefill => names::journal_prefill_key(&of),
            Part::Live(realm) => names::journal_live_key(&of, realm),
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Prefill => write!(f, "prefill of generation {}", self.generation),
            Part::Live(realm) => write!(f, "{realm} of generation {}", self.generation),
        }
    }
}

/// A message of a lane, by its sequence in the lane's stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) lane: Lane,
    pub(super) sequence: u64,
}
