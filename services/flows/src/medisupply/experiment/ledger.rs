//! What is written of orders, counted as it is written: each must be decided once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bus::KvChange;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Progress;
use crate::flow::Failure;
use crate::medisupply::store::Store;
use crate::medisupply::{Order, Status};

const AWAY_PAUSE: Duration = Duration::from_millis(50);

/// How often an order was written as decided, and when first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decided {
    pub(super) times: u32,
    pub(super) at: Instant,
}

/// The decisions that were seen.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    seen: Mutex<BTreeMap<String, Decided>>,
}

impl Ledger {
    /// Follows what is written for ever; an error is one that does not pass.
    pub(super) async fn follow(
        &self,
        store: &Store,
        progress: &watch::Sender<Progress>,
    ) -> Result<(), Failure> {
        let mut watch = store.watch().await?;
        loop {
            match watch.next().await {
                Ok(KvChange::Put(entry)) => {
                    let order: Order = entry.json()?;
                    if order.status != Status::Processing {
                        let decided = self.decided(order.order.order_id);
                        progress.send_modify(|progress| progress.decided = decided);
                    }
                }
                Ok(_) => {}
                Err(error) if error.is_retryable() => sleep(AWAY_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn decided(&self, order_id: String) -> u32 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Decided { times: 0, at: Instant::now() };
        seen.entry(order_id).or_insert(first).times += 1;
        u32::try_from(seen.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, order_id: &str) -> Option<Decided> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(order_id).copied()
    }
}
