//! Acks, nacks and extensions, at any replica.
//!
//! An id names its delivery completely, so settling needs no session. Whether the lease is still
//! the client's is judged by the session here, if there is one and it knows the delivery; else by
//! the deadline in the id itself. A settlement is answered `done` only once the bus has confirmed
//! it, an ack moreover only once it is in our own record ([`super::settlements`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::{Consumer, ErrorKind, Settlement};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;

use super::ack_id::AckId;
use super::desk::WINDOW;
use super::lane::Lane;
use super::ledger;
use super::queues;
use super::remembered::{Remembered, Settled};
use super::sessions::Sessions;
use super::settlements::Settlements;
use crate::store::{Kept, Store};

/// What a client asks for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::messages) enum Wish {
    /// Done.
    Ack,
    /// Deliver it again, not before this long from now.
    Nack(Duration),
    /// Still at work: start the lease anew.
    Extend,
}

/// What became of it. Keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::messages) enum Status {
    /// Recorded by the bus, now or before.
    Done,
    /// The lease was over: the message was or will be delivered again.
    Stale,
    /// Not an id that this subscription gave out.
    Unknown,
    /// The bus did not answer: repeat it.
    Failed,
}

/// The answer to one wish.
#[derive(Debug, Serialize)]
pub(in crate::messages) struct Outcome {
    pub(in crate::messages) id: String,
    pub(in crate::messages) status: Status,
    /// After an extension the id to use from now on: it carries the new deadline, which
    /// the other replicas go by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::messages) ack: Option<String>,
}

/// Settles deliveries of one subscription.
pub(super) struct Settling<'a> {
    pub(super) store: &'a Store,
    pub(super) sessions: &'a Sessions,
    pub(super) remembered: &'a Remembered,
    pub(super) settlements: &'a Settlements,
    pub(super) kept: &'a Kept,
}

impl Settling<'_> {
    /// One outcome for each wish, in their order.
    pub(super) async fn all(&self, wishes: Vec<(String, Wish)>) -> Vec<Outcome> {
        let of = &self.kept.subscription.incarnation;
        let signer = &self.store.signer;
        let read: Vec<_> =
            wishes.into_iter().map(|(id, wish)| (AckId::open(signer, of, &id), id, wish)).collect();
        let queues = self.bind(read.iter().filter_map(|(opened, ..)| opened.as_ref())).await;
        let judge = |(opened, id, wish): (Option<AckId>, String, Wish)| {
            let verdict = self.judge(opened, wish, &queues);
            Asked { id, wish, verdict }
        };
        let asked: Vec<Asked> = read.into_iter().map(judge).collect();
        let unrecorded = self.record(&asked).await;
        let settle = |Asked { id, wish, verdict }: Asked| {
            let unrecorded = &unrecorded;
            async move {
                let (status, ack) = match verdict {
                    Verdict::Settled(status) => (status, None),
                    Verdict::Leased(of, _)
                        if wish == Wish::Ack && unrecorded.contains(&of.place.lane) =>
                    {
                        (Status::Failed, None)
                    }
                    Verdict::Leased(of, queue) => self.one(&of, wish, &queue).await,
                };
                Outcome { id, status, ack }
            }
        };
        stream::iter(asked).map(settle).buffered(WINDOW).collect().await
    }

    /// Records the acks, all of a lane at once. Returns the lanes where that failed.
    async fn record(&self, asked: &[Asked]) -> BTreeSet<Lane> {
        let mut acks: BTreeMap<&Lane, (&Consumer, BTreeSet<u64>)> = BTreeMap::new();
        for Asked { wish, verdict, .. } in asked {
            if let (Wish::Ack, Verdict::Leased(id, queue)) = (wish, verdict) {
                let (_, sequences) =
                    acks.entry(&id.place.lane).or_insert_with(|| (queue, BTreeSet::new()));
                sequences.insert(id.place.sequence);
            }
        }
        let of = &self.kept.subscription.incarnation;
        let mut failed = BTreeSet::new();
        for (lane, (queue, sequences)) in acks {
            if let Err(error) = self.settlements.add(of, lane, queue, &sequences).await {
                tracing::debug!(%of, %lane, %error, "acks not recorded");
                failed.insert(lane.clone());
            }
        }
        failed
    }

    /// The queues that the ids speak of, each once.
    async fn bind(&self, ids: impl Iterator<Item = &AckId>) -> BTreeMap<Lane, Bound> {
        let desk = self.sessions.desk(self.kept.subscription.name());
        let mut queues = BTreeMap::new();
        for id in ids.filter(|id| self.is_current(id)) {
            let lane = &id.place.lane;
            if queues.contains_key(lane) {
                continue;
            }
            let bound = match desk.as_ref().and_then(|desk| desk.queue(lane)) {
                Some(queue) => Bound::To(queue),
                None => match queues::bind(self.store, self.kept, lane).await {
                    Ok(queue) => Bound::To(queue),
                    Err(error) if error.is_not_found() => Bound::Gone,
                    Err(_) => Bound::Away,
                },
            };
            queues.insert(lane.clone(), bound);
        }
        queues
    }

    fn is_current(&self, id: &AckId) -> bool {
        id.place.lane.generation == self.kept.subscription.incarnation.generation
    }

    /// What can be said without asking the bus.
    fn judge(&self, opened: Option<AckId>, wish: Wish, queues: &BTreeMap<Lane, Bound>) -> Verdict {
        let Some(id) = opened else { return Verdict::Settled(Status::Unknown) };
        if let Some(before) = self.remembered.get(&self.kept.subscription.incarnation, &id) {
            let repeated = matches!(
                (before, wish),
                (Settled::Ack, Wish::Ack) | (Settled::Nack, Wish::Nack(_))
            );
            return Verdict::Settled(if repeated { Status::Done } else { Status::Stale });
        }
        match queues.get(&id.place.lane) {
            Some(Bound::To(queue)) if self.is_leased(&id) => {
                Verdict::Leased(Box::new(id), queue.clone())
            }
            Some(Bound::Away) => Verdict::Settled(Status::Failed),
            _ => Verdict::Settled(Status::Stale),
        }
    }

    async fn one(&self, id: &AckId, wish: Wish, queue: &Consumer) -> (Status, Option<String>) {
        let of = &self.kept.subscription.incarnation;
        let (asked, how) = (Instant::now(), settlement(wish));
        let asked_ms = self.store.platform.clock.now_ms();
        match queue.settle(&id.token, how).await {
            Ok(()) => {
                (Status::Done, self.done(id, wish, asked + queue.ack_wait(), asked_ms, queue))
            }
            // The lease ended just now, but the ack is recorded: nobody gets the message again.
            Err(error) if is_over(error.kind()) && wish == Wish::Ack => {
                (Status::Done, self.done(id, wish, asked, asked_ms, queue))
            }
            Err(error) if is_over(error.kind()) => (Status::Stale, None),
            Err(error) => {
                tracing::debug!(%of, %error, "not settled");
                (Status::Failed, None)
            }
        }
    }

    /// True while the delivery is still its client's.
    fn is_leased(&self, id: &AckId) -> bool {
        let desk = self.sessions.desk(self.kept.subscription.name());
        let verdict = desk.map(|desk| desk.ledger().judge(&id.place, id.attempt));
        let by_its_own = self.store.platform.clock.now_ms() < id.deadline_ms;
        match verdict {
            // The id may come from an extension at another replica.
            Some(ledger::Verdict::Out(expires)) => by_its_own || Instant::now() < expires,
            Some(ledger::Verdict::Superseded) => false,
            Some(ledger::Verdict::Unknown) | None => by_its_own,
        }
    }

    /// Tells memory and session; returns the new id after an extension.
    fn done(
        &self,
        id: &AckId,
        wish: Wish,
        expires: Instant,
        asked_ms: u64,
        queue: &Consumer,
    ) -> Option<String> {
        let of = &self.kept.subscription.incarnation;
        let desk = self.sessions.desk(&of.name);
        let mut renewed = None;
        match wish {
            Wish::Ack => self.remembered.add(of, id, Settled::Ack),
            Wish::Nack(_) => self.remembered.add(of, id, Settled::Nack),
            Wish::Extend => {
                let wait_ms = u64::try_from(queue.ack_wait().as_millis()).unwrap_or(u64::MAX);
                let deadline_ms = asked_ms.saturating_add(wait_ms);
                let id = AckId { deadline_ms, ..id.clone() };
                renewed = Some(id.seal(&self.store.signer, of));
            }
        }
        if let Some(desk) = desk {
            let mut ledger = desk.ledger();
            match wish {
                Wish::Ack => ledger.settled(&id.place),
                Wish::Nack(_) => ledger.away(&id.place, id.attempt),
                Wish::Extend => ledger.extended(&id.place, id.attempt, expires),
            }
            drop(ledger);
            desk.changed.notify_one();
        }
        renewed
    }
}

/// A wish, judged.
struct Asked {
    id: String,
    wish: Wish,
    verdict: Verdict,
}

enum Verdict {
    /// The answer is known.
    Settled(Status),
    /// The client's to settle, on this queue.
    Leased(Box<AckId>, Consumer),
}

/// A queue to settle on.
enum Bound {
    To(Consumer),
    /// It does not exist: neither does any lease on it.
    Gone,
    /// The bus did not answer.
    Away,
}

fn settlement(wish: Wish) -> Settlement {
    match wish {
        Wish::Ack => Settlement::Ack,
        Wish::Nack(delay) => Settlement::Retry(delay),
        Wish::Extend => Settlement::Extend,
    }
}

/// The backend's word that this delivery cannot be settled any more.
fn is_over(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Stale | ErrorKind::NotFound | ErrorKind::Invalid)
}
