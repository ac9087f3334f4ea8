//! The lanes of a session: which there are, what is read of them, what they hand out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bus::Error;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::time::Instant;

use super::dead_letters::DeadLetters;
use super::journals::{Journals, LaneJournal};
use super::lane::{Lane, Part};
use super::pull::Phase;
use super::source::{Bodies, Page, Source};
use super::table::Table;
use crate::messages::stream::Feeds;
use crate::model::{Mark, Subscription};
use crate::store::Kept;
use crate::store::journal::Journal;
use crate::store::prefill::rows_are_settled;
use crate::work::{Report, send_report};

/// Lanes that are opened, looked at or written side by side.
pub(super) const SIDE_BY_SIDE: usize = 32;
/// How long a lane is left alone after it failed.
const RETRY: Duration = Duration::from_millis(500);

/// What a read gave.
pub(super) struct Arrival {
    from: From,
    /// Goes on where this read ended; `None` where it failed.
    source: Option<Source>,
    page: Result<Page, Error>,
}

/// Which read it was.
#[derive(Clone)]
struct From {
    lane: Lane,
    /// The open lane that asked for it: one that was opened again has asked anew, from where it
    /// stands.
    owner: u64,
    recovered: bool,
}

/// The lanes of one generation.
pub(super) struct Lanes {
    pub(super) feeds: Feeds,
    pub(super) journals: Journals,
    pub(super) dead_letters: DeadLetters,
    kept: Arc<Kept>,
    phase: Phase,
    open: BTreeMap<Lane, OpenLane>,
    /// Those that belong to the phase and are not open, and when they are tried again.
    closed: BTreeMap<Lane, Instant>,
    reads: FuturesUnordered<BoxFuture<'static, Arrival>>,
}

/// A lane whose journal was read.
pub(super) struct OpenLane {
    pub(super) journal: Arc<LaneJournal>,
    pub(super) table: Table,
    pub(super) bodies: Bodies,
    source: Option<Source>,
    recovery: Option<Source>,
    is_reading: bool,
    /// The read that is under way gives something at once.
    has_more: bool,
    is_recovering: bool,
    try_at: Instant,
    /// The end was read.
    ended: bool,
}

impl Lanes {
    pub(super) fn new(
        feeds: Feeds,
        journals: Journals,
        dead_letters: DeadLetters,
        kept: Arc<Kept>,
    ) -> Self {
        let phase = Phase::closed(&kept.subscription);
        let (open, closed, reads) = (BTreeMap::new(), BTreeMap::new(), FuturesUnordered::new());
        Self { feeds, journals, dead_letters, kept, phase, open, closed, reads }
    }

    pub(super) fn subscription(&self) -> &Subscription {
        &self.kept.subscription
    }

    /// What a pull is told.
    pub(super) fn phase(&self) -> Phase {
        match self.phase {
            Phase::Prefill | Phase::Live if !self.closed.is_empty() => Phase::Pending,
            _ => self.phase.clone(),
        }
    }

    /// Takes a newer record in. Another generation means other lanes, and no memory.
    pub(super) fn follow(&mut self, kept: Arc<Kept>) {
        let before = std::mem::replace(&mut self.kept, kept);
        let same = before.subscription.incarnation == self.subscription().incarnation;
        if !same || !self.subscription().is_open() {
            self.open.clear();
            self.closed.clear();
            self.reads.clear();
            self.phase = Phase::closed(self.subscription());
        }
    }

    /// Brings phase and lanes in line with the record and opens what is not open.
    pub(super) async fn arrange(&mut self) {
        loop {
            self.choose();
            self.open_closed().await;
            if !self.end_prefill().await {
                return;
            }
        }
    }

    fn choose(&mut self) {
        if !self.subscription().is_open() {
            return;
        }
        if matches!(self.phase, Phase::Pending | Phase::Failed(_) | Phase::Cancelled) {
            self.phase = match self.subscription().wants_prefill() {
                true => Phase::Prefill,
                false => Phase::Live,
            };
        }
        let parts: Vec<Part> = match self.phase {
            Phase::Prefill => vec![Part::Prefill],
            Phase::Live => self.subscription().fence.keys().cloned().map(Part::Live).collect(),
            Phase::Pending | Phase::Failed(_) | Phase::Cancelled => Vec::new(),
        };
        let generation = self.subscription().incarnation.generation;
        for lane in parts.into_iter().map(|part| Lane { generation, part }) {
            if !self.open.contains_key(&lane) {
                self.closed.entry(lane).or_insert_with(Instant::now);
            }
        }
    }

    /// Reads the journals of lanes that are not open, side by side.
    async fn open_closed(&mut self) {
        let now = Instant::now();
        let due: Vec<Lane> = self
            .closed
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(lane, _)| lane.clone())
            .collect();
        if due.is_empty() {
            return;
        }
        let (feeds, journals, kept) =
            (self.feeds.clone(), self.journals.clone(), self.kept.clone());
        let open = |lane: Lane| {
            let (feeds, journals, kept) = (&feeds, &journals, &kept);
            async move {
                (lane.clone(), OpenLane::open(feeds, journals, &kept.subscription, &lane).await)
            }
        };
        let opened: Vec<_> =
            stream::iter(due).map(open).buffer_unordered(SIDE_BY_SIDE).collect().await;
        for (lane, opened) in opened {
            match opened {
                Ok(opened) => {
                    self.closed.remove(&lane);
                    self.open.insert(lane, opened);
                }
                Err(error) => {
                    tracing::debug!(name = %self.subscription().name(), %lane, %error, "not open yet");
                    self.closed.insert(lane, Instant::now() + RETRY);
                }
            }
        }
    }

    /// Goes live once the whole prefill is settled. True when that changed something.
    async fn end_prefill(&mut self) -> bool {
        if self.phase != Phase::Prefill {
            return false;
        }
        let mut all_settled = !self.open.is_empty() && self.closed.is_empty();
        for lane in self.open.values_mut() {
            all_settled &= lane.complete().await;
        }
        if all_settled {
            let of = self.subscription().incarnation.clone();
            if let Err(error) = rows_are_settled(&self.feeds.store, &of).await {
                tracing::debug!(prefill = %of, %error, "its rows are kept until they are too old");
            }
            self.phase = Phase::Live;
            self.open.clear();
            self.reads.clear();
        }
        all_settled
    }

    /// Reads on where more is wanted than is ready.
    pub(super) fn read(&mut self, demand: usize, max_per_key: usize) {
        let now = Instant::now();
        let ready = self.ready_events(max_per_key, demand);
        for (lane, open) in &mut self.open {
            let kept = self.kept.clone();
            if let Some(read) = open.next_recovery(lane, &self.feeds, &kept, now) {
                self.reads.push(read);
            }
            if ready < demand
                && let Some(read) = open.next_read(lane, &self.feeds, &kept, now)
            {
                self.reads.push(read);
            }
        }
    }

    /// The next read that ends; never, while there is none.
    pub(super) async fn arrival(&mut self) -> Arrival {
        match self.reads.next().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }

    /// Takes in what a read gave.
    pub(super) async fn take_in(&mut self, arrival: Arrival) {
        let Arrival { from: From { lane, owner, recovered }, source, page } = arrival;
        let open = self.open.get_mut(&lane).filter(|open| open.table.owner() == owner);
        let Some(open) = open else { return };
        let now = Instant::now();
        let (reading, kept_source) = match recovered {
            true => (&mut open.is_recovering, &mut open.recovery),
            false => (&mut open.is_reading, &mut open.source),
        };
        *reading = false;
        *kept_source = source;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(name = %self.kept.subscription.name(), %lane, %error, "reads again");
                *kept_source = None;
                open.has_more = false;
                open.try_at = now + RETRY;
                return;
            }
        };
        let lost = page.lost.clone();
        match recovered {
            true => open.table.recovered(page.events, page.up_to, now),
            false => {
                open.ended |= page.ended;
                open.has_more = page.more;
                open.table.arrived(page.events, page.up_to, now);
            }
        }
        if let Some(why) = lost {
            open.try_at = now + Duration::from_secs(5);
            self.lost(&lane, &why).await;
        }
    }

    /// Says that what this queue has to hand out is not there any more, in the log or among the
    /// rows of the prefill.
    pub(super) async fn lost(&mut self, lane: &Lane, why: &str) {
        let of = self.subscription().incarnation.clone();
        tracing::warn!(incarnation = %of, %lane, why, "the queue has expired");
        let report = match lane.part.clone() {
            Part::Live(realm) => {
                let journal = self.open.get(lane).map(|open| open.table.journal());
                let mark =
                    journal.map(|journal| lane.place(self.subscription(), journal, journal.head));
                Report::HistoryChanged { of, realm, why: why.to_owned(), mark }
            }
            Part::Prefill => Report::RowsGone { of },
        };
        let store = self.feeds.store.clone();
        if let Err(error) = send_report(&store, &report).await {
            tracing::warn!(%lane, %error, "not reported yet");
        }
    }

    /// Brings every table in step with its journal as this process has written or read it, and
    /// makes ready what has come back by now.
    pub(super) async fn keep_up(&mut self, look: bool) {
        let now = Instant::now();
        let seen: Vec<(Lane, Option<Arc<Journal>>)> = if look {
            let read = |(lane, open): (&Lane, &OpenLane)| {
                let (lane, journal) = (lane.clone(), open.journal.clone());
                async move { (lane, journal.read().await.ok()) }
            };
            let blocked = self.open.iter().filter(|(_, open)| !open.table.journal().is_drained());
            let reads: Vec<_> = blocked.map(read).collect();
            stream::iter(reads).buffer_unordered(SIDE_BY_SIDE).collect().await
        } else {
            self.open.iter().map(|(lane, open)| (lane.clone(), open.journal.latest())).collect()
        };
        for (lane, journal) in seen {
            let Some(open) = self.open.get_mut(&lane) else { continue };
            if journal.is_some_and(|journal| !open.table.sync(journal, now)) {
                self.reopen(&lane);
            } else {
                open.table.tick(now);
            }
        }
    }

    /// Makes a lane anew whose journal another owner has written.
    pub(super) fn reopen(&mut self, lane: &Lane) {
        tracing::debug!(name = %self.subscription().name(), %lane, "another owner handed out");
        if self.open.remove(lane).is_some() {
            self.closed.insert(lane.clone(), Instant::now());
        }
    }

    /// The lanes in the order in which they are served, beginning after the one that was last.
    pub(super) fn turns(&self, last: Option<&Lane>) -> Vec<Lane> {
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for (lane, open) in &self.open {
            if open.table.ready_keys() > 0 {
                let behind = last.is_none_or(|last| lane > last);
                if behind { &mut first } else { &mut rest }.push(lane.clone());
            }
        }
        first.append(&mut rest);
        first
    }

    pub(super) fn get(&self, lane: &Lane) -> Option<&OpenLane> {
        self.open.get(lane)
    }

    pub(super) fn get_mut(&mut self, lane: &Lane) -> Option<&mut OpenLane> {
        self.open.get_mut(lane)
    }

    /// True when a read is under way that gives more at once.
    pub(super) fn has_more(&self) -> bool {
        self.open.values().any(|open| open.is_reading && open.has_more)
    }

    /// How many events could be handed out now, counted up to `enough`.
    pub(super) fn ready_events(&self, max_per_key: usize, enough: usize) -> usize {
        let mut ready = 0;
        for open in self.open.values() {
            if ready < enough {
                ready += open.table.ready_events(max_per_key, enough - ready);
            }
        }
        ready
    }

    /// True when something may be ready that this process cannot learn of by itself: a replica may
    /// have settled it.
    pub(super) fn may_be_settled_elsewhere(&self) -> bool {
        self.open.values().any(|open| !open.table.journal().is_drained())
    }

    /// True when a client has something whose lease runs.
    pub(super) fn any_out(&self, now: Instant) -> bool {
        self.open.values().any(|open| open.table.any_out(now))
    }

    /// When something becomes ready or is tried again without anyone's doing.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.open.values().filter_map(|open| open.table.next_due());
        let retry = self.open.values().filter(|open| open.wants_retry()).map(|open| open.try_at);
        due.chain(retry).chain(self.closed.values().copied()).min()
    }

    pub(super) fn lanes(&self) -> BTreeSet<Lane> {
        self.open.keys().cloned().collect()
    }
}

impl OpenLane {
    async fn open(
        feeds: &Feeds,
        journals: &Journals,
        subscription: &Subscription,
        lane: &Lane,
    ) -> Result<Self, Error> {
        let journal = journals.of(subscription, lane);
        let now = Instant::now();
        let stands = journal.read().await?;
        let bodies = Bodies::open(&feeds.store, lane).await?;
        let max_attempts = subscription.max_attempts;
        let owner = u64::from_le_bytes(feeds.store.platform.entropy.bytes()?);
        let table = Table::new(owner, stands, subscription.ack_wait, max_attempts, now);
        let (source, recovery) = (None, None);
        let (is_reading, has_more, is_recovering, ended) = (false, false, false, false);
        let try_at = now;
        Ok(Self {
            journal,
            table,
            bodies,
            source,
            recovery,
            is_reading,
            has_more,
            is_recovering,
            try_at,
            ended,
        })
    }

    fn wants_retry(&self) -> bool {
        !self.is_reading && self.try_at > Instant::now()
    }

    fn next_read(
        &mut self,
        lane: &Lane,
        feeds: &Feeds,
        kept: &Arc<Kept>,
        now: Instant,
    ) -> Option<BoxFuture<'static, Arrival>> {
        if self.is_reading || self.ended || self.try_at > now || self.table.is_full() {
            return None;
        }
        self.is_reading = true;
        let position = self.table.read();
        let place = lane.place(&kept.subscription, self.table.journal(), position);
        let from = From { lane: lane.clone(), owner: self.table.owner(), recovered: false };
        Some(read(from, self.source.take(), feeds.clone(), kept.clone(), place, None))
    }

    fn next_recovery(
        &mut self,
        lane: &Lane,
        feeds: &Feeds,
        kept: &Arc<Kept>,
        now: Instant,
    ) -> Option<BoxFuture<'static, Arrival>> {
        let wanted = self.table.recovery()?.clone();
        if self.is_recovering || self.try_at > now {
            return None;
        }
        self.is_recovering = true;
        let up_to = Some(wanted.up_to);
        let place = lane.place(&kept.subscription, self.table.journal(), wanted.after);
        let from = From { lane: lane.clone(), owner: self.table.owner(), recovered: true };
        Some(read(from, self.recovery.take(), feeds.clone(), kept.clone(), place, up_to))
    }

    /// True when the lane has ended and all of it is settled; says so in the journal, so that who
    /// takes over need not look for rows that may be gone.
    async fn complete(&mut self) -> bool {
        if self.table.journal().complete {
            return true;
        }
        if !self.ended || !self.table.is_drained() {
            return false;
        }
        let (head, batch) = (self.table.read(), self.table.journal().batch);
        let mark = |journal: &mut Journal| {
            if journal.batch == batch && journal.is_drained() {
                journal.complete = true;
                journal.head = journal.head.max(head);
            }
        };
        match self.journal.write(mark).await {
            Ok(written) => written.journal.complete,
            Err(error) => {
                tracing::debug!(%error, "the end of the prefill is not written down yet");
                self.try_at = Instant::now() + RETRY;
                false
            }
        }
    }
}

fn read(
    from: From,
    source: Option<Source>,
    feeds: Feeds,
    kept: Arc<Kept>,
    place: Mark,
    up_to: Option<u64>,
) -> BoxFuture<'static, Arrival> {
    async move {
        let mut source = match source {
            Some(source) => source,
            None => match Source::open(&feeds, &kept.subscription, &from.lane, place).await {
                Ok(source) => source,
                Err(error) => return Arrival { from, source: None, page: Err(error) },
            },
        };
        let page = match up_to {
            Some(last) => source.next_up_to(last).await,
            None => source.next().await,
        };
        Arrival { from, source: Some(source), page }
    }
    .boxed()
}
