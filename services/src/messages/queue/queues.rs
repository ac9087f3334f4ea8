//! The bound queues of a session: which there are, what is fetched from them, what is certain.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Consumer, ConsumerConfig, ConsumerInfo, Delivery, Error, Start};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use super::desk::{Desk, WINDOW};
use super::lane::{Lane, Part, Place};
use super::ledger::{Body, Fetched, Lease};
use super::pull::Phase;
use super::record::Record;
use super::settlements::Settlements;
use crate::limits;
use crate::model::{Incarnation, LogEvent, Subscription, names};

use crate::store::{Kept, Store};

/// One fetch waits at most this long.
pub(super) const FETCH: Duration = Duration::from_secs(5);
/// How long a lane is left alone after it failed, or gave something that must wait.
const RETRY: Duration = Duration::from_millis(500);

/// Past the end of a lease until its message has come again for certain.
const LEASE_MARGIN: Duration = Duration::from_secs(1);

/// What a fetch gave.
pub(super) struct Arrival {
    lane: Lane,
    asked: usize,
    started: Instant,
    /// With what was settled when it was here, read after it.
    fetched: Result<(Vec<Delivery>, Record), Error>,
}

/// The queues of one generation.
pub(super) struct Queues {
    store: Store,
    settlements: Settlements,
    kept: Arc<Kept>,
    desk: Arc<Desk>,
    phase: Phase,
    lanes: BTreeMap<Lane, LaneState>,
    fetches: FuturesUnordered<BoxFuture<'static, Arrival>>,
}

/// A lane that belongs to the phase, bound (then its queue is on the desk) or to be bound.
struct LaneState {
    fetching: bool,
    /// Deliveries that someone has and we have not; see [`Queues::settle_doubt`].
    missing: u64,
    /// By then every lease that was lost has ended, and its message comes before any new one.
    lost_until: Instant,
    try_at: Instant,
}

impl Queues {
    pub(super) fn new(
        store: Store,
        settlements: Settlements,
        kept: Arc<Kept>,
        desk: Arc<Desk>,
    ) -> Self {
        let phase = Phase::closed(&kept.subscription);
        let (lanes, fetches) = (BTreeMap::new(), FuturesUnordered::new());
        Self { store, settlements, kept, desk, phase, lanes, fetches }
    }

    pub(super) fn subscription(&self) -> &Subscription {
        &self.kept.subscription
    }

    /// What a pull is told; a queue that is missing and being repaired counts as pending.
    pub(super) fn phase(&self) -> Phase {
        let bound = |lane: &Lane| self.desk.queue(lane).is_some();
        match self.phase {
            Phase::Prefill | Phase::Live if !self.lanes.keys().all(bound) => Phase::Pending,
            _ => self.phase.clone(),
        }
    }

    /// Takes a newer record in. Another generation means other queues, and no memory.
    pub(super) fn follow(&mut self, kept: Arc<Kept>) {
        let same = kept.subscription.incarnation == self.subscription().incarnation;
        self.kept = kept;
        if !same || !self.subscription().is_open() {
            self.lanes.keys().for_each(|lane| forget(&self.desk, lane));
            self.lanes.clear();
            self.fetches.clear();
            self.phase = Phase::closed(self.subscription());
        }
    }

    /// Brings phase and lanes in line with the record, and binds what is not bound.
    pub(super) async fn arrange(&mut self) {
        self.choose_lanes();
        while let Some(lane) = self.next_unbound() {
            if let Err(error) = self.bind(&lane).await {
                tracing::debug!(name = %self.subscription().name(), %lane, %error, "not bound yet");
                self.put_off(&lane);
            }
            // Binding a prefill that is behind already leads on to the live lanes.
            self.choose_lanes();
        }
    }

    fn choose_lanes(&mut self) {
        let kept = self.kept.clone();
        if !kept.subscription.is_open() {
            return;
        }
        if matches!(self.phase, Phase::Pending | Phase::Failed(_) | Phase::Cancelled) {
            let wants = kept.subscription.wants_prefill();
            self.enter(if wants { Phase::Prefill } else { Phase::Live });
        }
        if self.phase == Phase::Live {
            for realm in kept.subscription.fence.keys() {
                let lane = self.lane(Part::Live(realm.clone()));
                self.lanes.entry(lane).or_insert_with(LaneState::new);
            }
        }
    }

    fn next_unbound(&self) -> Option<Lane> {
        let now = Instant::now();
        let mut lanes = self.lanes.iter();
        let unbound = lanes.find(|(lane, s)| s.try_at <= now && self.desk.queue(lane).is_none());
        unbound.map(|(lane, _)| lane.clone())
    }

    fn lane(&self, part: Part) -> Lane {
        Lane { generation: self.subscription().incarnation.generation, part }
    }

    fn enter(&mut self, phase: Phase) {
        self.lanes.keys().for_each(|lane| forget(&self.desk, lane));
        self.lanes.clear();
        if phase == Phase::Prefill {
            self.lanes.insert(self.lane(Part::Prefill), LaneState::new());
        }
        self.phase = phase;
    }

    async fn bind(&mut self, lane: &Lane) -> Result<(), Error> {
        let of = self.subscription().incarnation.clone();
        let (stream, name) = lane.queue(&of)?;
        if lane.part == Part::Prefill {
            let config = ConsumerConfig {
                filters: vec![names::rows_filter(&of)?],
                start: Start::Beginning,
                ack_wait: self.subscription().ack_wait,
                max_unsettled: limits::MAX_UNSETTLED,
                ..ConsumerConfig::new(name.clone())
            };
            self.store.bus().ensure_consumer(&stream, &config).await?;
        }
        let queue = self.store.bus().bind(&stream, &name).await?;
        // Until it is known what earlier sessions have leased, nothing may go out.
        self.doubt(lane, Duration::ZERO);
        let (info, settled) = see(&queue, &self.settlements, &of, lane).await?;
        self.desk.queues().insert(lane.clone(), queue);
        self.learn(lane, &info, &settled);
        Ok(())
    }

    /// Looks at every lane about which something is not certain. Costs a request for each.
    pub(super) async fn look(&mut self) {
        let of = self.subscription().incarnation.clone();
        for lane in self.lanes.keys().cloned().collect::<Vec<_>>() {
            let Some(queue) = self.desk.queue(&lane) else { continue };
            match see(&queue, &self.settlements, &of, &lane).await {
                Ok((info, settled)) => self.learn(&lane, &info, &settled),
                Err(error) if error.is_not_found() => self.unbind(&lane),
                Err(error) => {
                    tracing::debug!(name = %self.subscription().name(), %lane, %error, "not seen");
                }
            }
        }
    }

    /// True when [`Queues::look`] may find something that a pull waits for.
    pub(super) fn is_in_doubt(&self) -> bool {
        let ledger = self.desk.ledger();
        self.phase == Phase::Prefill
            || ledger.any_blocked()
            || self.lanes.keys().any(|lane| ledger.is_withheld(lane))
    }

    /// True when what just happened may have ended the prefill or a doubt.
    pub(super) fn may_be_settled(&self) -> bool {
        let ledger = self.desk.ledger();
        let all_rows = self.phase == Phase::Prefill && ledger.count(&self.lane(Part::Prefill)) == 0;
        all_rows || self.lanes.keys().any(|lane| ledger.is_withheld(lane))
    }

    fn learn(&mut self, lane: &Lane, info: &ConsumerInfo, settled: &Record) {
        let behind = |sequence| sequence <= info.settled_sequence || settled.contains(sequence);
        self.desk.ledger().observe(lane, behind);
        self.settle_doubt(lane, info.unsettled);
        // Every row settled, not only delivered: a row that comes again would otherwise follow a
        // newer live event of its key.
        if lane.part == Part::Prefill && info.pending == 0 && info.unsettled == 0 {
            self.enter(Phase::Live);
        }
    }

    /// A lane is withheld while someone else may hold leases on it: an earlier session that
    /// crashed, or a fetch whose answer was lost. Then an older message of a key may come again
    /// after a newer one is here, so nothing goes out until one of two things proves that
    /// every unsettled delivery is known:
    ///
    /// - nothing of the lane is with a client, and the bus counts as many unsettled deliveries as
    ///   are held here. (What is with a client may be settled without our knowledge, and would
    ///   hide one that is missing.)
    /// - every lease that may have been lost has ended, and a fetch begun after that, in which
    ///   what comes again precedes what is new, gave less than it asked for.
    fn settle_doubt(&mut self, lane: &Lane, unsettled: u64) {
        let mut ledger = self.desk.ledger();
        let (ours, held) = (ledger.count(lane) as u64, ledger.held_in(lane) as u64);
        if ledger.is_withheld(lane) && unsettled == held && ours == held {
            ledger.release(lane);
        }
        if let Some(state) = self.lanes.get_mut(lane) {
            state.missing = unsettled.saturating_sub(ours);
        }
    }

    /// Someone else may hold leases from now on, the last of which begins within `fetching`.
    fn doubt(&mut self, lane: &Lane, fetching: Duration) {
        self.desk.ledger().withhold(lane);
        let ack_wait = self.subscription().ack_wait;
        if let Some(state) = self.lanes.get_mut(lane) {
            state.lost_until = Instant::now() + fetching + ack_wait + LEASE_MARGIN;
        }
    }

    /// Starts a fetch on every lane that has none, so that `demand` deliveries can be handed out.
    pub(super) fn fetch(&mut self, demand: usize, wait: Duration) {
        if demand == 0 || wait.is_zero() {
            return;
        }
        let now = Instant::now();
        let ledger = self.desk.ledger();
        for (lane, state) in &mut self.lanes {
            let Some(queue) = self.desk.queue(lane) else { continue };
            let mut wanted = demand.saturating_sub(ledger.ready());
            if ledger.is_withheld(lane) {
                // What is not here may come again at any time, and ends the doubt.
                let missing = usize::try_from(state.missing).unwrap_or(usize::MAX);
                let held = ledger.held_in(lane);
                let elsewhere = missing.saturating_add(ledger.count(lane) - held);
                wanted = demand.saturating_sub(held).max(elsewhere).max(1);
            }
            if state.fetching || state.try_at > now || wanted == 0 {
                continue;
            }
            let (lane, max) = (lane.clone(), wanted.min(limits::MAX_PULL_MESSAGES));
            state.fetching = true;
            let (settlements, of) =
                (self.settlements.clone(), self.kept.subscription.incarnation.clone());
            let fetch = async move {
                let started = Instant::now();
                let fetched = fetch(&queue, max, wait, &settlements, &of, &lane).await;
                Arrival { lane, asked: max, started, fetched }
            };
            self.fetches.push(fetch.boxed());
        }
    }

    /// The next fetch that has ended; waits for ever when there is none.
    pub(super) async fn arrival(&mut self) -> Arrival {
        match self.fetches.next().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    /// Takes in what a fetch gave.
    pub(super) async fn take_in(&mut self, arrival: Arrival) {
        let Arrival { lane, asked, started, fetched } = arrival;
        let Some(state) = self.lanes.get_mut(&lane) else { return };
        state.fetching = false;
        let lost_until = state.lost_until;
        if self.desk.queue(&lane).is_none() {
            // The queue went meanwhile, and every lease on it.
            return;
        }
        match fetched {
            Ok((deliveries, settled)) => {
                let all_again = started >= lost_until && deliveries.len() < asked;
                self.desk.ledger().observe(&lane, |sequence| settled.contains(sequence));
                let is_over = |delivery: &Delivery| settled.contains(delivery.message().sequence);
                let (over, open): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_over);
                settle_again(&lane, over).await;
                for delivery in open {
                    self.take_in_one(&lane, delivery).await;
                }
                let withheld = self.desk.ledger().is_withheld(&lane);
                if withheld && all_again {
                    self.desk.ledger().release(&lane);
                } else if withheld {
                    // Waiting for what comes again must not draw in the whole backlog.
                    self.put_off(&lane);
                }
            }
            Err(error) if error.is_not_found() => self.unbind(&lane),
            Err(error) => {
                tracing::debug!(name = %self.subscription().name(), %lane, %error, "fetch failed");
                // The request may still be waiting at the bus.
                self.doubt(&lane, FETCH);
                self.put_off(&lane);
            }
        }
    }

    async fn take_in_one(&mut self, lane: &Lane, delivery: Delivery) {
        let message = delivery.message();
        let event = match lane.part {
            Part::Prefill => LogEvent::from_row(message),
            Part::Live(_) => LogEvent::from_log(message),
        };
        let Some(event) = event else {
            let (sequence, subject) = (message.sequence, message.subject.clone());
            tracing::warn!(%lane, sequence, %subject, "not the subject of an event: skipped");
            // Without effect if it fails: then it comes again and is skipped again.
            let _ = delivery.ack_confirmed().await;
            return;
        };
        let lease = Lease {
            attempt: delivery.attempt(),
            expires: delivery.expires(),
            token: delivery.token().clone(),
        };
        let body = Body { sequence: event.sequence, event: event.to_json() };
        let place = Place { lane: lane.clone(), sequence: message.sequence };
        let key = (event.topic, event.key);
        self.desk.ledger().fetched(Fetched { place, key, lease, body });
    }

    /// Waits for the fetches on their way and gives everything that is here back to the bus.
    pub(super) async fn give_back(&mut self) {
        while let Some(arrival) = self.fetches.next().await {
            self.take_in(arrival).await;
        }
        self.desk.give_back_held().await;
    }

    /// When a lane that failed may be tried again.
    pub(super) fn try_at(&self) -> Option<Instant> {
        let now = Instant::now();
        self.lanes.values().map(|state| state.try_at).filter(|at| *at > now).min()
    }

    fn put_off(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane) {
            state.try_at = Instant::now() + RETRY;
        }
    }

    /// The queue is gone: the dispatcher makes it anew, and nothing of ours holds any more.
    fn unbind(&mut self, lane: &Lane) {
        forget(&self.desk, lane);
        self.put_off(lane);
    }
}

impl LaneState {
    fn new() -> Self {
        let now = Instant::now();
        Self { fetching: false, missing: 0, lost_until: now, try_at: now }
    }
}

fn forget(desk: &Desk, lane: &Lane) {
    desk.queues().remove(lane);
    desk.ledger().forget(lane);
}

/// The queue as the bus has it, and then what is settled: not less than the bus knew.
async fn see(
    queue: &Consumer,
    settlements: &Settlements,
    of: &Incarnation,
    lane: &Lane,
) -> Result<(ConsumerInfo, Record), Error> {
    let info = queue.info().await?;
    Ok((info, settlements.read(of, lane).await?))
}

/// Deliveries, and then what is settled: whatever was settled before the last of them came.
async fn fetch(
    queue: &Consumer,
    max: usize,
    wait: Duration,
    settlements: &Settlements,
    of: &Incarnation,
    lane: &Lane,
) -> Result<(Vec<Delivery>, Record), Error> {
    let deliveries = queue.fetch(max, wait).await?;
    Ok((deliveries, settlements.read(of, lane).await?))
}

/// Reminds the bus of acks that it has forgotten. Without effect where it fails: then the message
/// comes again and is settled again.
async fn settle_again(lane: &Lane, over: Vec<Delivery>) {
    if !over.is_empty() {
        tracing::debug!(%lane, count = over.len(), "the bus has forgotten acks: acked again");
    }
    let acks = over.into_iter().map(Delivery::ack_confirmed);
    stream::iter(acks).buffered(WINDOW).for_each(|_| std::future::ready(())).await;
}

/// The queue of a lane, bound for settling only.
pub(super) async fn bind(store: &Store, kept: &Kept, lane: &Lane) -> Result<Consumer, Error> {
    let (stream, name) = lane.queue(&kept.subscription.incarnation)?;
    store.bus().bind(&stream, &name).await
}
