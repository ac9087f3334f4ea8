//! A request for deliveries, and its answer.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::desk::Batch;
use crate::model::{Incarnation, Prefill, Subscription};

/// A waiting request.
pub(super) struct Pull {
    /// At most this many deliveries, at least 1.
    pub(super) max: usize,
    /// Answered by then, with nothing if need be.
    pub(super) until: Instant,
    pub(super) reply: oneshot::Sender<Result<Pulled, Refused>>,
}

/// What a pull gets.
pub(super) struct Pulled {
    pub(super) batch: Batch,
    pub(super) phase: Phase,
    pub(super) of: Incarnation,
}

/// Why there is nothing to get at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::messages) enum Refused {
    /// Another process owns the subscription's deliveries.
    #[error("another process hands out the deliveries of this subscription: ask again in a second")]
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
