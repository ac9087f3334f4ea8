//! One member of a consumer's group: what a connection binds a consumer through, shared by all who
//! bind it there.
//!
//! A thread polls for it (see [`super::poller`]); those who fetch and settle meet the thread at the
//! [`Desk`], under a lock that nobody holds while waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::bell::Bell;
use super::catalog::Catalog;
use super::desk::{Desk, Settled};
use super::entry::ConsumerEntry;
use super::inbox::Inbox;
use super::lease::after;
use super::link::Link;
use super::poller;
use super::publisher::Publisher;
use super::shared::{Names, Shared, State};
use super::standing::Ours;
use super::token::instance;
use super::trouble::Troubles;
use super::upkeep::{confirmed, retry_later, save_all, tidy};
use crate::driver::{ConsumerDriver, LeaseToken, RawDelivery, Settlement};
use crate::error::Result;

/// How long leaving a group is waited for.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A bound consumer: leaves the group when it is dropped.
pub(super) struct Member {
    shared: Arc<Shared>,
    /// The connection's, which waits for them when it closes.
    tasks: TaskTracker,
}

impl Member {
    /// Joins the group in a thread of its own, as `entry` declares the consumer.
    pub(super) fn join(
        link: &Arc<Link>,
        publisher: &Arc<Publisher>,
        catalog: &Arc<Catalog>,
        of: Names,
        entry: &ConsumerEntry,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>> {
        let state = State {
            desk: Desk::new(instance(), (&entry.config).into()),
            confirms: Vec::new(),
            saved: BTreeMap::new(),
            rejoin: false,
            lost: Vec::new(),
            troubles: Troubles::default(),
            over: None,
            client: None,
        };
        let shared = Arc::new(Shared {
            link: link.clone(),
            publisher: publisher.clone(),
            catalog: catalog.clone(),
            of,
            stop: link.threads.stop().child_token(),
            bell: Arc::default(),
            arrived: Arc::default(),
            save_bell: Bell::default(),
            commits: Mutex::default(),
            inbox: Inbox::default(),
            state: Mutex::new(state),
        });
        let (polled, saved) = (shared.clone(), shared.clone());
        link.threads.spawn("kafka-consumer", move || poller::run(&polled))?;
        // The client reports a commit to who waits for it and to nobody else.
        link.threads.spawn("kafka-commit", move || save_all(&saved))?;
        tasks.spawn(tidy(shared.clone()));
        Ok(Arc::new(Self { shared, tasks: tasks.clone() }))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Member {
    /// True until its consumer is gone.
    pub(super) fn is_alive(&self) -> bool {
        self.shared.lock().is_ok()
    }

    /// What it knows of its partitions.
    pub(super) fn standing(&self) -> Ours {
        let mut state = self.shared.state();
        state.desk.expire(Instant::now());
        let (unsettled, lowest) = state.desk.unsettled();
        let standings = state.desk.standings().into_iter();
        let parts = standings.filter(|standing| !standing.part.0);
        let parts = parts.map(|standing| (standing.part, standing)).collect();
        Ours { parts, unsettled, lowest, delivered: state.desk.delivered() }
    }

    /// Has the member look at the catalog.
    pub(super) fn wake(&self) {
        self.shared.bell.ring();
        self.shared.arrived.notify_waiters();
    }

    /// Ends every lease: the consumer was moved, and is joined again where it stands now.
    pub(super) fn fence(&self) {
        let parts = {
            let mut state = self.shared.state();
            state.rejoin = true;
            state.desk.parts()
        };
        self.shared.give_up(&parts);
        self.shared.bell.ring();
    }

    /// Waits until the member of a consumer that was removed has left its group.
    pub(super) async fn ended(&self) {
        self.wake();
        let deadline = Instant::now() + LEAVE_LIMIT;
        while Instant::now() < deadline && self.shared.state().client.is_some() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.bell.ring();
    }
}

#[async_trait]
impl ConsumerDriver for Member {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        let deadline = after(Instant::now(), wait);
        drop(self.shared.lock()?);
        self.shared.link.shapes.check(&self.shared.link, &self.shared.declared()).await?;
        loop {
            // Made before the look, so that nothing between that and the wait is missed.
            let woken = self.shared.arrived.clone().notified_owned();
            let until = {
                let mut state = self.shared.lock()?;
                self.shared.apply(&mut state)?;
                let now = Instant::now();
                self.shared.bring_in(&mut state, now);
                let taken = state.desk.take(max, now);
                if !taken.is_empty() || max == 0 || now >= deadline {
                    self.shared.feed(&mut state);
                    return Ok(taken);
                }
                if let Some(error) = state.troubles.error() {
                    return Err(error);
                }
                state.desk.next_change().map_or(deadline, |next| next.min(deadline))
            };
            tokio::select! { biased;
                () = self.shared.stop.cancelled() => return Err(super::threads::closed()),
                () = woken => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>> {
        let shared = &self.shared;
        Some(shared.lock().and_then(|mut state| {
            let was_full = state.desk.is_full();
            state.desk.ack(token)?;
            shared.made_room(&mut state, was_full);
            Ok(())
        }))
    }

    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()> {
        match self.begin(token, how, confirm)? {
            Begun::Done => Ok(()),
            Begun::Saving(waiting) => confirmed(waiting).await,
            // Goes on when the future is dropped: a copy that is made is a copy settled.
            Begun::Copying(copying) => copying.await.map_err(|_| super::threads::closed())?,
        }
    }
}

/// A settlement that may take its time.
enum Begun {
    Done,
    Saving(oneshot::Receiver<Result<()>>),
    Copying(JoinHandle<Result<()>>),
}

impl Member {
    fn begin(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<Begun> {
        let shared = &self.shared;
        let mut state = shared.lock()?;
        let was_full = state.desk.is_full();
        let (part, generation) = match state.desk.settle(token, how, Instant::now())? {
            Settled::Open => return Ok(Begun::Done),
            Settled::Done(part, generation) | Settled::Already(part, generation) => {
                (part, generation)
            }
            Settled::Copy(copy) => {
                let copying = self.tasks.spawn(retry_later(shared.clone(), copy));
                return Ok(Begun::Copying(copying));
            }
        };
        shared.made_room(&mut state, was_full);
        if !confirm {
            return Ok(Begun::Done);
        }
        Ok(Begun::Saving(shared.confirm(&mut state, part, generation)))
    }
}
