//! The sessions of this process, made on demand.
//!
//! ```text
//!              lease taken                         lease lost
//!   following ─────────────► serving (Session) ─────────────► following
//!       │ pulls are forwarded to the owner
//! ```
//!
//! A subscription is served by the process that has its lease. Every other replica follows: it
//! forwards pulls to the owner, and takes the lease when that is free or has run out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bus::{Attempt, Contender, Lease};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dead_letters::DeadLetters;
use super::forward::{self, Forwarded};
use super::journals::Journals;
use super::lane::{Lane, Place};
use super::lanes::Lanes;
use super::pull::{Batch, Bell, HandedOut, Phase, Pull, Pulled, Refused};
use super::selection::Select;
use super::session::{End, IDLE, MAX_PULLS, Session};
use super::source::Bodies;
use crate::messages::directory::Followed;
use crate::messages::stream::Feeds;
use crate::messages::tasks::Spawner;
use crate::model::SubscriptionName;
use crate::store::Store;

/// Subscriptions that one process serves in queue mode at once.
const MAX_SESSIONS: usize = 4096;
/// How often a pull meets a session that just ends before it gives up.
const TRIES: usize = 3;
/// A session may be this late with an answer, when the bus is.
const GRACE: Duration = Duration::from_secs(10);
/// An owner that died is followed after this long.
const LEASE: Duration = Duration::from_secs(5);
/// How often who follows looks at the lease.
const LOOK: Duration = Duration::from_millis(500);
/// Events that are read for a forwarded pull at once.
const LOADS: usize = 64;

/// Finds or makes the session of a subscription. Cheap to clone.
#[derive(Clone)]
pub(super) struct Sessions {
    store: Store,
    feeds: Feeds,
    pub(super) journals: Journals,
    pub(super) dead_letters: DeadLetters,
    /// This process, in the leases.
    owner: Arc<str>,
    running: Arc<Mutex<BTreeMap<SubscriptionName, Handle>>>,
    tasks: Spawner,
    shutdown: CancellationToken,
}

#[derive(Clone)]
struct Handle {
    inbox: mpsc::Sender<Pull>,
    bell: Arc<Bell>,
    /// True while the session has the lease.
    serves: Arc<Mutex<bool>>,
}

/// What a subscription's task is made of.
struct Task {
    followed: Followed,
    bell: Arc<Bell>,
    serves: Arc<Mutex<bool>>,
    inbox: mpsc::Receiver<Pull>,
    waiting: VecDeque<Pull>,
}

type Forwarding = FuturesUnordered<BoxFuture<'static, Option<Pull>>>;

impl Sessions {
    pub(super) fn new(
        feeds: Feeds,
        tasks: Spawner,
        shutdown: CancellationToken,
    ) -> Result<Self, bus::Error> {
        let store = feeds.store.clone();
        let owner = Arc::from(store.platform.entropy.uid()?);
        let (journals, dead_letters) = (Journals::new(&store), DeadLetters::new(&store));
        let running = Arc::default();
        let sessions =
            Self { store, feeds, journals, dead_letters, owner, running, tasks, shutdown };
        let (bus, shutdown) = (sessions.store.bus().clone(), sessions.shutdown.clone());
        sessions.tasks.spawn(forward::answer_all(sessions.clone(), bus, shutdown));
        Ok(sessions)
    }

    /// This process, as others address it.
    pub(super) fn owner(&self) -> &str {
        &self.owner
    }

    /// What a pull takes, waiting until `until` for the first. A shutdown ends the wait.
    pub(super) async fn pull(
        &self,
        followed: &Followed,
        want: Select,
        until: Instant,
    ) -> Result<Pulled, Refused> {
        for _ in 0..TRIES {
            let handle = self.session(followed)?;
            if let Some(answer) = send(&handle, want, until).await {
                return answer;
            }
        }
        Err(Refused::Busy)
    }

    /// The same for another replica, only where this process has the lease.
    pub(super) async fn pull_here(
        &self,
        name: &SubscriptionName,
        want: Select,
        until: Instant,
    ) -> Result<Pulled, Refused> {
        let handle = self.running().get(name).cloned();
        let serves = |handle: &Handle| *lock(&handle.serves);
        let Some(handle) = handle.filter(serves) else { return Err(Refused::Elsewhere) };
        send(&handle, want, until).await.unwrap_or(Err(Refused::Elsewhere))
    }

    /// Tells the subscription's session here, if there is one, that a journal was written.
    pub(super) fn ring(&self, name: &SubscriptionName) {
        if let Some(handle) = self.running().get(name) {
            handle.bell.rung.notify_one();
        }
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
        let (sender, inbox) = mpsc::channel(MAX_PULLS);
        let (bell, serves) = (Arc::default(), Arc::default());
        let handle = Handle { inbox: sender, bell, serves };
        running.insert(name.clone(), handle.clone());
        let Handle { bell, serves, .. } = handle.clone();
        let waiting = VecDeque::new();
        let task = Task { followed: followed.clone(), bell, serves, inbox, waiting };
        let sessions = self.clone();
        self.tasks.spawn(async move { sessions.run(task).await });
        Ok(handle)
    }

    async fn run(self, mut task: Task) {
        let name = task.followed.kept().subscription.name().clone();
        let bell = task.bell.clone();
        if let Err(refused) = self.serve(&name, &mut task).await {
            task.inbox.close();
            while let Ok(pull) = task.inbox.try_recv() {
                task.waiting.push_back(pull);
            }
            for pull in task.waiting.drain(..) {
                // A client that hung up needs no answer.
                let _ = pull.reply.send(Err(refused.clone()));
            }
        }
        let mut running = self.running();
        if running.get(&name).is_some_and(|handle| Arc::ptr_eq(&handle.bell, &bell)) {
            running.remove(&name);
        }
    }

    /// Follows and serves in turn until there is a reason to end.
    async fn serve(&self, name: &SubscriptionName, task: &mut Task) -> Result<(), Refused> {
        let away = |error: bus::Error| Refused::Away(error.to_string());
        let value = self.owner.to_string();
        let mut contender =
            Lease::contend(&self.store.leases, name.as_str(), value, LEASE).map_err(away)?;
        loop {
            let Some(lease) = self.follow(name, task, &mut contender).await? else {
                return Ok(());
            };
            *lock(&task.serves) = true;
            let kept = task.followed.current().unwrap_or_else(|| task.followed.kept().clone());
            let lanes = Lanes::new(
                self.feeds.clone(),
                self.journals.clone(),
                self.dead_letters.clone(),
                kept,
            );
            let Task { followed, bell, inbox, waiting, .. } = &mut *task;
            let (pulls, shutdown) = (std::mem::take(waiting), self.shutdown.clone());
            let session =
                Session::new(followed.clone(), lease, lanes, bell.clone(), inbox, pulls, shutdown);
            let served = self.store.platform.metrics.session();
            let (end, left) = session.run().await;
            drop(served);
            *lock(&task.serves) = false;
            task.waiting = left;
            match end {
                End::Lost => {}
                End::Gone => return Err(Refused::Gone),
                End::Shutdown | End::Idle => {
                    // What came meanwhile starts another session, or is told that this process stops.
                    task.inbox.close();
                    return Ok(());
                }
            }
        }
    }

    /// Forwards pulls to the owner until this process has the lease; `None` when there is nothing
    /// to wait for any more.
    async fn follow(
        &self,
        name: &SubscriptionName,
        task: &mut Task,
        contender: &mut Contender,
    ) -> Result<Option<Lease>, Refused> {
        let mut forwarding = Forwarding::new();
        let mut used = Instant::now();
        let mut look_at = used;
        let mut owner: Option<String> = None;
        loop {
            if look_at <= Instant::now() {
                look_at = Instant::now() + LOOK;
                match contender.try_take().await {
                    Ok(Attempt::Held(lease)) => {
                        // Those that are on their way come back, or are answered by who was owner.
                        while let Some(back) = forwarding.next().await {
                            task.waiting.extend(back);
                        }
                        return Ok(Some(lease));
                    }
                    Ok(Attempt::Taken { value, .. }) => owner = Some(value),
                    Err(error) => tracing::debug!(%name, %error, "the lease was not looked at"),
                }
            }
            self.forward_all(name, task, owner.as_deref(), &forwarding);
            self.end_waiting(task);
            if used + IDLE <= Instant::now() && forwarding.is_empty() && task.waiting.is_empty() {
                task.inbox.close();
                return Ok(None);
            }
            tokio::select! { biased;
                () = self.shutdown.cancelled() => return Err(Refused::Busy),
                Some(pull) = task.inbox.recv() => {
                    used = Instant::now();
                    task.waiting.push_back(pull);
                }
                Some(back) = forwarding.next() => {
                    used = Instant::now();
                    if let Some(pull) = back {
                        // The owner does not answer: it may be gone.
                        task.waiting.push_back(pull);
                        owner = None;
                    }
                }
                () = task.followed.changed() => {
                    if task.followed.current().is_none() {
                        return Err(Refused::Gone);
                    }
                }
                () = tokio::time::sleep_until(look_at) => {}
            }
        }
    }

    fn forward_all(
        &self,
        name: &SubscriptionName,
        task: &mut Task,
        owner: Option<&str>,
        forwarding: &Forwarding,
    ) {
        let Some(owner) = owner else { return };
        task.waiting.retain(|pull| !pull.reply.is_closed());
        while forwarding.len() < MAX_PULLS
            && let Some(pull) = task.waiting.pop_front()
        {
            let (sessions, bell) = (self.clone(), task.bell.clone());
            let (name, owner) = (name.clone(), owner.to_owned());
            forwarding
                .push(async move { sessions.forward(&name, &owner, bell, pull).await }.boxed());
        }
    }

    /// Asks the owner until there is something or the time is over. Gives the pull back when the
    /// owner does not answer.
    async fn forward(
        &self,
        name: &SubscriptionName,
        owner: &str,
        bell: Arc<Bell>,
        pull: Pull,
    ) -> Option<Pull> {
        loop {
            let left = pull.until.saturating_duration_since(Instant::now());
            let asked = forward::ask(self.store.bus(), owner, name, pull.want, left).await;
            let answer = match asked {
                Err(error) => {
                    tracing::debug!(%name, owner, %error, "the owner does not answer");
                    return Some(pull);
                }
                Ok(Err(refused)) => Err(refused),
                Ok(Ok(forwarded)) => {
                    let is_over = Instant::now() >= pull.until || self.shutdown.is_cancelled();
                    if forwarded.out.is_empty() && !is_over && !pull.reply.is_closed() {
                        continue;
                    }
                    self.received(&bell, forwarded).await
                }
            };
            let _ = pull.reply.send(answer);
            return None;
        }
    }

    /// Reads the events that the owner handed out. One that cannot be read comes again when its
    /// lease ends, and with it what follows of its key.
    async fn received(&self, bell: &Arc<Bell>, answer: Forwarded) -> Result<Pulled, Refused> {
        let Forwarded { of, phase, out } = answer;
        let away = |error: bus::Error| Refused::Away(error.to_string());
        let mut lanes: BTreeMap<Lane, Bodies> = BTreeMap::new();
        for (place, _) in &out {
            if !lanes.contains_key(&place.lane) {
                let bodies = Bodies::open(&self.store, &place.lane).await.map_err(away)?;
                lanes.insert(place.lane.clone(), bodies);
            }
        }
        let load = |(place, attempt): (Place, u32)| {
            let bodies = lanes.get(&place.lane).cloned();
            async move {
                let body = bodies?.get(place.sequence).await.ok()??;
                Some(HandedOut { place, attempt, body })
            }
        };
        let loaded: Vec<Option<HandedOut>> =
            stream::iter(out).map(load).buffered(LOADS).collect().await;
        // Up to the first that is missing: what follows may be of its key.
        let out = loaded.into_iter().map_while(|out| out).collect();
        Ok(Pulled { batch: Batch::new(bell, out), phase, of })
    }

    /// Ends the pulls whose time is over while nobody hands out.
    fn end_waiting(&self, task: &mut Task) {
        let now = Instant::now();
        let of = task.followed.kept().subscription.incarnation.clone();
        let (over, waiting): (VecDeque<Pull>, _) =
            std::mem::take(&mut task.waiting).into_iter().partition(|pull| pull.until <= now);
        task.waiting = waiting;
        for pull in over {
            let batch = Batch::new(&task.bell, Vec::new());
            let (phase, of) = (Phase::Pending, of.clone());
            let _ = pull.reply.send(Ok(Pulled { batch, phase, of }));
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<SubscriptionName, Handle>> {
        lock(&self.running)
    }
}

/// Hands a pull to a session; `None` when the session ended before it saw it.
async fn send(handle: &Handle, want: Select, until: Instant) -> Option<Result<Pulled, Refused>> {
    let (reply, answer) = oneshot::channel();
    match handle.inbox.try_send(Pull { want, until, reply }) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return Some(Err(Refused::Busy)),
        Err(mpsc::error::TrySendError::Closed(_)) => return None,
    }
    match tokio::time::timeout_at(until + GRACE, answer).await {
        Ok(answer) => answer.ok(),
        Err(_) => Some(Err(Refused::Away("the bus does not answer".to_owned()))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
