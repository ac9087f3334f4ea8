//! What a session shares with the requests at hand: the ledger, and a bell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bus::Consumer;
use tokio::sync::Notify;

use super::lane::Lane;
use super::ledger::{HandedOut, Ledger};

/// One per session and generation.
#[derive(Default)]
pub(super) struct Desk {
    ledger: Mutex<Ledger>,
    queues: Mutex<BTreeMap<Lane, Consumer>>,
    /// Rung when a settlement or a return may have made something ready.
    pub(super) changed: Notify,
}

impl Desk {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bound queue of a lane, if the session has it.
    pub(super) fn queue(&self, lane: &Lane) -> Option<Consumer> {
        self.queues().get(lane).cloned()
    }

    pub(super) fn queues(&self) -> MutexGuard<'_, BTreeMap<Lane, Consumer>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deliveries on their way to a client. Whatever is not taken out goes back to the desk when the
/// batch is dropped: a client that hung up keeps nothing from the next one.
pub(super) struct Batch {
    desk: Arc<Desk>,
    out: Vec<HandedOut>,
}

impl Batch {
    pub(super) fn new(desk: &Arc<Desk>, out: Vec<HandedOut>) -> Self {
        Self { desk: desk.clone(), out }
    }

    /// The deliveries, for good: the client has them now.
    pub(super) fn take(mut self) -> Vec<HandedOut> {
        std::mem::take(&mut self.out)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if self.out.is_empty() {
            return;
        }
        let mut ledger = self.desk.ledger();
        self.out.drain(..).for_each(|out| ledger.give_back(out));
        drop(ledger);
        self.desk.changed.notify_one();
    }
}
