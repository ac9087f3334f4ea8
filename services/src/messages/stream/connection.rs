//! One client's event stream: prefill, then live, with control events in between.
//!
//! The body is pulled: a chunk is made when the client has taken the one before, so a slow client
//! holds one page, which is bounded in bytes, and no queue. A body that nobody pulls cannot look at
//! the clock: a client that has stopped reading is let go by its connection (see `http::patience`). Reads from the bus are never cut off by a timer, because a read
//! that is dropped may have taken messages with it; only the end of the connection drops one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bus::{Error, Reader, Start};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Frames;
use super::feed::{Feeds, PAGE};
use super::frame::{self, Frame};
use super::live::{Live, Step};
use crate::limits::STREAM_PAGE_BYTES;
use crate::messages::directory::Followed;
use crate::messages::position::{Phase, Position};
use crate::messages::progress::Progress;
use crate::messages::token;
use crate::metrics::{Counted, Mode};
use crate::model::{Manifest, Mark, Prefill, Row, Subscription, names};
use crate::store::prefill::rows_gone;
use crate::store::{Kept, Store};
use crate::work::{Report, rows_are_missed, send_report};

/// A comment is sent when nothing else was for this long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the progress of a prefill is looked at.
const PROGRESS: Duration = Duration::from_secs(1);
/// After a read that failed or gave nothing where something must be.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a read of prefill rows waits; they are there.
const WAIT: Duration = Duration::from_secs(1);

/// What a connection is made of.
pub(in crate::messages) struct Opening {
    pub(in crate::messages) followed: Followed,
    /// Where the client resumes; from the start if it does not.
    pub(in crate::messages) position: Option<Position>,
    /// Why a token that it brought is no good any more.
    pub(in crate::messages) expired: Option<String>,
    pub(in crate::messages) retry_ms: u64,
    pub(in crate::messages) max_age: Duration,
    pub(in crate::messages) permit: Arc<OwnedSemaphorePermit>,
}

/// See the module's documentation.
pub(in crate::messages) struct Connection {
    pub(super) store: Store,
    feeds: Feeds,
    followed: Followed,
    /// The record that `position` and `stage` go by.
    pub(super) kept: Arc<Kept>,
    pub(super) position: Position,
    pub(super) stage: Stage,
    outbox: VecDeque<Frame>,
    sent: Instant,
    ends: Instant,
    shutdown: CancellationToken,
    _permit: Arc<OwnedSemaphorePermit>,
    _open: Counted,
}

pub(super) enum Stage {
    /// Not served yet: the prefill is not complete.
    Closed { shown: Option<Progress>, told: Option<String> },
    /// Serving rows.
    Prefill(Option<Reader>),
    /// Serving live events; `behind` until the client has been told that it is up to date.
    Live { live: Box<Live>, behind: bool },
    /// Waiting for another generation, which is requested by the report that is still to be sent.
    Lost(Option<Box<Report>>),
    /// Nothing more will come.
    Ended,
}

/// What is to be done after a look.
pub(super) enum Next {
    /// Look again: there may be more.
    More,
    /// Wait for this long at most, or until something changes.
    Wait(Duration),
}

impl Connection {
    pub(in crate::messages) fn new(
        feeds: Feeds,
        opening: Opening,
        shutdown: CancellationToken,
    ) -> Self {
        let Opening { followed, position, expired, retry_ms, max_age, permit } = opening;
        let kept = followed.kept().clone();
        let position = position.unwrap_or_else(|| Position::start(&kept.subscription));
        let (now, open) = (Instant::now(), feeds.store.platform.metrics.stream());
        let mut connection = Self {
            store: feeds.store.clone(),
            feeds,
            followed,
            kept,
            position,
            stage: Stage::Closed { shown: None, told: None },
            outbox: VecDeque::new(),
            sent: now,
            ends: now + max_age,
            shutdown,
            _permit: permit,
            _open: open,
        };
        connection.outbox.push_back(Frame::opening(retry_ms, connection.token()));
        if let Some(reason) = expired {
            connection.control("expired", &json!({ "reason": reason }));
        }
        connection
    }

    /// The next part of the body; `None` at its end.
    pub(in crate::messages) async fn next(&mut self) -> Option<Bytes> {
        self.fill().await?;
        self.sent = Instant::now();
        frame::chunk(&mut self.outbox)
    }

    /// Waits until a frame is ready; `None` when no more will come.
    async fn fill(&mut self) -> Option<()> {
        loop {
            if self.shutdown.is_cancelled() || self.ends <= Instant::now() {
                return None;
            }
            self.follow();
            if self.outbox.is_empty() && self.sent + HEARTBEAT <= Instant::now() {
                self.outbox.push_back(Frame::heartbeat());
            }
            if !self.outbox.is_empty() {
                return Some(());
            }
            if matches!(self.stage, Stage::Ended) {
                return None;
            }
            let (shutdown, ends) = (self.shutdown.clone(), self.ends);
            let step = tokio::select! { biased;
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(ends) => return None,
                step = self.step() => step,
            };
            match step {
                Ok(Next::More) => {}
                Ok(Next::Wait(longest)) if self.outbox.is_empty() => self.wait(longest).await,
                Ok(Next::Wait(_)) => {}
                Err(error) => {
                    tracing::debug!(name = %self.kept.subscription.name(), %error, "reads again");
                    self.wait(AGAIN).await;
                }
            }
        }
    }

    async fn wait(&mut self, longest: Duration) {
        let heartbeat = self.sent + HEARTBEAT;
        let until = heartbeat.min(self.ends).min(Instant::now() + longest);
        let Self { shutdown, followed, stage, .. } = self;
        tokio::select! { biased;
            () = shutdown.cancelled() => {}
            () = followed.changed() => {}
            () = stage.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    /// Takes in what became of the record.
    fn follow(&mut self) {
        // Registered anew under the same name it has another secret, which this client has not
        // shown.
        let secret = &self.kept.subscription.secret_hash;
        let current = self.followed.current();
        let Some(kept) = current.filter(|kept| kept.subscription.secret_hash == *secret) else {
            if !matches!(self.stage, Stage::Ended) {
                self.control("deleted", &json!({}));
                self.stage = Stage::Ended;
            }
            return;
        };
        let before = std::mem::replace(&mut self.kept, kept);
        let now = &self.kept.subscription.incarnation;
        if before.subscription.incarnation != *now {
            let reason = format!("prefilled again: this is generation {} now", now.generation);
            self.position = Position::start(&self.kept.subscription);
            self.stage = Stage::Closed { shown: None, told: None };
            self.outbox.clear();
            self.control("expired", &json!({ "reason": reason }));
        }
        if let Stage::Live { live, .. } = &mut self.stage {
            live.follow(self.kept.subscription.fence.keys());
            self.position.join(&self.kept.subscription);
        }
        if matches!(self.stage, Stage::Closed { .. }) && self.kept.subscription.is_open() {
            self.open();
        }
    }

    /// Begins to serve, from the position.
    fn open(&mut self) {
        if self.position.phase == Phase::Start {
            let generation = self.position.generation;
            self.position = Position { generation, phase: Phase::Prefill { sequence: 0 } };
            if let Prefill::Done { manifest } = &self.kept.subscription.prefill {
                let Manifest { generation, fence, rows, .. } = manifest;
                let start = json!({ "generation": generation, "fence": fence, "rows": rows });
                self.control_with_id("prefill-start", &start);
            }
        }
        self.stage = match self.position.phase {
            Phase::Live(_) => self.live(),
            Phase::Start | Phase::Prefill { .. } => Stage::Prefill(None),
        };
    }

    pub(super) fn live(&self) -> Stage {
        let Subscription { topics, fence, .. } = &self.kept.subscription;
        let live = Box::new(Live::new(&self.feeds, topics, fence.keys()));
        Stage::Live { live, behind: true }
    }

    async fn step(&mut self) -> Result<Next, Error> {
        match &self.stage {
            Stage::Closed { .. } => self.report().await,
            Stage::Prefill(_) => self.rows().await,
            Stage::Live { .. } => self.events().await,
            Stage::Lost(Some(report)) => {
                send_report(&self.store, report).await?;
                self.stage = Stage::Lost(None);
                Ok(Next::More)
            }
            Stage::Lost(None) | Stage::Ended => Ok(Next::Wait(HEARTBEAT)),
        }
    }

    /// Tells how a prefill comes along, when that has changed.
    async fn report(&mut self) -> Result<Next, Error> {
        let subscription = self.kept.subscription.clone();
        let failure = match &subscription.prefill {
            Prefill::Failed { reason } => Some(reason.clone()),
            Prefill::Cancelled => Some(String::from("the prefill was cancelled")),
            Prefill::None | Prefill::Pending | Prefill::Done { .. } => None,
        };
        let now = Progress::read(&self.store, &subscription.incarnation).await?;
        let Stage::Closed { shown, told } = &mut self.stage else { return Ok(Next::More) };
        let (has_failed, has_moved) = (failure != *told, failure.is_none() && now != *shown);
        *shown = now;
        told.clone_from(&failure);
        if let Some(reason) = failure.filter(|_| has_failed) {
            self.control("prefill-failed", &json!({ "reason": reason }));
        }
        if let Some(progress) = now.filter(|_| has_moved) {
            self.control("progress", &json!(progress));
        }
        Ok(Next::Wait(PROGRESS))
    }

    /// Sends the next rows, and goes live behind the manifest.
    async fn rows(&mut self) -> Result<Next, Error> {
        let (of, Phase::Prefill { sequence }) =
            (&self.kept.subscription.incarnation, &self.position.phase)
        else {
            return Ok(Next::More);
        };
        let Stage::Prefill(reader) = &mut self.stage else { return Ok(Next::More) };
        let reader = match reader {
            Some(reader) => reader,
            none => {
                let (filter, start) = (names::prefill_filter(of)?, Start::Sequence(sequence + 1));
                none.insert(self.store.prefill.reader(&[filter], start).await?)
            }
        };
        let end = names::manifest_subject(of)?;
        let messages = reader.next_within(PAGE, STREAM_PAGE_BYTES, WAIT).await?;
        if messages.is_empty() {
            return self.without_rows().await;
        }
        let rows = messages.iter().filter(|message| message.subject != end).count();
        self.store.platform.metrics.delivered(Mode::stream, rows, 0);
        for message in messages {
            if message.subject == end {
                self.complete();
                break;
            }
            let generation = self.position.generation;
            let phase = Phase::Prefill { sequence: message.sequence };
            self.position = Position { generation, phase };
            if let Some(row) = Row::read(&message) {
                let frame = Frame::message(row.json, self.token());
                self.outbox.push_back(frame);
            }
        }
        Ok(Next::More)
    }

    /// What follows when rows do not come: the bus is slow, or they were let go.
    async fn without_rows(&mut self) -> Result<Next, Error> {
        let of = self.kept.subscription.incarnation.clone();
        let Some(reason) = rows_gone(&self.store, &of).await? else {
            return Ok(Next::Wait(AGAIN));
        };
        rows_are_missed(&self.store, &of).await?;
        self.control("expired", &json!({ "reason": format!("{reason}: another prefill follows") }));
        self.stage = Stage::Lost(None);
        Ok(Next::More)
    }

    fn complete(&mut self) {
        let subscription = &self.kept.subscription;
        self.position = Position::fence(subscription);
        if let Prefill::Done { manifest } = &subscription.prefill {
            let manifest = manifest.clone();
            self.control_with_id("prefill-end", &json!(manifest));
        }
        self.stage = self.live();
    }

    async fn events(&mut self) -> Result<Next, Error> {
        let Stage::Live { live, behind } = &mut self.stage else { return Ok(Next::More) };
        match live.step(&self.position).await {
            Ok(Step::Events { realm, entries, up_to, more }) => {
                *behind |= more;
                let metrics = &self.store.platform.metrics;
                metrics.delivered(Mode::stream, entries.len(), 0);
                for entry in entries {
                    let place = Mark::of(up_to.life(), entry.sequence, entry.time);
                    self.position.advance(&realm, place);
                    let frame = Frame::message(entry.json.clone(), self.token());
                    self.outbox.push_back(frame);
                }
                self.position.advance(&realm, up_to);
                Ok(Next::More)
            }
            Ok(Step::UpToDate) => {
                if std::mem::take(behind)
                    && let Phase::Live(realms) = &self.position.phase
                {
                    let sequences: BTreeMap<_, _> =
                        realms.iter().map(|(realm, mark)| (realm, mark.sequence)).collect();
                    self.control_with_id("up-to-date", &json!({ "sequences": sequences }));
                }
                Ok(Next::Wait(HEARTBEAT))
            }
            Ok(Step::NotReady) => Ok(Next::Wait(HEARTBEAT)),
            Ok(Step::Lost { realm, first_sequence }) => {
                self.history_purged(realm, first_sequence).await
            }
            Ok(Step::Changed { realm, why }) => self.history_changed(realm, &why).await,
            Err(error) => {
                *behind = true;
                Err(error)
            }
        }
    }

    fn token(&self) -> String {
        token::seal(&self.store.signer, self.subscription(), &self.position)
    }

    fn subscription(&self) -> &Subscription {
        &self.kept.subscription
    }

    pub(super) fn control(&mut self, event: &'static str, data: &serde_json::Value) {
        self.outbox.push_back(Frame::control(event, None, data));
    }

    pub(super) fn control_with_id(&mut self, event: &'static str, data: &serde_json::Value) {
        let id = self.token();
        self.outbox.push_back(Frame::control(event, Some(id), data));
    }
}

impl Frames for Connection {
    fn fill(&mut self) -> BoxFuture<'_, Option<()>> {
        Self::fill(self).boxed()
    }

    fn peek(&self) -> Option<&Frame> {
        self.outbox.front()
    }

    fn take(&mut self) -> Option<Frame> {
        let frame = self.outbox.pop_front();
        if frame.is_some() {
            self.sent = Instant::now();
        }
        frame
    }
}

impl Stage {
    /// Waits until a look may find something new.
    async fn changed(&mut self) {
        match self {
            Self::Live { live, .. } => live.changed().await,
            _ => std::future::pending().await,
        }
    }
}
