//! Queue mode: the server holds the position; clients pull, ack, nack and extend.
//!
//! Read in this order: what is kept (`store::journal`), what a session knows of a lane
//! ([`table`]), how a batch is chosen and written down ([`round`]), who does it ([`session`]), and
//! how any replica serves ([`sessions`], [`forward`], [`settling`]).

mod ack_id;
mod dead_letters;
mod flow;
mod forward;
mod journals;
mod lane;
mod lanes;
mod pull;
mod round;
mod selection;
mod session;
mod sessions;
mod settling;
mod source;
mod stream;
mod table;

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use ack_id::AckId;
pub(super) use dead_letters::{Letter, Moved};
pub(super) use flow::{Flow, Item, Room};
use pull::{Batch, HandedOut};
pub(super) use pull::{Phase, Refused};
pub(super) use selection::Select;
use sessions::Sessions;
use settling::Settling;
pub(super) use settling::{Outcome, Status, Wish};
pub(super) use stream::QueueStream;

use super::directory::Followed;
use super::stream::Feeds;
use super::tasks::Spawner;
use crate::metrics::{Metrics, Mode};
use crate::model::{Incarnation, Subscription};
use crate::store::{Signer, Store};

/// Queue mode of one process.
pub(super) struct QueueMode {
    store: Store,
    sessions: Sessions,
}

/// The answer to a pull.
pub(super) struct Pulled {
    pub(super) messages: Vec<Delivery>,
    pub(super) phase: Phase,
    pub(super) generation: u32,
}

/// A delivery as the client sees it.
pub(super) struct Delivery {
    /// What it is settled by.
    pub(super) ack: String,
    /// 1 for the first delivery.
    pub(super) attempt: u32,
    pub(super) phase: &'static str,
    /// In the realm's log.
    pub(super) sequence: u64,
    /// JSON.
    pub(super) event: Bytes,
}

/// Deliveries that are given to a client one by one. What is not taken out goes back when this is
/// dropped, and counts as never handed out.
pub(super) struct Deliveries {
    batch: Batch,
    of: Incarnation,
    signer: Signer,
    metrics: Metrics,
}

/// What [`QueueMode::hand_over`] gives.
pub(super) struct Handed {
    pub(super) deliveries: Deliveries,
    pub(super) phase: Phase,
    pub(super) generation: u32,
}

impl Delivery {
    /// Writes the members of its JSON object, without the braces: it is JSON already, and passes
    /// unchanged. Keep stable.
    pub(super) fn write(&self, out: &mut BytesMut) {
        let Self { ack, attempt, phase, sequence, event } = self;
        // Base64url, a word of ours and numbers: nothing to escape.
        let head = format!(
            "\"ack\":\"{ack}\",\"attempt\":{attempt},\"phase\":\"{phase}\",\
             \"sequence\":{sequence},\"event\":"
        );
        out.put_slice(head.as_bytes());
        out.put_slice(event);
    }
}

impl Deliveries {
    /// The next one, for good: the client has it now.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        let out = self.batch.next()?;
        self.metrics.delivered(Mode::queue, 1, usize::from(out.attempt > 1));
        Some(delivery(&self.signer, &self.of, out))
    }

    /// True when all were taken out.
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }
}

impl QueueMode {
    pub(super) fn new(
        feeds: Feeds,
        tasks: Spawner,
        shutdown: CancellationToken,
    ) -> Result<Self, bus::Error> {
        let store = feeds.store.clone();
        let sessions = Sessions::new(feeds, tasks, shutdown)?;
        Ok(Self { store, sessions })
    }

    /// What `want` allows, waiting up to `wait` for the first. Dropping the future returns what
    /// was meant for it to the session.
    pub(super) async fn pull(
        &self,
        followed: &Followed,
        want: Select,
        wait: Duration,
    ) -> Result<Pulled, Refused> {
        let Handed { mut deliveries, phase, generation } =
            self.hand_over(followed, want, wait).await?;
        let messages = std::iter::from_fn(|| deliveries.next()).collect();
        Ok(Pulled { messages, phase, generation })
    }

    /// The same for a client that takes them one by one.
    pub(super) async fn hand_over(
        &self,
        followed: &Followed,
        want: Select,
        wait: Duration,
    ) -> Result<Handed, Refused> {
        let until = Instant::now() + wait;
        let pull::Pulled { batch, phase, of } = self.sessions.pull(followed, want, until).await?;
        let generation = of.generation;
        let (signer, metrics) = (self.store.signer.clone(), self.store.platform.metrics.clone());
        let deliveries = Deliveries { batch, of, signer, metrics };
        Ok(Handed { deliveries, phase, generation })
    }

    /// One outcome for each wish, in their order.
    pub(super) async fn settle(
        &self,
        subscription: &Subscription,
        wishes: Vec<(String, Wish)>,
    ) -> Vec<Outcome> {
        let Self { store, sessions } = self;
        let (journals, dead_letters) = (&sessions.journals, &sessions.dead_letters);
        let settling = Settling { store, sessions, journals, dead_letters, subscription };
        let outcomes = settling.all(wishes).await;
        let metrics = &store.platform.metrics;
        outcomes.iter().for_each(|outcome| metrics.settled(outcome.status.name()));
        outcomes
    }

    /// Up to `max` dead letters after a page token, in the order of their events, and the token of
    /// the next page; `None` for a token that is none.
    pub(super) async fn dead_letters(
        &self,
        of: &Incarnation,
        after: Option<&str>,
        max: usize,
    ) -> Result<Option<(Vec<Letter>, Option<String>)>, bus::Error> {
        let after = match after.map(AckId::read_plain) {
            Some(None) => return Ok(None),
            Some(after) => after,
            None => None,
        };
        let (letters, has_more) = self.sessions.dead_letters.list(of, after.as_ref(), max).await?;
        let next = letters.last().filter(|_| has_more).map(|letter| letter.id.clone());
        Ok(Some((letters, next)))
    }

    /// Has dead letters delivered again; all of them where none are named.
    pub(super) async fn redrive(
        &self,
        subscription: &Subscription,
        ids: Option<Vec<String>>,
    ) -> Result<Vec<(String, Moved)>, bus::Error> {
        let sessions = &self.sessions;
        let moved = sessions.dead_letters.redrive(subscription, &sessions.journals, ids).await?;
        sessions.ring(subscription.name());
        Ok(moved)
    }

    /// Removes dead letters for good; all of them where none are named.
    pub(super) async fn discard(
        &self,
        of: &Incarnation,
        ids: Option<Vec<String>>,
    ) -> Result<Vec<(String, Moved)>, bus::Error> {
        self.sessions.dead_letters.discard(of, ids).await
    }
}

fn delivery(signer: &Signer, of: &Incarnation, out: HandedOut) -> Delivery {
    let HandedOut { place, attempt, body } = out;
    let phase = place.lane.phase();
    let ack = AckId { place, attempt }.seal(signer, of);
    Delivery { ack, attempt, phase, sequence: body.sequence, event: body.event }
}
