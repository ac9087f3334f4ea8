//! The one place that hands out the deliveries of a subscription.
//!
//! A session is a task that owns the subscription's lease in KV ([`super::ownership`]), its
//! queues ([`super::queues`]) and the pulls that wait. It hands out only what the ledger
//! ([`super::ledger`]) calls ready, and only while its lease lasts.
//!
//! # Takeover
//! A session that begins finds deliveries that an earlier one, perhaps crashed, had handed out:
//! they come again when their leases end, *after* newer messages of the same keys. So each lane
//! begins withheld: whatever is fetched, old and new alike, stays here with its lease extended
//! until every unsettled delivery is known (see `Queues::settle_doubt`); then it goes out in
//! stream order under the key rule. Clients that settle what they had shorten the wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::{Batch, Desk};
use super::ownership::{Ownership, RENEW};
use super::pull::{Pull, Pulled, Refused};
use super::queues::{FETCH, Queues};
use crate::messages::directory::Followed;

/// A session that nobody pulls from ends after this long.
const IDLE: Duration = Duration::from_secs(60);
/// How often something uncertain is looked at while a pull waits.
const LOOK: Duration = Duration::from_millis(500);
/// A fetch ends this long before the lease does.
const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// After a failed renewal.
const RENEW_AGAIN: Duration = Duration::from_millis(500);
/// Pulls that may wait at once.
pub(super) const MAX_PULLS: usize = 256;

/// See the module's documentation.
pub(super) struct Session {
    followed: Followed,
    ownership: Ownership,
    queues: Queues,
    desk: Arc<Desk>,
    inbox: mpsc::Receiver<Pull>,
    pulls: VecDeque<Pull>,
    shutdown: CancellationToken,
    renew_at: Instant,
    extend_at: Instant,
    look_at: Instant,
    used: Instant,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Shutdown,
    Idle,
    /// The subscription was deleted.
    Gone,
    /// Another process took the lease.
    Lost,
}

impl Session {
    pub(super) fn new(
        followed: Followed,
        ownership: Ownership,
        queues: Queues,
        desk: Arc<Desk>,
        inbox: mpsc::Receiver<Pull>,
        shutdown: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            followed,
            ownership,
            queues,
            desk,
            inbox,
            pulls: VecDeque::new(),
            shutdown,
            renew_at: now + RENEW,
            extend_at: now,
            look_at: now,
            used: now,
        }
    }

    /// Serves pulls until there is a reason to end; then returns to the bus what no client has.
    pub(super) async fn run(mut self) {
        let end = loop {
            if let Some(end) = self.keep_up().await {
                break end;
            }
            self.answer();
            let wait = self.ownership.remaining().saturating_sub(LEASE_MARGIN).min(FETCH);
            self.queues.fetch(self.demand(), wait);
            let wake = self.next_wake();
            tokio::select! { biased;
                () = self.shutdown.cancelled() => break End::Shutdown,
                Some(pull) = self.inbox.recv() => self.accept(pull),
                arrival = self.queues.arrival() => {
                    self.queues.take_in(arrival).await;
                    self.look_soon();
                }
                () = self.desk.changed.notified() => self.look_soon(),
                () = self.followed.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        };
        self.close(end).await;
    }

    /// Does what is due: follows the record, renews the lease, looks, binds, extends.
    async fn keep_up(&mut self) -> Option<End> {
        let secret = &self.queues.subscription().secret_hash;
        let current = self.followed.current();
        // Registered anew under the same name it has another secret, which those who wait here
        // have not shown.
        let Some(kept) = current.filter(|kept| kept.subscription.secret_hash == *secret) else {
            return Some(End::Gone);
        };
        self.queues.follow(kept);
        let now = Instant::now();
        if self.renew_at <= now {
            match self.ownership.renew().await {
                Ok(true) => self.renew_at = now + RENEW,
                Ok(false) => return Some(End::Lost),
                Err(error) => {
                    tracing::warn!(name = %self.name(), %error, "the lease is not renewed");
                    self.renew_at = now + RENEW_AGAIN;
                }
            }
        }
        if self.look_at <= now && !self.pulls.is_empty() && self.queues.is_in_doubt() {
            self.queues.look().await;
            self.look_at = now + LOOK;
        }
        self.queues.arrange().await;
        if self.extend_at <= now {
            self.desk.extend_held().await;
            self.extend_at = now + self.queues.subscription().ack_wait / 3;
        }
        let idle = self.used + IDLE <= now && !self.desk.ledger().any_out(now);
        (idle && self.pulls.is_empty()).then_some(End::Idle)
    }

    fn accept(&mut self, pull: Pull) {
        self.used = Instant::now();
        if self.pulls.len() < MAX_PULLS {
            self.pulls.push_back(pull);
            self.look_soon();
        } else {
            // A client that hung up meanwhile needs no answer.
            let _ = pull.reply.send(Err(Refused::Busy));
        }
    }

    /// What just happened may have settled a doubt: no need to wait for the next look.
    fn look_soon(&mut self) {
        if self.queues.may_be_settled() {
            self.look_at = Instant::now();
        }
    }

    /// Hands what is ready to the pulls in their order, and ends those whose time is over.
    fn answer(&mut self) {
        let now = Instant::now();
        self.pulls.retain(|pull| !pull.reply.is_closed());
        if !self.ownership.remaining().is_zero() {
            while let Some(pull) = self.pulls.pop_front() {
                let out = self.desk.ledger().hand_out(pull.max, now);
                if out.is_empty() {
                    self.pulls.push_front(pull);
                    break;
                }
                self.reply(pull, Batch::new(&self.desk, out));
                self.used = now;
            }
        }
        let (over, waiting) =
            std::mem::take(&mut self.pulls).into_iter().partition(|p| p.until <= now);
        self.pulls = waiting;
        let over: VecDeque<Pull> = over;
        for pull in over {
            self.reply(pull, Batch::new(&self.desk, Vec::new()));
            self.used = now;
        }
    }

    /// A reply that nobody waits for drops its batch, which goes back to the ledger.
    fn reply(&self, pull: Pull, batch: Batch) {
        let of = self.queues.subscription().incarnation.clone();
        let pulled = Pulled { batch, phase: self.queues.phase(), of };
        let _ = pull.reply.send(Ok(pulled));
    }

    fn demand(&self) -> usize {
        self.pulls.iter().map(|pull| pull.max).sum()
    }

    fn next_wake(&self) -> Instant {
        let first_over = self.pulls.iter().map(|pull| pull.until).min();
        let look = (!self.pulls.is_empty() && self.queues.is_in_doubt()).then_some(self.look_at);
        let due = [first_over, look, self.queues.try_at(), self.idle_at(), Some(self.extend_at)];
        due.into_iter().flatten().fold(self.renew_at, Instant::min)
    }

    fn idle_at(&self) -> Option<Instant> {
        let at = self.used + IDLE;
        // Later, while a client has something; the renewals wake the session often enough.
        (at > Instant::now()).then_some(at)
    }

    async fn close(mut self, end: End) {
        tracing::debug!(name = %self.name(), ?end, "the session ends");
        for pull in std::mem::take(&mut self.pulls) {
            match end {
                End::Shutdown | End::Idle => self.reply(pull, Batch::new(&self.desk, Vec::new())),
                End::Gone => drop(pull.reply.send(Err(Refused::Gone))),
                End::Lost => drop(pull.reply.send(Err(Refused::Elsewhere))),
            }
        }
        if end != End::Gone {
            self.queues.give_back().await;
        }
        if end != End::Lost {
            self.ownership.release().await;
        }
        // The inbox is dropped last: a pull that came meanwhile finds it closed and, by then, the
        // lease free for the next session.
    }

    fn name(&self) -> &crate::model::SubscriptionName {
        self.queues.subscription().name()
    }
}
