//! Acks, nacks and extensions, at any replica.
//!
//! An id names its delivery completely, and the journal says what that delivery stands at, so
//! settling needs no session and no clock. What one request says of a lane is one write; it is
//! answered `done` once that is there for every replica.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Error, Subject};
use serde::Serialize;

use super::ack_id::AckId;
use super::dead_letters::DeadLetters;
use super::journals::{Journals, LaneJournal};
use super::lane::Lane;
use super::session::side_by_side;
use super::sessions::Sessions;
use super::source::Bodies;
use crate::model::Subscription;
use crate::store::Store;
use crate::store::journal::{self, Answer, Journal};

/// What a client asks for a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::messages) enum Wish {
    /// Done.
    Ack,
    /// Deliver it again, not before this long from now.
    Nack {
        /// The delay.
        delay: Duration,
        /// Why, for the dead letter that it may become.
        reason: Option<String>,
    },
    /// Never deliver it again, for this reason.
    Reject {
        /// Why.
        reason: Option<String>,
    },
    /// Still at work: start the lease anew.
    Extend,
}

/// What became of it. Keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::messages) enum Status {
    /// Recorded, now or before.
    Done,
    /// The delivery is over: the event was or will be delivered again, or is settled.
    Stale,
    /// An event of the same key that was delivered before it is not settled yet: nothing was
    /// recorded. Settle that first, or both in one request.
    Early,
    /// Not an id that this subscription gave out.
    Unknown,
    /// The bus did not answer: repeat it.
    Failed,
}

impl Status {
    /// As answers say it.
    pub(in crate::messages) fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Stale => "stale",
            Self::Early => "early",
            Self::Unknown => "unknown",
            Self::Failed => "failed",
        }
    }
}

/// The answer to one wish.
#[derive(Debug, Serialize)]
pub(in crate::messages) struct Outcome {
    pub(in crate::messages) id: String,
    pub(in crate::messages) status: Status,
}

/// Settles deliveries of one subscription.
pub(super) struct Settling<'a> {
    pub(super) store: &'a Store,
    pub(super) sessions: &'a Sessions,
    pub(super) journals: &'a Journals,
    pub(super) dead_letters: &'a DeadLetters,
    pub(super) subscription: &'a Subscription,
}

/// What is said of one delivery, and whose answer it is.
struct Said {
    at: usize,
    id: AckId,
    wish: Wish,
}

impl Settling<'_> {
    /// One outcome for each wish, in their order.
    pub(super) async fn all(&self, wishes: Vec<(String, Wish)>) -> Vec<Outcome> {
        let of = &self.subscription.incarnation;
        let mut outcomes = Vec::with_capacity(wishes.len());
        let mut lanes: BTreeMap<Lane, Vec<Said>> = BTreeMap::new();
        for (at, (id, wish)) in wishes.into_iter().enumerate() {
            let opened = AckId::open(&self.store.signer, of, &id);
            let status = match opened {
                None => Status::Unknown,
                Some(opened) if opened.place.lane.generation != of.generation => Status::Stale,
                Some(id) => {
                    let lane = id.place.lane.clone();
                    lanes.entry(lane).or_default().push(Said { at, id, wish });
                    Status::Failed
                }
            };
            outcomes.push(Outcome { id, status });
        }
        let settled = side_by_side(lanes.into_iter().map(|(lane, said)| self.lane(lane, said)));
        for (at, status) in settled.await.into_iter().flatten() {
            if let Some(outcome) = outcomes.get_mut(at) {
                outcome.status = status;
            }
        }
        self.sessions.ring(&of.name);
        outcomes
    }

    async fn lane(&self, lane: Lane, said: Vec<Said>) -> Vec<(usize, Status)> {
        let journal = self.journals.of(self.subscription, &lane);
        match self.settle(&lane, &journal, &said).await {
            Ok(answers) => {
                said.iter().zip(answers).map(|(said, answer)| (said.at, answer.into())).collect()
            }
            Err(error) => {
                let of = &self.subscription.incarnation;
                tracing::debug!(%of, %lane, %error, "not settled");
                said.iter().map(|said| (said.at, Status::Failed)).collect()
            }
        }
    }

    async fn settle(
        &self,
        lane: &Lane,
        journal: &LaneJournal,
        said: &[Said],
    ) -> Result<Vec<Answer>, Error> {
        let mut wishes: Vec<_> = said.iter().map(Said::plain).collect();
        let letters = self.keep_letters(lane, journal, said, &mut wishes).await?;
        let answers = journal.write(|journal| journal.settle(&wishes)).await?.value;
        for (at, letter) in letters {
            // Whatever it was, it was not given up now, and may be at work elsewhere.
            if answers.get(at) != Some(&Answer::Done) {
                self.dead_letters.retract(&letter).await?;
            }
        }
        Ok(answers)
    }

    /// Keeps a letter of each event that is given up by this request, before the journal lets it
    /// go: those that are rejected, and those whose last attempt is given back.
    async fn keep_letters(
        &self,
        lane: &Lane,
        journal: &LaneJournal,
        said: &[Said],
        wishes: &mut [(u64, u32, journal::Wish)],
    ) -> Result<Vec<(usize, Subject)>, Error> {
        let may_give_up = |said: &Said| match said.wish {
            Wish::Reject { .. } => true,
            Wish::Nack { .. } => self.subscription.max_attempts.is_some(),
            Wish::Ack | Wish::Extend => false,
        };
        if !said.iter().any(may_give_up) {
            return Ok(Vec::new());
        }
        let stands = journal.read().await?;
        // As if all that this request acks were acked: what it gives up may stand behind it.
        let mut after = Journal::clone(&stands);
        let acks: Vec<_> =
            wishes.iter().copied().filter(|(_, _, wish)| *wish == journal::Wish::Ack).collect();
        after.settle(&acks);
        let (mut letters, mut bodies) = (Vec::new(), None);
        for (at, said) in said.iter().enumerate().filter(|(_, said)| may_give_up(said)) {
            let (sequence, attempt) = (said.id.place.sequence, said.id.attempt);
            let Some(failures) = after.failures_of_first(sequence, attempt) else { continue };
            let Some(reason) = self.gives_up(&said.wish, failures) else { continue };
            if let Some(wish) = wishes.get_mut(at) {
                if matches!(wish.2, journal::Wish::Nack { .. }) {
                    wish.2 = journal::Wish::Abandon;
                }
                after.settle(&[*wish]);
            }
            if !self.subscription.keeps_dead_letters() {
                continue;
            }
            if bodies.is_none() {
                bodies = Some(Bodies::open(self.store, lane).await?);
            }
            let Some(bodies) = &bodies else { continue };
            let of = &self.subscription.incarnation;
            let kept = self.dead_letters.keep(of, &said.id, bodies, &reason).await?;
            letters.extend(kept.map(|letter| (at, letter)));
        }
        Ok(letters)
    }

    /// The reason for which a wish gives its event up, if it does.
    fn gives_up(&self, wish: &Wish, failures: u32) -> Option<String> {
        match wish {
            Wish::Reject { reason } => {
                Some(reason.clone().unwrap_or_else(|| String::from("rejected")))
            }
            Wish::Nack { reason, .. } => {
                let spent = self.subscription.max_attempts.is_some_and(|max| failures + 1 >= max);
                let last = reason.as_deref().unwrap_or("given back without a reason");
                spent.then(|| {
                    format!("attempts-exhausted: {} failed, the last: {last}", failures + 1)
                })
            }
            Wish::Ack | Wish::Extend => None,
        }
    }
}

impl Said {
    fn plain(&self) -> (u64, u32, journal::Wish) {
        let wish = match &self.wish {
            Wish::Ack => journal::Wish::Ack,
            Wish::Nack { delay, .. } => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                journal::Wish::Nack { delay_ms }
            }
            Wish::Reject { .. } => journal::Wish::Reject,
            Wish::Extend => journal::Wish::Extend,
        };
        (self.id.place.sequence, self.id.attempt, wish)
    }
}

impl From<Answer> for Status {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Done => Self::Done,
            Answer::Stale => Self::Stale,
            Answer::Early => Self::Early,
        }
    }
}
