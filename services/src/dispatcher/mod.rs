//! The dispatcher: holds what is on the bus against the records and mends the difference.

mod mend;
mod observe;
mod plan;

use std::time::Duration;

use bus::{Error, Watch};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// A pass is made this often even if nothing seems to have changed.
const PASS_INTERVAL: Duration = Duration::from_secs(15);
/// Changes that come together are mended together.
const SETTLE: Duration = Duration::from_millis(50);
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// Reconciles until `shutdown`: at the start, whenever a subscription or a realm changes, and
/// every 15 seconds. Any number of dispatchers may run: every action is idempotent.
pub async fn run(store: Store, shutdown: CancellationToken) -> Result<(), Error> {
    let mut changes = Changes { store: &store, subscriptions: None, realms: None };
    while !shutdown.is_cancelled() {
        let pass = async {
            let observed = observe::observe(&store).await?;
            for action in plan::plan(&observed) {
                mend::mend(&store, action).await?;
            }
            Ok::<(), Error>(())
        };
        let passed = tokio::select! { biased;
            () = shutdown.cancelled() => return Ok(()),
            passed = pass => passed,
        };
        let wait = match passed {
            Ok(()) => PASS_INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "reconciling failed, trying again");
                PAUSE_AFTER_ERROR
            }
        };
        tokio::select! { biased;
            () = shutdown.cancelled() => return Ok(()),
            () = changes.next() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

/// Tells when a subscription or a realm has changed. A watch only saves time: the regular pass
/// finds everything, so one that fails is opened again at the next wait.
struct Changes<'a> {
    store: &'a Store,
    subscriptions: Option<Watch>,
    realms: Option<Watch>,
}

impl Changes<'_> {
    async fn next(&mut self) {
        if let Err(error) = self.open().await {
            tracing::debug!(%error, "no watch, waiting for the regular pass");
            return std::future::pending().await;
        }
        let (Some(subscriptions), Some(realms)) = (&mut self.subscriptions, &mut self.realms)
        else {
            return std::future::pending().await;
        };
        let change = tokio::select! { biased;
            change = subscriptions.next() => change,
            change = realms.next() => change,
        };
        if let Err(error) = change {
            tracing::debug!(%error, "watch lost, opening another");
            (self.subscriptions, self.realms) = (None, None);
            std::future::pending().await
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        if self.subscriptions.is_none() || self.realms.is_none() {
            self.subscriptions = Some(self.store.subscriptions.watch(">").await?);
            self.realms = Some(self.store.realms.watch(">").await?);
        }
        Ok(())
    }
}
