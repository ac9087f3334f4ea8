//! What a session shares with the requests at hand: the ledger, and a bell.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use std::time::Duration;

use bus::{Consumer, Settlement};
use futures_util::{StreamExt, stream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lane::{Lane, Place};
use super::ledger::{HandedOut, Lease, Ledger};

/// Settlements on their way at once.
pub(super) const WINDOW: usize = 64;

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

    /// Renews the lease of everything that is held, so that waiting costs no attempt.
    pub(super) async fn extend_held(&self) {
        let held = self.ledger().held();
        let extend = |(place, lease): (Place, Lease)| async move {
            let Some(queue) = self.queue(&place.lane) else { return };
            let renewed = Instant::now() + queue.ack_wait();
            match queue.settle(&lease.token, Settlement::Extend).await {
                Ok(()) => self.ledger().extended(&place, lease.attempt, renewed),
                Err(error) if error.is_retryable() => {}
                Err(_) => self.ledger().away(&place, lease.attempt),
            }
        };
        stream::iter(held).map(extend).buffered(WINDOW).collect::<()>().await;
    }

    /// Gives everything that is held back to the bus, to be delivered again at once. What fails
    /// comes again when its lease ends.
    pub(super) async fn give_back_held(&self) {
        let held = self.ledger().held();
        let give_back = |(place, lease): (Place, Lease)| async move {
            let Some(queue) = self.queue(&place.lane) else { return };
            let _ = queue.settle(&lease.token, Settlement::Retry(Duration::ZERO)).await;
            self.ledger().away(&place, lease.attempt);
        };
        stream::iter(held).map(give_back).buffered(WINDOW).collect::<()>().await;
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
