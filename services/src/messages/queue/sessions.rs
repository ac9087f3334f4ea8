//! The sessions of this process, made on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::ownership::Ownership;
use super::pull::{Pull, Pulled, Refused};
use super::queues::Queues;
use super::session::{MAX_PULLS, Session};
use super::settlements::Settlements;
use crate::messages::directory::Followed;
use crate::messages::tasks::Spawner;
use crate::model::SubscriptionName;
use crate::store::Store;

/// Subscriptions that one process serves in queue mode at once.
const MAX_SESSIONS: usize = 4096;
/// How often a pull meets a session that just ends before it gives up.
const TRIES: usize = 3;
/// A session may be this late with an answer, when the bus is.
const GRACE: Duration = Duration::from_secs(10);

/// Finds or makes the session of a subscription. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sessions {
    store: Store,
    settlements: Settlements,
    /// This process, in the leases.
    owner: Arc<str>,
    running: Arc<Mutex<BTreeMap<SubscriptionName, Handle>>>,
    tasks: Spawner,
    shutdown: CancellationToken,
}

#[derive(Clone)]
struct Handle {
    inbox: mpsc::Sender<Pull>,
    desk: Arc<Desk>,
}

impl Sessions {
    pub(super) fn new(
        store: Store,
        settlements: Settlements,
        tasks: Spawner,
        shutdown: CancellationToken,
    ) -> Result<Self, bus::Error> {
        let owner = Arc::from(store.platform.entropy.uid()?);
        Ok(Self { store, settlements, owner, running: Arc::default(), tasks, shutdown })
    }

    /// Up to `max` deliveries, waiting up to `wait` for the first. A shutdown ends the wait.
    pub(super) async fn pull(
        &self,
        followed: &Followed,
        max: usize,
        wait: Duration,
    ) -> Result<Pulled, Refused> {
        let until = Instant::now() + wait;
        for _ in 0..TRIES {
            let handle = self.session(followed)?;
            let (reply, answer) = oneshot::channel();
            match handle.inbox.try_send(Pull { max, until, reply }) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => return Err(Refused::Busy),
                Err(mpsc::error::TrySendError::Closed(_)) => continue,
            }
            match tokio::time::timeout_at(until + GRACE, answer).await {
                Ok(Ok(answer)) => return answer,
                // The session ended before it saw the pull.
                Ok(Err(_)) => {}
                Err(_) => return Err(Refused::Away("the bus does not answer".to_owned())),
            }
        }
        Err(Refused::Busy)
    }

    /// The desk of the subscription's session, if this process has one.
    pub(super) fn desk(&self, name: &SubscriptionName) -> Option<Arc<Desk>> {
        self.running().get(name).map(|handle| handle.desk.clone())
    }

    fn session(&self, followed: &Followed) -> Result<Handle, Refused> {
        let name = followed.kept().subscription.name();
        let mut running = self.running();
        if let Some(handle) = running.get(name).filter(|handle| !handle.inbox.is_closed()) {
            return Ok(handle.clone());
        }
        if running.len() >= MAX_SESSIONS || self.shutdown.is_cancelled() {
            return Err(Refused::Busy);
        }
        let (inbox, pulls) = mpsc::channel(MAX_PULLS);
        let handle = Handle { inbox, desk: Arc::default() };
        running.insert(name.clone(), handle.clone());
        let (sessions, followed, desk) = (self.clone(), followed.clone(), handle.desk.clone());
        self.tasks.spawn(async move { sessions.serve(followed, desk, pulls).await });
        Ok(handle)
    }

    async fn serve(self, followed: Followed, desk: Arc<Desk>, mut pulls: mpsc::Receiver<Pull>) {
        let kept = followed.kept().clone();
        let name = kept.subscription.name().clone();
        match Ownership::acquire(&self.store, &name, &self.owner).await {
            Ok(Some(ownership)) => {
                let queues =
                    Queues::new(self.store.clone(), self.settlements.clone(), kept, desk.clone());
                let shutdown = self.shutdown.clone();
                Session::new(followed, ownership, queues, desk.clone(), pulls, shutdown)
                    .run()
                    .await;
            }
            Ok(None) => refuse(&mut pulls, &Refused::Elsewhere),
            Err(error) => refuse(&mut pulls, &Refused::Away(error.to_string())),
        }
        let mut running = self.running();
        if running.get(&name).is_some_and(|handle| Arc::ptr_eq(&handle.desk, &desk)) {
            running.remove(&name);
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<SubscriptionName, Handle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(pulls: &mut mpsc::Receiver<Pull>, why: &Refused) {
    pulls.close();
    while let Ok(pull) = pulls.try_recv() {
        // A client that hung up needs no answer.
        let _ = pull.reply.send(Err(why.clone()));
    }
}
