//! A request for deliveries, and its answer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::lane::{Lane, Place};
use super::selection::Select;
use super::table::Body;
use crate::model::{Incarnation, Prefill, Subscription};
use crate::store::journal::MAX_OPEN;

/// A waiting request.
pub(super) struct Pull {
    /// What it takes at most.
    pub(super) want: Select,
    /// Answered by then, with nothing if need be.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<Pulled, Refused>>,
}

/// What a pull gets.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) batch: Batch,
    pub(super) phase: Phase,
    pub(super) of: Incarnation,
}

/// A delivery on its way to a client.
#[derive(Debug)]
pub(super) struct HandedOut {
    pub(super) place: Place,
    pub(super) attempt: u32,
    pub(super) body: Body,
}

/// What is shared with a session: it is woken by what happens elsewhere.
#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Rung when a journal was written, or a batch came back.
    pub(super) rung: Notify,
    /// Deliveries that were written down and did not reach their client: at most what is open.
    unsent: Mutex<Vec<(Lane, u64, u32)>>,
}

impl Bell {
    /// Takes out what came back.
    pub(super) fn take_unsent(&self) -> Vec<(Lane, u64, u32)> {
        std::mem::take(&mut *self.unsent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Deliveries on their way to a client. Whatever is not taken out goes back to the session when
/// the batch is dropped: a client that hung up keeps nothing from the next one.
#[derive(Debug)]
pub(super) struct Batch {
    bell: Arc<Bell>,
    out: VecDeque<HandedOut>,
}

impl Batch {
    pub(super) fn new(bell: &Arc<Bell>, out: Vec<HandedOut>) -> Self {
        Self { bell: bell.clone(), out: out.into() }
    }

    /// The deliveries, for good: the client has them now.
    pub(super) fn take(mut self) -> VecDeque<HandedOut> {
        std::mem::take(&mut self.out)
    }

    /// The next delivery, for good.
    pub(super) fn next(&mut self) -> Option<HandedOut> {
        self.out.pop_front()
    }

    /// True when all were taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let back = self.out.drain(..).map(|out| (out.place.lane, out.place.sequence, out.attempt));
        let mut unsent = self.bell.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        // Beyond that they come again when their leases end.
        let room = MAX_OPEN.saturating_sub(unsent.len());
        unsent.extend(back.take(room));
        drop(unsent);
        self.bell.rung.notify_one();
    }
}

/// Why there is nothing to get at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub(in crate::messages) enum Refused {
    /// Another process owns the subscription's deliveries and did not answer.
    #[error(
        "the process that hands out the deliveries of this subscription does not answer: ask \
             again in a second"
    )]
    Elsewhere,
    /// The subscription was deleted.
    #[error("the subscription was deleted while the pull waited")]
    Gone,
    /// Too many pulls wait, or too many subscriptions are served.
    #[error("too many pulls wait here: use fewer consumers, or ask again in a second")]
    Busy,
    /// The bus is away.
    #[error("{0}")]
    Away(String),
}

/// Where the subscription stands, said with every answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::messages) enum Phase {
    /// The prefill is not complete, or a queue is being repaired.
    Pending,
    /// Rows of the prefill; live events follow when all of them are settled.
    Prefill,
    /// Live events.
    Live,
    /// The prefill was given up.
    Failed(String),
    /// The prefill was called off.
    Cancelled,
}

impl Phase {
    /// The phase of a subscription that is not served; `Pending` for one that is.
    pub(super) fn closed(subscription: &Subscription) -> Self {
        match &subscription.prefill {
            Prefill::Failed { reason } => Self::Failed(reason.clone()),
            Prefill::Cancelled => Self::Cancelled,
            Prefill::None | Prefill::Pending | Prefill::Done { .. } => Self::Pending,
        }
    }

    /// As clients see it. Keep stable.
    pub(in crate::messages) fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Prefill => "prefill",
            Self::Live => "live",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
