//! Where a delivery of queue mode comes from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{Incarnation, Mark, Realm, Subscription, names};
use crate::store::journal::{Journal, Stamp};

/// One of the queues that a generation of a subscription is served from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Lane {
    pub(super) generation: u32,
    pub(super) part: Part,
}

/// The part of a generation that a lane carries. Keep stable: it is in ack ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Part {
    /// The rows of the prefill.
    Prefill,
    /// What follows the fence in a realm's log.
    Live(Realm),
}

impl Lane {
    /// Where the lane's journal is kept.
    pub(super) fn journal_key(&self, of: &Incarnation) -> String {
        let of = Incarnation { generation: self.generation, ..of.clone() };
        match &self.part {
            Part::Prefill => names::journal_prefill_key(&of),
            Part::Live(realm) => names::journal_live_key(&of, realm),
        }
    }

    /// The journal before anything was handed out: the lane begins right after its head.
    pub(super) fn start(&self, subscription: &Subscription) -> Journal {
        match &self.part {
            Part::Prefill => Journal::default(),
            Part::Live(realm) => {
                let fence = subscription.mark(realm);
                Journal::starting_at(fence.sequence, Stamp { time_ms: fence.time_ms() })
            }
        }
    }

    /// The place of a sequence of the lane: known as well as it can be where it is the one up to
    /// which `journal` says that everything was handed out.
    pub(super) fn place(
        &self,
        subscription: &Subscription,
        journal: &Journal,
        sequence: u64,
    ) -> Mark {
        let Part::Live(realm) = &self.part else { return Mark::bare(sequence) };
        let known = if sequence == journal.head { journal.stamp.time_ms } else { 0 };
        let life = subscription.mark(realm).life();
        Mark::bare(sequence).in_life(life).at_ms(known)
    }

    /// The phase in which clients see the lane's deliveries. Keep stable.
    pub(super) fn phase(&self) -> &'static str {
        match self.part {
            Part::Prefill => "prefill",
            Part::Live(_) => "live",
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) lane: Lane,
    pub(super) sequence: u64,
}
