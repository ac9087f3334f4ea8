//! Queue mode: the bus holds the position; clients pull, ack, nack and extend.

mod ack_id;
mod desk;
mod lane;
mod ledger;
mod ownership;
mod pull;
mod queues;
mod record;
mod remembered;
mod session;
mod sessions;
mod settlements;
mod settling;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use ack_id::AckId;
use lane::Part;
use ledger::HandedOut;
pub(super) use pull::{Phase, Refused};
use remembered::Remembered;
use sessions::Sessions;
use settlements::Settlements;
use settling::Settling;
pub(super) use settling::{Outcome, Status, Wish};

use super::directory::Followed;
use super::tasks::Spawner;
use crate::model::Incarnation;
use crate::store::{Kept, Store};

/// Queue mode of one process. Cheap to clone.
#[derive(Clone)]
pub(super) struct QueueMode {
    store: Store,
    sessions: Sessions,
    remembered: Arc<Remembered>,
    settlements: Settlements,
}

/// The answer to a pull.
pub(super) struct Pulled {
    pub(super) messages: Vec<Delivery>,
    pub(super) phase: Phase,
    pub(super) generation: u32,
}

/// A delivery as the client sees it.
pub(super) struct Delivery {
    /// What it is settled by.
    pub(super) ack: String,
    /// 1 for the first delivery.
    pub(super) attempt: u32,
    pub(super) phase: &'static str,
    /// In the realm's log.
    pub(super) sequence: u64,
    /// JSON.
    pub(super) event: Bytes,
}

impl QueueMode {
    pub(super) fn new(
        store: Store,
        tasks: Spawner,
        shutdown: CancellationToken,
    ) -> Result<Self, bus::Error> {
        let settlements = Settlements::new(&store);
        let sessions = Sessions::new(store.clone(), settlements.clone(), tasks, shutdown)?;
        Ok(Self { store, sessions, remembered: Arc::default(), settlements })
    }

    /// Up to `max` deliveries, waiting up to `wait` for the first. Dropping the future returns
    /// what was meant for it to the session.
    pub(super) async fn pull(
        &self,
        followed: &Followed,
        max: usize,
        wait: Duration,
    ) -> Result<Pulled, Refused> {
        let pull::Pulled { batch, phase, of } = self.sessions.pull(followed, max, wait).await?;
        let messages = batch.take().into_iter().map(|out| self.delivery(&of, out)).collect();
        Ok(Pulled { messages, phase, generation: of.generation })
    }

    /// One outcome for each wish, in their order.
    pub(super) async fn settle(&self, kept: &Kept, wishes: Vec<(String, Wish)>) -> Vec<Outcome> {
        let Self { store, sessions, remembered, settlements } = self;
        Settling { store, sessions, remembered, settlements, kept }.all(wishes).await
    }

    fn delivery(&self, of: &Incarnation, out: HandedOut) -> Delivery {
        let left = out.lease.expires.saturating_duration_since(tokio::time::Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = self.store.platform.clock.now_ms().saturating_add(left_ms);
        Delivery {
            ack: AckId::new(&out, deadline_ms).seal(&self.store.signer, of),
            attempt: out.lease.attempt,
            phase: match out.place.lane.part {
                Part::Prefill => "prefill",
                Part::Live(_) => "live",
            },
            sequence: out.body.sequence,
            event: out.body.event,
        }
    }
}
