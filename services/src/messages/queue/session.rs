//! The one place that hands out the deliveries of a subscription.
//!
//! ```text
//!   pulls ──► inbox ──► waiting ──► select ──► load ──► journal (compare-and-set) ──► answers
//!                                     ▲
//!   lanes: reads, settled elsewhere, leases that end
//! ```
//!
//! A session is a task that owns the subscription's lease ([`bus::Lease`]), its lanes
//! ([`super::lanes`]) and the pulls that wait. The lease only spares two processes from racing for
//! every batch. What keeps them from handing out at once is the journal: a batch leaves after it
//! is written there, and two owners cannot both write.
//!
//! # Takeover
//! A session that begins reads from the journals what is out, counts those leases anew by its own
//! clock, and blocks their keys; everything else goes at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bus::Lease;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use super::lanes::{Lanes, SIDE_BY_SIDE};
use super::pull::{Batch, Bell, HandedOut, Pull, Pulled, Refused};
use super::round::Round;
use crate::limits::MAX_PULL_MESSAGES;
use crate::messages::directory::Followed;

/// A session that nobody pulls from ends after this long.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// How often a pull that waits has the journals looked at: replicas settle without a word to us.
const LOOK: Duration = Duration::from_millis(500);
/// Reads that a batch is kept waiting for while it can be filled, and for how long at most.
const MAX_FILLS: usize = 8;
const FILL: Duration = Duration::from_millis(20);
/// Pulls that may wait at once.
pub(super) const MAX_PULLS: usize = 256;

/// See the module's documentation.
pub(super) struct Session<'a> {
    followed: Followed,
    lease: Lease,
    lanes: Lanes,
    bell: Arc<Bell>,
    inbox: &'a mut mpsc::Receiver<Pull>,
    pulls: VecDeque<Pull>,
    shutdown: CancellationToken,
    look_at: Instant,
    used: Instant,
    last: Option<Lane>,
    /// Reads since the last answer that were waited for, to fill a batch, and until when.
    filled: usize,
    fill_until: Option<Instant>,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Shutdown,
    Idle,
    /// The subscription was deleted.
    Gone,
    /// Another process took the lease.
    Lost,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        followed: Followed,
        lease: Lease,
        lanes: Lanes,
        bell: Arc<Bell>,
        inbox: &'a mut mpsc::Receiver<Pull>,
        pulls: VecDeque<Pull>,
        shutdown: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            followed,
            lease,
            lanes,
            bell,
            inbox,
            pulls,
            shutdown,
            look_at: now + LOOK,
            used: now,
            last: None,
            filled: 0,
            fill_until: None,
        }
    }

    /// Serves pulls until there is a reason to end. Pulls that wait when the lease is lost are
    /// returned, for who has it now.
    pub(super) async fn run(mut self) -> (End, VecDeque<Pull>) {
        let end = loop {
            if let Some(end) = self.keep_up().await {
                break end;
            }
            let (demand, max_per_key) = self.demand();
            if demand > 0 {
                self.lanes.read(demand, max_per_key);
            }
            if !self.fills(demand, max_per_key) {
                self.answer().await;
            }
            let wake = self.next_wake();
            tokio::select! { biased;
                () = self.shutdown.cancelled() => break End::Shutdown,
                () = self.lease.lost() => break End::Lost,
                Some(pull) = self.inbox.recv() => self.accept(pull),
                arrival = self.lanes.arrival() => self.lanes.take_in(arrival).await,
                () = self.bell.rung.notified() => {}
                () = self.followed.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            self.take_waiting();
        };
        self.close(end).await
    }

    /// Does what is due: follows the record, opens lanes, looks at the journals.
    async fn keep_up(&mut self) -> Option<End> {
        let secret = &self.lanes.subscription().secret_hash;
        let current = self.followed.current();
        // Registered anew under the same name it has another secret, which those who wait here
        // have not shown.
        let Some(kept) = current.filter(|kept| kept.subscription.secret_hash == *secret) else {
            return Some(End::Gone);
        };
        self.lanes.follow(kept);
        let now = Instant::now();
        let look = self.look_at <= now && !self.pulls.is_empty();
        if look {
            self.look_at = now + LOOK;
        }
        self.lanes.keep_up(look).await;
        self.unsend().await;
        self.lanes.arrange().await;
        let idle = self.used + IDLE <= now && !self.lanes.any_out(now);
        (idle && self.pulls.is_empty()).then_some(End::Idle)
    }

    /// Writes down that deliveries never reached their client.
    async fn unsend(&mut self) {
        let mut lanes: BTreeMap<Lane, Vec<(u64, u32)>> = BTreeMap::new();
        for (lane, sequence, attempt) in self.bell.take_unsent() {
            lanes.entry(lane).or_default().push((sequence, attempt));
        }
        for (lane, sent) in lanes {
            let Some(open) = self.lanes.get_mut(&lane) else { continue };
            match open.journal.write(|journal| journal.unsend(&sent)).await {
                Ok(written) => {
                    if !open.table.sync(written.journal, Instant::now()) {
                        self.lanes.reopen(&lane);
                    }
                }
                // They come again when their leases end.
                Err(error) => tracing::debug!(%lane, %error, "a batch was not taken back"),
            }
        }
    }

    fn accept(&mut self, pull: Pull) {
        self.used = Instant::now();
        if self.pulls.len() >= MAX_PULLS {
            // A client that hung up meanwhile needs no answer.
            let _ = pull.reply.send(Err(Refused::Busy));
            return;
        }
        self.pulls.push_back(pull);
        // What it asks for may have been settled at another replica.
        if self.lanes.may_be_settled_elsewhere() && self.ready() == 0 {
            self.look_at = self.used;
        }
    }

    /// True while a batch is worth waiting for: something is ready, and there is more at once than
    /// is read yet. It ends after a few reads, however much of what comes has to wait for others of
    /// its key, and soon: what is there does not wait for what may come.
    fn fills(&mut self, demand: usize, max_per_key: usize) -> bool {
        let now = Instant::now();
        let until = self.fill_until.unwrap_or(now + FILL);
        let fills = self.filled < MAX_FILLS
            && now < until
            && self.lanes.has_more()
            && (1..demand).contains(&self.lanes.ready_events(max_per_key, demand));
        self.filled = if fills { self.filled + 1 } else { 0 };
        self.fill_until = fills.then_some(until);
        fills
    }

    /// Pulls that came together are answered together, with one write a lane.
    fn take_waiting(&mut self) {
        while let Ok(pull) = self.inbox.try_recv() {
            self.accept(pull);
        }
    }

    fn ready(&self) -> usize {
        let lanes = self.lanes.lanes();
        lanes.iter().filter_map(|lane| self.lanes.get(lane)).map(|l| l.table.ready_keys()).sum()
    }

    /// Hands what is ready to the pulls in their order, and ends those whose time is over.
    async fn answer(&mut self) {
        self.pulls.retain(|pull| !pull.reply.is_closed());
        while !self.pulls.is_empty() && self.ready() > 0 {
            let mut round = Round::select(&mut self.lanes, &self.pulls, self.last.as_ref());
            if round.is_empty() {
                break;
            }
            let served = round.run(&mut self.lanes).await;
            self.last = round.last();
            if !self.reply_all(served) && !round.gave_up() {
                break;
            }
        }
        let now = Instant::now();
        let (over, waiting): (VecDeque<Pull>, _) =
            std::mem::take(&mut self.pulls).into_iter().partition(|pull| pull.until <= now);
        self.pulls = waiting;
        for pull in over {
            self.reply(pull, Vec::new());
            self.used = now;
        }
    }

    /// Answers the first pulls with what each was served; those that got nothing wait on. Returns
    /// whether anything went.
    fn reply_all(&mut self, served: Vec<Vec<HandedOut>>) -> bool {
        let mut waiting = VecDeque::new();
        let mut any = false;
        for out in served {
            let Some(pull) = self.pulls.pop_front() else { break };
            if out.is_empty() {
                waiting.push_back(pull);
            } else {
                any = true;
                self.used = Instant::now();
                self.reply(pull, out);
            }
        }
        waiting.append(&mut self.pulls);
        self.pulls = waiting;
        any
    }

    /// A reply that nobody waits for drops its batch, which comes back by the bell.
    fn reply(&self, pull: Pull, out: Vec<HandedOut>) {
        let of = self.lanes.subscription().incarnation.clone();
        let batch = Batch::new(&self.bell, out);
        let _ = pull.reply.send(Ok(Pulled { batch, phase: self.lanes.phase(), of }));
    }

    /// How much is asked for at once, and how much of a key.
    fn demand(&self) -> (usize, usize) {
        let demand: usize = self.pulls.iter().map(|pull| pull.want.max).sum();
        let per_key = self.pulls.iter().map(|pull| pull.want.max_per_key).max();
        (demand.min(2 * MAX_PULL_MESSAGES), per_key.unwrap_or(1))
    }

    fn next_wake(&self) -> Instant {
        let first_over = self.pulls.iter().map(|pull| pull.until).min();
        let looks = !self.pulls.is_empty() && self.lanes.may_be_settled_elsewhere();
        let look = looks.then_some(self.look_at);
        let now = Instant::now();
        // Later, while a client has something: its lease's end wakes the session.
        let idle_at = Some(self.used + IDLE).filter(|at| *at > now);
        let due = [first_over, look, self.lanes.next_due(), idle_at, self.fill_until];
        due.into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    async fn close(mut self, end: End) -> (End, VecDeque<Pull>) {
        tracing::debug!(name = %self.lanes.subscription().name(), ?end, "the session ends");
        let mut left = VecDeque::new();
        for pull in std::mem::take(&mut self.pulls) {
            match end {
                End::Shutdown | End::Idle => self.reply(pull, Vec::new()),
                End::Gone => drop(pull.reply.send(Err(Refused::Gone))),
                End::Lost => left.push_back(pull),
            }
        }
        if end != End::Lost {
            self.unsend().await;
            self.lease.release().await;
        }
        (end, left)
    }
}

/// Runs `work` on many lanes side by side.
pub(super) async fn side_by_side<T, F: Future<Output = T>>(
    work: impl IntoIterator<Item = F>,
) -> Vec<T> {
    stream::iter(work).buffer_unordered(SIDE_BY_SIDE).collect().await
}
