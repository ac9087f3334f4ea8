//! The stream of topics without a subscription: the state first, if it is asked for, then every
//! change; frames, promises and resumption as of a subscription in stream mode.
//!
//! What would have a subscription prefilled again (its log was deleted, or has lost what it did
//! not read yet) begins another state here, at another fence, for this reader alone. A reader
//! without prefill is told and goes on in the log that there is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bus::Error;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::interest::Interest;
use super::place::{Place, Rows};
use super::realms::Realms;
use super::state::{State, fence};
use crate::messages::position::{Phase, Position};
use crate::messages::stream::{Feeds, Frame, Frames, From, Live, Step, capture, frame};
use crate::messages::watched::Follower;
use crate::metrics::{Counted, Mode};
use crate::model::{History, Life, Mark, Marks, Realm};
use crate::prefill::SourceError;
use crate::store::Store;

/// A comment is sent when nothing else was for this long.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// After a read that failed.
const AGAIN: Duration = Duration::from_millis(500);
/// Rows that are put out at once.
const ROWS: usize = 64;

/// What a stream is made of.
pub(in crate::messages) struct Opening {
    pub(in crate::messages) interest: Interest,
    pub(in crate::messages) place: Place,
    /// Whether the state comes first when it has to begin again.
    pub(in crate::messages) prefill: bool,
    /// Why a token that it brought is no good any more.
    pub(in crate::messages) expired: Option<String>,
    pub(in crate::messages) retry_ms: u64,
    pub(in crate::messages) max_age: Duration,
    pub(in crate::messages) permit: Arc<OwnedSemaphorePermit>,
}

/// See the module's documentation.
pub(in crate::messages) struct TopicStream {
    store: Store,
    feeds: Feeds,
    interest: Interest,
    prefill: bool,
    opened_ms: u64,
    known: Follower<Arc<std::collections::BTreeSet<Realm>>>,
    stage: Stage,
    outbox: VecDeque<Frame>,
    sent: Instant,
    ends: Instant,
    shutdown: CancellationToken,
    _permit: Arc<OwnedSemaphorePermit>,
    _open: Counted,
}

enum Stage {
    /// Sending the state; `None` before it was opened.
    Rows(Rows, Option<Box<State>>),
    /// Sending live events; `behind` until the client has been told that it is up to date.
    Live { live: Box<Live>, at: Position, behind: bool },
    /// The state cannot be told: nothing more will come.
    Failed,
}

/// What is to be done after a look.
enum Next {
    More,
    Wait(Duration),
}

impl TopicStream {
    pub(in crate::messages) fn new(
        feeds: Feeds,
        realms: &Realms,
        opening: Opening,
        shutdown: CancellationToken,
    ) -> Self {
        let Opening { interest, place, prefill, expired, retry_ms, max_age, permit } = opening;
        let now = Instant::now();
        let store = feeds.store.clone();
        let open = store.platform.metrics.stream();
        let opened_ms = store.platform.clock.now_ms();
        let token = place.seal(&store.signer, &interest);
        let mut outbox = VecDeque::from([Frame::opening(retry_ms, token)]);
        if let Some(reason) = expired {
            outbox.push_back(Frame::control("expired", None, &json!({ "reason": reason })));
        }
        let mut stream = Self {
            store,
            feeds,
            interest,
            prefill,
            opened_ms,
            known: realms.follow(),
            stage: Stage::Failed,
            outbox,
            sent: now,
            ends: now + max_age,
            shutdown,
            _permit: permit,
            _open: open,
        };
        stream.stage = match place {
            Place::Rows(rows) => Stage::Rows(rows, None),
            Place::Live(marks) => stream.live(marks),
        };
        stream
    }

    /// The next part of the body; `None` at its end.
    pub(in crate::messages) async fn next(&mut self) -> Option<Bytes> {
        self.fill().await?;
        self.sent = Instant::now();
        frame::chunk(&mut self.outbox)
    }

    async fn fill(&mut self) -> Option<()> {
        loop {
            if self.shutdown.is_cancelled() || self.ends <= Instant::now() {
                return None;
            }
            if self.outbox.is_empty() && self.sent + HEARTBEAT <= Instant::now() {
                self.outbox.push_back(Frame::heartbeat());
            }
            if !self.outbox.is_empty() {
                return Some(());
            }
            self.join();
            let (shutdown, ends) = (self.shutdown.clone(), self.ends);
            let step = tokio::select! { biased;
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(ends) => return None,
                step = self.step() => step,
            };
            match step {
                Ok(Next::Wait(longest)) if self.outbox.is_empty() => self.wait(longest).await,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "reads again");
                    self.wait(AGAIN).await;
                }
            }
        }
    }

    async fn wait(&mut self, longest: Duration) {
        let heartbeat = self.sent + HEARTBEAT;
        let until = heartbeat.min(self.ends).min(Instant::now() + longest);
        let Self { shutdown, known, stage, .. } = self;
        tokio::select! { biased;
            () = shutdown.cancelled() => {}
            () = known.changed() => {}
            () = stage.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }

    async fn step(&mut self) -> Result<Next, Error> {
        match &self.stage {
            Stage::Rows(..) => self.rows().await,
            Stage::Live { .. } => self.events().await,
            Stage::Failed => Ok(Next::Wait(HEARTBEAT)),
        }
    }

    /// Takes in the realms that were made since, from their beginning.
    fn join(&mut self) {
        let Stage::Live { live, at, .. } = &mut self.stage else { return };
        let known = self.known.get();
        let joined = |realm: &&Realm| self.interest.topics.includes_realm(realm);
        for realm in known.iter().filter(joined) {
            if at.of(realm).is_none() {
                at.advance(realm, Mark::bare(0));
                live.follow([realm]);
            }
        }
    }

    async fn rows(&mut self) -> Result<Next, Error> {
        let Stage::Rows(rows, state) = &mut self.stage else { return Ok(Next::More) };
        if state.is_none() {
            let begun = Rows { begun: true, ..rows.clone() };
            match State::open(&self.store, &self.interest, begun).await {
                Ok(opened) => {
                    *state = Some(Box::new(opened));
                    if !std::mem::replace(&mut rows.begun, true) {
                        let data = json!({ "fence": fence(rows) });
                        let id = Place::Rows(rows.clone()).seal(&self.store.signer, &self.interest);
                        self.outbox.push_back(Frame::control("prefill-start", Some(id), &data));
                        return Ok(Next::More);
                    }
                }
                Err(error) => return self.no_state(error),
            }
        }
        for _ in 0..ROWS {
            let Stage::Rows(_, Some(state)) = &mut self.stage else { return Ok(Next::More) };
            match state.next().await {
                Ok(Some((json, rows))) => {
                    let place = Place::Rows(rows.clone());
                    let id = place.seal(&self.store.signer, &self.interest);
                    self.store.platform.metrics.delivered(Mode::stream, 1, 0);
                    self.outbox.push_back(Frame::message(json, id));
                    if !state.has_ready() {
                        break;
                    }
                }
                Ok(None) => {
                    let rows = state.rows().clone();
                    self.complete(&rows);
                    break;
                }
                Err(error) => return self.no_state(error),
            }
        }
        Ok(Next::More)
    }

    /// A log that cannot tell its state now, or never.
    fn no_state(&mut self, error: SourceError) -> Result<Next, Error> {
        match error {
            SourceError::Bus(error) => Err(error),
            SourceError::Impossible(reason) => {
                self.control("prefill-failed", None, &json!({ "reason": reason }));
                self.stage = Stage::Failed;
                Ok(Next::More)
            }
        }
    }

    fn complete(&mut self, rows: &Rows) {
        let manifest = rows.manifest();
        let marks = rows.fence.clone();
        self.stage = self.live(marks.clone());
        self.control("prefill-end", Some(&Place::Live(marks)), &manifest);
    }

    fn live(&self, marks: Marks) -> Stage {
        let live = Box::new(Live::new(&self.feeds, &self.interest.topics, marks.keys()));
        let at = Position { generation: 0, phase: Phase::Live(marks) };
        Stage::Live { live, at, behind: true }
    }

    async fn events(&mut self) -> Result<Next, Error> {
        let Stage::Live { live, at, behind } = &mut self.stage else { return Ok(Next::More) };
        match live.step(at).await {
            Ok(Step::Events { realm, entries, up_to, more }) => {
                *behind |= more;
                for entry in entries.iter().filter(|entry| self.interest.wants(&entry.key)) {
                    at.advance(&realm, Mark::of(up_to.life(), entry.sequence, entry.time));
                    let id = token(&self.store, &self.interest, at);
                    self.store.platform.metrics.delivered(Mode::stream, 1, 0);
                    self.outbox.push_back(Frame::message(entry.json.clone(), id));
                }
                at.advance(&realm, up_to);
                Ok(Next::More)
            }
            Ok(Step::UpToDate) => {
                if std::mem::take(behind)
                    && let Phase::Live(marks) = &at.phase
                {
                    let sequences: BTreeMap<_, _> =
                        marks.iter().map(|(realm, mark)| (realm, mark.sequence)).collect();
                    let data = json!({ "sequences": sequences });
                    let id = token(&self.store, &self.interest, at);
                    self.outbox.push_back(Frame::control("up-to-date", Some(id), &data));
                }
                Ok(Next::Wait(HEARTBEAT))
            }
            Ok(Step::NotReady) => Ok(Next::Wait(HEARTBEAT)),
            Ok(Step::Lost { realm, first_sequence }) => {
                let reason = format!(
                    "the log of {realm} begins at {first_sequence} now, and what comes before it \
                     was not read"
                );
                self.begin_again(&realm, &reason, Some(first_sequence)).await
            }
            Ok(Step::Changed { realm, why }) => {
                let reason = format!("the log of {realm} is not the one that was read: {why}");
                self.begin_again(&realm, &reason, None).await
            }
            Err(error) => {
                *behind = true;
                Err(error)
            }
        }
    }

    /// What was read of a realm does not fit its log any more, or what comes next is gone.
    async fn begin_again(
        &mut self,
        realm: &Realm,
        reason: &str,
        first_sequence: Option<u64>,
    ) -> Result<Next, Error> {
        let data = json!({ "reason": reason });
        if self.prefill {
            let fence = capture(&self.store, &self.interest.topics, &From::Now).await?;
            let rows = Rows::at(fence);
            self.control("expired", Some(&Place::Rows(rows.clone())), &data);
            self.stage = Stage::Rows(rows, None);
            return Ok(Next::More);
        }
        let Stage::Live { at, .. } = &self.stage else { return Ok(Next::More) };
        let read = at.of(realm).unwrap_or_else(|| Mark::bare(0));
        let behind = match first_sequence {
            Some(first) => {
                let log = self.store.log_info(realm).await?;
                Mark::bare(first.saturating_sub(1)).in_life(Life::of(&log))
            }
            None => self.store.resume_mark(realm, &read, self.opened_ms).await?,
        };
        let Phase::Live(marks) = &at.phase else { return Ok(Next::More) };
        let mut marks = marks.clone();
        marks.insert(realm.clone(), behind);
        self.control("expired", Some(&Place::Live(marks.clone())), &data);
        self.stage = self.live(marks);
        Ok(Next::More)
    }

    fn control(&mut self, name: &'static str, at: Option<&Place>, data: &serde_json::Value) {
        let id = at.map(|place| place.seal(&self.store.signer, &self.interest));
        self.outbox.push_back(Frame::control(name, id, data));
    }
}

fn token(store: &Store, interest: &Interest, at: &Position) -> String {
    match &at.phase {
        Phase::Live(marks) => Place::Live(marks.clone()).seal(&store.signer, interest),
        // A stream of topics has no other.
        Phase::Start | Phase::Prefill { .. } => String::new(),
    }
}

/// Whether the logs are still those that the places are of; the reason where one is not.
pub(in crate::messages) async fn changed(
    store: &Store,
    marks: &Marks,
) -> Result<Option<String>, Error> {
    for (realm, mark) in marks.iter().filter(|(_, mark)| mark.sequence > 0) {
        match store.check_mark(realm, mark).await? {
            History::Changed { why } => {
                let what = format!("the log of {realm} is not the one that was read: {why}");
                return Ok(Some(what));
            }
            History::Same | History::Purged { .. } => {}
        }
    }
    Ok(None)
}

impl Frames for TopicStream {
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
