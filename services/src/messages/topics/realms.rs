//! The realms that there are, as they come: one watch for the whole process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bus::{Error, KvChange};
use tokio_util::sync::CancellationToken;

use crate::messages::watched::{Follower, Watched};
use crate::model::Realm;
use crate::store::Store;

/// Before a watch that failed is opened again.
const AGAIN: Duration = Duration::from_millis(500);

/// See the module's documentation. Cheap to clone.
#[derive(Clone)]
pub(in crate::messages) struct Realms {
    store: Store,
    known: Arc<Watched<Arc<BTreeSet<Realm>>>>,
}

impl Realms {
    pub(in crate::messages) fn new(store: Store) -> Self {
        Self { store, known: Arc::new(Watched::new(Arc::default())) }
    }

    /// Those that were seen so far, and those to come. One that is removed stays: its log says
    /// that it is gone.
    pub(in crate::messages) fn follow(&self) -> Follower<Arc<BTreeSet<Realm>>> {
        self.known.follow()
    }

    /// Keeps in step until `shutdown`.
    pub(in crate::messages) async fn run(self, shutdown: CancellationToken) {
        loop {
            let ended = tokio::select! { biased;
                () = shutdown.cancelled() => return,
                ended = self.watch() => ended,
            };
            if let Err(error) = ended {
                tracing::warn!(%error, "the watch on realms failed, opening it again");
            }
            tokio::select! { biased;
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn watch(&self) -> Result<(), Error> {
        let mut watch = self.store.realms.watch(">").await?;
        loop {
            let KvChange::Put(entry) = watch.next().await? else { continue };
            let Ok(realm) = Realm::new(entry.key.as_str()) else { continue };
            self.known.change(|known| {
                let is_new = !known.contains(&realm);
                if is_new {
                    Arc::make_mut(known).insert(realm.clone());
                }
                is_new
            });
        }
    }
}
