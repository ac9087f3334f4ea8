//! One member of a consumer's group: what a connection binds a consumer through, shared by all who
//! bind it there.
//!
//! A thread polls for it (see [`super::poller`]); those who fetch and settle meet the thread at the
//! [`Desk`], under a lock that nobody holds while waiting.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::catalog::Catalog;
use super::desk::{Copy, Desk, Part, Settled};
use super::entry::ConsumerEntry;
use super::group::Group;
use super::lease::after;
use super::link::Link;
use super::poller;
use super::publisher::Publisher;
use super::retry;
use super::standing::Ours;
use super::topics;
use crate::config::StreamConfig;
use crate::driver::{ConsumerDriver, LeaseToken, RawDelivery, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName};

/// How long a settlement waits for its commit, or for its copy.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// How soon an ack that nobody waits for is committed.
const SAVE_EVERY: Duration = Duration::from_millis(200);
/// How soon a commit that failed is tried again.
const SAVE_AGAIN: Duration = Duration::from_millis(50);
/// How often it is looked for what rests in the way.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// How often retries that are settled are removed, and from how many on that does not wait.
const TRIM_EVERY: Duration = Duration::from_secs(60);
const TRIM_FROM: i64 = 1000;
/// How many messages are moved then.
const TIDY_BATCH: usize = 256;
/// How long leaving a group is waited for.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A bound consumer: leaves the group when it is dropped.
pub(super) struct Member {
    shared: Arc<Shared>,
    /// The connection's, which waits for them when it closes.
    tasks: TaskTracker,
}

/// What the member, its thread and its tasks share.
pub(super) struct Shared {
    pub(super) link: Arc<Link>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) of: Names,
    pub(super) stop: CancellationToken,
    /// Rung when the thread may have something to do.
    pub(super) bell: Arc<Bell>,
    /// Told when a fetch that found nothing may find something.
    pub(super) arrived: Arc<Notify>,
    /// Rung when someone waits for a commit.
    save_bell: Bell,
    /// Whose turn it is to commit.
    pub(super) commits: Mutex<()>,
    state: Mutex<State>,
}

/// Whose member it is.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) stream: StreamName,
    pub(super) consumer: ConsumerName,
    /// The stream's topic, and the topic of the consumer's retries.
    pub(super) topics: [String; 2],
    /// The stream as it was declared when the consumer was bound.
    pub(super) config: StreamConfig,
}

impl Names {
    pub(super) fn topic(&self, part: Part) -> &str {
        &self.topics[usize::from(part.0)]
    }

    /// Which of the two topics' partitions this is.
    pub(super) fn part(&self, topic: &str, partition: i32) -> Part {
        (topic != self.topics[0], partition)
    }
}

pub(super) struct State {
    pub(super) desk: Desk,
    /// Who waits for a commit that was not sent yet.
    pub(super) confirms: Vec<Confirm>,
    /// Where each partition of the retry topic stands on the broker, since it was trimmed.
    pub(super) saved: BTreeMap<i32, i64>,
    /// The group is to be joined anew, from what is committed.
    pub(super) rejoin: bool,
    /// Why the member has ended.
    over: Option<(ErrorKind, String)>,
    /// The client that is in the group.
    pub(super) client: Option<Arc<BaseConsumer<Group>>>,
}

/// Someone who waits until a settlement is committed.
pub(super) struct Confirm {
    pub(super) part: Part,
    pub(super) generation: u64,
    pub(super) done: oneshot::Sender<Result<()>>,
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
        loop {
            let (woken, until) = {
                let mut state = self.shared.lock()?;
                self.shared.apply(&mut state)?;
                let now = Instant::now();
                let taken = state.desk.take(max, now);
                if !taken.is_empty() || max == 0 || now >= deadline {
                    self.shared.feed(&mut state);
                    return Ok(taken);
                }
                // Made under the lock, so that nothing between this look and the wait is missed.
                let woken = self.shared.arrived.clone().notified_owned();
                (woken, state.desk.next_change().map_or(deadline, |next| next.min(deadline)))
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

/// Copies a message to the retry topic, and settles it when the copy is durable.
async fn retry_later(shared: Arc<Shared>, copy: Copy) -> Result<()> {
    let to = match retry::copy(&shared, &copy).await {
        Ok(to) => to,
        Err(error) => {
            if let Ok(mut state) = shared.lock() {
                state.desk.not_copied(&copy);
            }
            shared.arrived.notify_waiters();
            return Err(error);
        }
    };
    let waiting = {
        let mut state = shared.lock()?;
        if !state.desk.copied(&copy, to) {
            let what = "the partition of this message went to another member meanwhile: it may be \
                        delivered twice";
            return Err(Error::new(ErrorKind::Stale, what));
        }
        shared.arrived.notify_waiters();
        let part = (copy.slot.retry, copy.slot.partition);
        shared.confirm(&mut state, part, copy.generation)
    };
    confirmed(waiting).await
}

/// Commits when someone waits for it, and now and then for those who do not, in a thread of its
/// own. What is settled last is committed by who leaves the group.
fn save_all(shared: &Shared) {
    let mut pause = SAVE_EVERY;
    while !shared.stop.is_cancelled() {
        shared.save_bell.wait(pause);
        let Some(client) = shared.state().client.clone() else { continue };
        let turn = shared.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = shared.save(&client);
        drop(turn);
        pause = if saved { SAVE_EVERY } else { SAVE_AGAIN };
    }
}

async fn confirmed(waiting: oneshot::Receiver<Result<()>>) -> Result<()> {
    match tokio::time::timeout(SETTLE_LIMIT, waiting).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(super::threads::closed()),
        Err(_) => {
            let what = "the settlement was not committed in time: it is as soon as the broker is \
                        back, unless the message is delivered again";
            Err(Error::new(ErrorKind::Timeout, what))
        }
    }
}

/// Keeps the retry topic in order for as long as the member lives: what rests in the way goes to
/// its end, and what is settled goes away.
async fn tidy(shared: Arc<Shared>) {
    let (mut trimmed, mut removed) = (Instant::now(), BTreeMap::new());
    loop {
        tokio::select! { biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(TIDY_EVERY) => {}
        }
        let settled = shared.state().settled_since(&removed);
        if trimmed.elapsed() >= TRIM_EVERY || settled >= TRIM_FROM {
            trimmed = Instant::now();
            trim(&shared, &mut removed).await;
        }
        let copies = match shared.lock() {
            Ok(mut state) => state.desk.in_the_way(TIDY_BATCH, Instant::now()),
            Err(_) => return,
        };
        let moves = copies.into_iter().map(|copy| retry_later(shared.clone(), copy));
        for moved in futures_util::future::join_all(moves).await {
            if let Err(error) = moved {
                tracing::debug!(%error, "a message that rests was not moved");
            }
        }
        shared.bell.ring();
    }
}

/// Removes the retries that the group has passed, and notes how far. Those of a failure are removed
/// the next time.
async fn trim(shared: &Shared, removed: &mut BTreeMap<i32, i64>) {
    let saved = std::mem::take(&mut shared.state().saved);
    let passed: Vec<(i32, i64)> = saved.into_iter().collect();
    if passed.is_empty() {
        return;
    }
    if let Err(error) = topics::empty(&shared.link, &shared.of.topics[1], &passed).await {
        tracing::debug!(%error, "retries that are settled are still there");
        let mut state = shared.state();
        for (partition, offset) in passed {
            state.saved.entry(partition).or_insert(offset);
        }
        return;
    }
    removed.extend(passed);
}

impl State {
    /// How many offsets of the retry topic the group has passed beyond those that were removed.
    fn settled_since(&self, removed: &BTreeMap<i32, i64>) -> i64 {
        let before = |partition| removed.get(partition).copied().unwrap_or(0);
        self.saved.iter().map(|(partition, offset)| offset - before(partition)).sum()
    }
}

impl Shared {
    /// The state; an error once the member has ended.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if let Some((kind, why)) = &state.over {
            return Err(Error::new(*kind, why.clone()));
        }
        self.link.check_open()?;
        Ok(state)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The consumer as the catalog has it now.
    pub(super) fn entry(&self) -> Result<Arc<ConsumerEntry>> {
        let Names { stream, consumer, .. } = &self.of;
        self.catalog.consumer(stream, consumer).ok_or_else(|| {
            Error::not_found(format!("there is no consumer {consumer} on stream {stream}"))
        })
    }

    /// Does what the catalog says: limits, a pause, an end.
    pub(super) fn apply(&self, state: &mut State) -> Result<()> {
        let entry = self.entry()?;
        state.desk.set_limits((&entry.config).into());
        let left =
            entry.paused_until.and_then(|until| until.duration_since(SystemTime::now()).ok());
        let was_paused = state.desk.paused_until.is_some();
        state.desk.paused_until = left.map(|left| after(Instant::now(), left));
        if was_paused && left.is_none() {
            self.arrived.notify_waiters();
        }
        Ok(())
    }

    /// Tells those who wait for it that something was settled.
    fn made_room(&self, state: &mut State, was_full: bool) {
        if was_full {
            self.arrived.notify_waiters();
        }
        self.feed(state);
    }

    /// Wakes the thread where it waits for room and there is some.
    fn feed(&self, state: &mut State) {
        if state.desk.is_worth_waking() {
            self.bell.ring();
        }
    }

    /// Resolves when what is settled of the partition by now is committed.
    pub(super) fn confirm(
        &self,
        state: &mut State,
        part: Part,
        generation: u64,
    ) -> oneshot::Receiver<Result<()>> {
        let (done, waiting) = oneshot::channel();
        state.confirms.push(Confirm { part, generation, done });
        self.save_bell.ring();
        waiting
    }

    /// Ends the member: every call fails with this from now on.
    pub(super) fn end(&self, error: &Error) {
        let mut state = self.state();
        state.over = Some((error.kind(), error.to_string()));
        let parts = state.desk.parts();
        state.desk.revoke(&parts);
        state.confirms.clear();
        drop(state);
        self.arrived.notify_waiters();
    }
}

/// Wakes the thread.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    waiting: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *rung, true) {
            self.waiting.notify_one();
        }
    }

    /// Returns when it is rung, or was since the last time; at most after `limit`.
    pub(super) fn wait(&self, limit: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.waiting.wait_timeout_while(rung, limit, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

/// Names a member as no other is named, so that its tokens are nobody else's.
pub(super) fn instance() -> Arc<str> {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    static START: OnceLock<String> = OnceLock::new();
    let start = START.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{:x}-{:x}", std::process::id(), since.as_micros())
    });
    format!("{start}-{}", COUNT.fetch_add(1, Ordering::Relaxed)).into()
}
