//! One client over WebSocket, from `hello` to the close frame.
//!
//! One task does all of it: it hears the client, sends what the credit allows, and has settled what
//! the client settles. Nothing of it holds more than a bound: one frame of the client, one page of
//! what is to be sent, one page of settlements. A client that does not read holds its own task in a
//! write, and is let go when it takes nothing for 60 s.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::super::directory::Followed;
use super::super::queue::{Item, QueueMode, Status, Wish};
use super::super::stream::Frame;
use super::close::Farewell;
use super::credit::Credit;
use super::frame::{self, ClientFrame};
use super::line::{Heard, Line};
use super::sent::Sent;
use super::settlements::{Answer, Asked, Settlements};
use super::source::{Out, Source};
use crate::http::{Problem, ProblemKind};
use crate::limits::MAX_NACK_DELAY;
use crate::model::Invalid;
use crate::store::Kept;

/// Of silence, after which the client is asked for a sign of life; and after which it is let go.
const PING_AFTER: Duration = Duration::from_secs(20);
const SILENCE_LIMIT: Duration = Duration::from_secs(90);
/// What was asked to be settled before the end is still settled, for this long.
const LAST_SETTLEMENTS: Duration = Duration::from_secs(5);

/// What a conversation is made of.
pub(in crate::messages) struct Opening {
    pub(in crate::messages) source: Source,
    /// The subscription that is read; `None` where none is.
    pub(in crate::messages) followed: Option<Followed>,
    /// Where settlements go, in queue mode.
    pub(in crate::messages) queue: Option<Arc<QueueMode>>,
    /// By what the client resumes.
    pub(in crate::messages) id: Option<String>,
    /// What the client granted when it asked for the connection.
    pub(in crate::messages) credit: Credit,
    pub(in crate::messages) max_age: Duration,
    pub(in crate::messages) shutdown: CancellationToken,
    pub(in crate::messages) permit: Arc<OwnedSemaphorePermit>,
}

/// See the module's documentation.
pub(in crate::messages) struct Conversation<S> {
    line: Line<S>,
    source: Source,
    followed: Option<Followed>,
    settlements: Option<Settlements>,
    credit: Credit,
    sent: Sent,
    heard_at: Instant,
    pinged_at: Instant,
    ends: Instant,
    shutdown: CancellationToken,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// How it ends.
enum End {
    /// The client went.
    Left,
    /// We go, and say why.
    Farewell(Box<Farewell>),
}

impl From<Farewell> for End {
    fn from(farewell: Farewell) -> Self {
        Self::Farewell(Box::new(farewell))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Conversation<S> {
    /// Says `hello`, then talks until there is a reason to end; returns when the connection is
    /// closed.
    pub(in crate::messages) async fn hold(line: Line<S>, opening: Opening) {
        let Opening { source, followed, queue, id, credit, max_age, shutdown, permit } = opening;
        let now = Instant::now();
        let mut conversation = Self {
            line,
            source,
            followed,
            settlements: queue.map(Settlements::new),
            credit,
            sent: Sent::default(),
            heard_at: now,
            pinged_at: now,
            ends: now + max_age,
            shutdown,
            _permit: permit,
        };
        let hello = conversation.hello(id.as_deref());
        let end = match conversation.send(hello).await {
            Ok(()) => conversation.talk().await,
            Err(end) => end,
        };
        conversation.finish(end).await;
    }

    fn hello(&self, id: Option<&str>) -> Bytes {
        let mode = if self.settlements.is_some() { "queue" } else { "stream" };
        let of = self.followed.as_ref().map(|followed| &followed.kept().subscription);
        frame::hello(mode, of, id)
    }

    async fn talk(&mut self) -> End {
        loop {
            if let Err(end) = self.say_what_is_ready().await {
                return end;
            }
            if let Some(end) = self.is_due() {
                return end;
            }
            let step = self.step().await;
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// Waits until something happens, and takes it in.
    async fn step(&mut self) -> Result<(), End> {
        let ping_at = self.pinged_at.max(self.heard_at) + PING_AFTER;
        let wake = ping_at.min(self.heard_at + SILENCE_LIMIT).min(self.ends);
        let kept = self.followed.as_ref().map(newest);
        let Self { line, source, followed, settlements, credit, shutdown, .. } = self;
        let hears = settlements.as_ref().is_none_or(Settlements::has_room);
        tokio::select! { biased;
            () = shutdown.cancelled() => Ok(()),
            () = changed(followed.as_mut()) => Ok(()),
            answers = settled(settlements.as_mut(), kept.as_ref()) => self.answer(answers).await,
            heard = line.next(), if hears => self.hear(heard?).await,
            () = source.ready(*credit) => Ok(()),
            () = sleep_until(wake) => self.look_for_life().await,
        }
    }

    /// Why it ends now, if it does.
    fn is_due(&self) -> Option<End> {
        if self.shutdown.is_cancelled() {
            return Some(Farewell::STOPS.into());
        }
        let now = Instant::now();
        if self.ends <= now {
            return Some(Farewell::AGED.into());
        }
        let followed = self.followed.as_ref()?;
        let secret = &followed.kept().subscription.secret_hash;
        match followed.current() {
            // Stream mode says `deleted` in its place before.
            None => Some(Farewell::DELETED.into()),
            Some(kept) if kept.subscription.secret_hash != *secret => {
                Some(Farewell::REVOKED.into())
            }
            Some(_) => None,
        }
    }

    async fn say_what_is_ready(&mut self) -> Result<(), End> {
        while let Some(out) = self.source.take(self.credit) {
            match out {
                Out::Queue(Item::Delivery(delivery)) => {
                    let position = self.sent.add(&delivery.ack);
                    let text = frame::delivery(position, &delivery);
                    self.credit.spend(text.len());
                    self.send(text).await?;
                }
                Out::Queue(Item::Control { name, data }) => {
                    let text = frame::control(name, &data.to_string(), None);
                    self.send(text).await?;
                }
                Out::Stream(Frame::Message { json, id }) => {
                    let text = frame::message(id.as_deref().unwrap_or_default(), &json);
                    self.credit.spend(text.len());
                    self.send(text).await?;
                }
                Out::Stream(Frame::Control { name, data, id }) => {
                    self.send(frame::control(name, &data, id.as_deref())).await?;
                }
                // `hello` says it, and the protocol has pings of its own.
                Out::Stream(Frame::Opening { .. } | Frame::Heartbeat) => {}
                Out::Over => return Err(self.is_due().unwrap_or(Farewell::AGED.into())),
            }
        }
        Ok(())
    }

    /// Sends a frame. A client that does not take it keeps nobody from ending the connection.
    async fn send(&mut self, text: Bytes) -> Result<(), End> {
        let Self { line, shutdown, ends, .. } = self;
        tokio::select! { biased;
            () = shutdown.cancelled() => Err(Farewell::STOPS.into()),
            () = sleep_until(*ends) => Err(Farewell::AGED.into()),
            sent = line.send(text) => sent.ok_or(End::Left),
        }
    }

    async fn hear(&mut self, heard: Heard) -> Result<(), End> {
        self.heard_at = Instant::now();
        let text = match heard {
            Heard::Text(text) => text,
            Heard::Alive => return Ok(()),
            Heard::Closed => return Err(End::Left),
        };
        match ClientFrame::read(&text).map_err(Farewell::bad_frame)? {
            ClientFrame::Credit { messages, bytes } => {
                self.credit.grant(messages, bytes);
                Ok(())
            }
            ClientFrame::Ping => self.send(frame::pong()).await,
            ClientFrame::Ack { ids, up_to, reference } => {
                self.settle(reference, self.meant(ids, up_to)?, Wish::Ack)
            }
            ClientFrame::Extend { ids, up_to, reference } => {
                self.settle(reference, self.meant(ids, up_to)?, Wish::Extend)
            }
            ClientFrame::Nack { ids, delay, reject, reason, reference } => {
                let delay = delay.map_or(Duration::ZERO, |delay| delay.0.min(MAX_NACK_DELAY));
                let wish = match reject {
                    true => Wish::Reject { reason },
                    false => Wish::Nack { delay, reason },
                };
                self.settle(reference, ids, wish)
            }
        }
    }

    /// The ids that a frame means.
    fn meant(&self, ids: Vec<String>, up_to: Option<u64>) -> Result<Vec<String>, End> {
        let Some(position) = up_to else { return Ok(ids) };
        let last = self.sent.last();
        if position > last {
            let why = Invalid::new(format!("up_to is {position}, and {last} is the last position"));
            return Err(Farewell::bad_frame(Problem::invalid("up_to", &why)).into());
        }
        Ok(self.sent.up_to(position))
    }

    fn settle(&mut self, reference: Option<u64>, ids: Vec<String>, wish: Wish) -> Result<(), End> {
        let Some(settlements) = &mut self.settlements else {
            let detail = "in stream mode nothing is settled: keep the id of the last message";
            let problem = Problem::new(ProblemKind::InvalidInput, detail);
            return Err(Farewell::bad_frame(problem).into());
        };
        let wishes = ids.into_iter().map(|id| (id, wish.clone())).collect();
        settlements.ask(Asked { reference, wishes });
        Ok(())
    }

    async fn answer(&mut self, answers: Vec<Answer>) -> Result<(), End> {
        for Answer { reference, outcomes, extends } in answers {
            for outcome in &outcomes {
                let is_over = match outcome.status {
                    Status::Done => !extends,
                    Status::Stale | Status::Unknown => true,
                    Status::Early | Status::Failed => false,
                };
                if is_over {
                    self.sent.remove(&outcome.id);
                }
            }
            self.send(frame::settled(reference, &outcomes)).await?;
        }
        Ok(())
    }

    async fn look_for_life(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.heard_at + SILENCE_LIMIT <= now {
            return Err(Farewell::SILENT.into());
        }
        if self.heard_at + PING_AFTER <= now {
            self.pinged_at = now;
            let Self { line, shutdown, .. } = self;
            return tokio::select! { biased;
                () = shutdown.cancelled() => Ok(()),
                sent = line.ping() => sent.ok_or(End::Left),
            };
        }
        Ok(())
    }

    /// Settles what was asked before the end came, says why it ends, and closes.
    async fn finish(mut self, end: End) {
        if let (Some(settlements), Some(followed)) = (&mut self.settlements, &self.followed) {
            let kept = newest(followed);
            let left = async {
                let mut answers = Vec::new();
                while !settlements.is_idle() {
                    answers.extend(settlements.next(&kept).await);
                }
                answers
            };
            let answers = timeout(LAST_SETTLEMENTS, left).await.unwrap_or_default();
            if let End::Farewell(_) = &end {
                let told = async {
                    for Answer { reference, outcomes, .. } in answers {
                        self.line.send(frame::settled(reference, &outcomes)).await?;
                    }
                    Some(())
                };
                // Who does not read it finds out when it comes again.
                let _ = timeout(LAST_SETTLEMENTS, told).await;
            }
        }
        // What was fetched and not sent goes to others before the client has seen the end.
        drop(self.source);
        match end {
            End::Left => self.line.closed().await,
            End::Farewell(farewell) => self.line.close(&farewell).await,
        }
    }
}

/// The record as it is now, or was when it was deleted: it has the generation that is served.
fn newest(followed: &Followed) -> Arc<Kept> {
    followed.current().unwrap_or_else(|| followed.kept().clone())
}

async fn changed(followed: Option<&mut Followed>) {
    match followed {
        Some(followed) => followed.changed().await,
        None => std::future::pending().await,
    }
}

async fn settled(settlements: Option<&mut Settlements>, kept: Option<&Arc<Kept>>) -> Vec<Answer> {
    match (settlements, kept) {
        (Some(settlements), Some(kept)) => settlements.next(kept).await,
        _ => std::future::pending().await,
    }
}
