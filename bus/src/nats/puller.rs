//! Continuous pulling: there is always a request at the server, so messages come as they are
//! published.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use super::connect::Established;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT};

const EXPIRES: Duration = Duration::from_secs(30);
const SMALL_BATCH: usize = 64;
const HEARTBEAT: Duration = Duration::from_secs(3);
/// Two heartbeats missed and some slack.
const SILENCE: Duration = Duration::from_millis(7500);

/// Pulls from one consumer for as long as it is polled.
pub(super) struct Puller {
    link: Arc<Link>,
    answers: Subscriber,
    inbox: String,
    subject: String,
    batch: usize,
    max_bytes: usize,
    requests: VecDeque<Asked>,
    /// Ready once the connection was established anew.
    reconnected: Changed,
    alarm: Pin<Box<Sleep>>,
    /// What is delivered from now on arrived after this.
    arrived_after: Instant,
    /// When the server was last heard of, and whether anything came since that was noted. Kept
    /// over the waits, which are often much shorter than a silence.
    heard: Instant,
    came: bool,
    trouble: Option<Trouble>,
}

/// A request at the server, how many messages it stood for, and for how many it still does.
struct Asked {
    at: Instant,
    of: usize,
    left: usize,
}

/// A message, and a time not after the start of its lease.
pub(super) struct Pulled {
    pub(super) message: Message,
    pub(super) since: Instant,
}

/// Why nothing can come any more from a consumer, or not for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The consumer was deleted.
    Deleted,
    /// Nobody listens: the consumer is gone or its leader is away.
    NoResponders,
    /// The connection was established anew: what was asked for may be forgotten.
    Reconnected,
    /// Not even a heartbeat came.
    Silent,
    /// The server refuses the request for good.
    Refused(String),
    /// This process closed the bus.
    Closed,
}

/// At most so many bytes are on their way to a consumer here, unless one message may be larger.
const PULL_BYTES: usize = 16 << 20;

/// How many bytes one request may ask for: less would never let the largest message through.
pub(super) fn pull_bytes(link: &Link) -> usize {
    PULL_BYTES.max(2 * link.client.max_payload())
}

impl Puller {
    /// Makes ready to pull from `<stream>.<consumer>`, up to `batch` messages and a bounded number of
    /// bytes per request.
    pub(super) async fn start(
        link: Arc<Link>,
        consumer: &str,
        batch: usize,
    ) -> Result<Self, Failure> {
        let max_bytes = pull_bytes(&link);
        let reconnected = changed(link.connects());
        let subject = link.api_subject(&format!("CONSUMER.MSG.NEXT.{consumer}"));
        let inbox = link.client.new_inbox();
        let subscribe = link.client.subscribe(inbox.clone());
        let answers = match tokio::time::timeout(REQUEST_LIMIT, subscribe).await {
            Ok(answers) => answers.map_err(|_| Failure::Closed)?,
            Err(_) => return Err(Failure::NoResponders),
        };
        Ok(Self {
            link,
            answers,
            inbox,
            subject,
            batch: batch.max(1),
            max_bytes,
            requests: VecDeque::new(),
            reconnected,
            alarm: Box::pin(tokio::time::sleep(SILENCE)),
            arrived_after: Instant::now(),
            heard: Instant::now(),
            came: false,
            trouble: None,
        })
    }

    /// Has each request from now on ask for at most this many bytes.
    pub(super) fn limit(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
    }

    /// The next message, or nothing by `until`. May be dropped and called again at any point.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<Pulled>, Trouble> {
        loop {
            if let Some(trouble) = self.trouble.take() {
                self.requests.clear();
                return Err(trouble);
            }
            self.ask().await?;
            if let Some(pulled) = self.ready() {
                return Ok(Some(pulled));
            }
            // What was here may have been the end of all requests.
            if self.trouble.is_some() || self.requests.is_empty() {
                continue;
            }
            let answer = match self.wait(until).await {
                Ok(Some(answer)) => Ok(answer),
                Ok(None) => return Ok(None),
                Err(trouble) => Err(trouble),
            };
            // It was waited for, so it has only just arrived.
            self.arrived_after = Instant::now();
            match answer {
                Ok(answer) => {
                    if let Some(pulled) = self.absorb(answer) {
                        return Ok(Some(pulled));
                    }
                }
                Err(trouble) => self.trouble = Some(trouble),
            }
        }
    }

    /// Waits for an answer; nothing by `until`.
    ///
    /// The alarm and the watch on the connection outlive the wait: with small batches, setting
    /// them up anew each time would cost more than the messages do.
    async fn wait(&mut self, until: Instant) -> Result<Option<Message>, Trouble> {
        if std::mem::take(&mut self.came) {
            self.heard = Instant::now();
        }
        let asked_at = self.requests.back().map_or(self.heard, |asked| asked.at);
        let silent_at = self.heard.max(asked_at) + SILENCE;
        let deadline = until.min(silent_at);
        let Self { link, answers, alarm, reconnected, .. } = self;
        if alarm.is_elapsed() || alarm.deadline() > deadline {
            alarm.as_mut().reset(deadline);
        }
        poll_fn(|cx| {
            if reconnected.as_mut().poll(cx).is_ready() {
                *reconnected = changed(link.connects());
                return Poll::Ready(Err(Trouble::Reconnected));
            }
            if let Poll::Ready(answer) = answers.poll_next_unpin(cx) {
                return Poll::Ready(answer.map(Some).ok_or(Trouble::Closed));
            }
            while alarm.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    let silent = silent_at < until;
                    return Poll::Ready(if silent { Err(Trouble::Silent) } else { Ok(None) });
                }
                // It was set for an earlier wait.
                alarm.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }

    /// A message that is here already. Trouble is kept for [`Puller::next`].
    pub(super) fn ready(&mut self) -> Option<Pulled> {
        while self.trouble.is_none() {
            let answer = self.answers.next().now_or_never()??;
            if let Some(pulled) = self.absorb(answer) {
                return Some(pulled);
            }
        }
        None
    }

    /// Asks for more if it is time and takes no waiting, for a caller who turns to what came.
    pub(super) fn ask_on(&mut self) {
        if let Some(Err(trouble)) = self.ask().now_or_never() {
            self.trouble.get_or_insert(trouble);
        }
    }

    /// Keeps between a quarter of a batch and a batch asked for: what the server sends for one
    /// request goes out together, so that large ones cost it less. Of a small batch half is on
    /// its way, or the server would wait for the next request.
    async fn ask(&mut self) -> Result<(), Trouble> {
        let asked: usize = self.requests.iter().map(|asked| asked.left).sum();
        if asked > (self.batch / 4).max(self.batch.min(SMALL_BATCH) / 2) {
            return Ok(());
        }
        let batch = self.batch - asked;
        let request = json!({
            "batch": batch,
            "max_bytes": self.max_bytes,
            "expires": nanos(EXPIRES),
            "idle_heartbeat": nanos(HEARTBEAT),
        });
        let payload = request.to_string().into();
        let (subject, inbox) = (self.subject.clone(), self.inbox.clone());
        let sent = self.link.client.publish_with_reply(subject, inbox, payload);
        match tokio::time::timeout(REQUEST_LIMIT, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Trouble::Closed),
            Err(_) => return Err(Trouble::NoResponders),
        }
        self.requests.push_back(Asked { at: Instant::now(), of: batch, left: batch });
        Ok(())
    }

    fn absorb(&mut self, message: Message) -> Option<Pulled> {
        self.came = true;
        let Some(status) = message.status else {
            let asked_at = self.requests.front().map_or(self.arrived_after, |asked| asked.at);
            self.count_one();
            return Some(Pulled { message, since: self.arrived_after.max(asked_at) });
        };
        let text = message.description.as_deref().unwrap_or_default();
        match status {
            StatusCode::IDLE_HEARTBEAT => {}
            // A request that ran out of time or bytes; the oldest one goes first.
            StatusCode::TIMEOUT | StatusCode::NOT_FOUND => {
                self.requests.pop_front();
            }
            StatusCode::NO_RESPONDERS => self.trouble = Some(Trouble::NoResponders),
            StatusCode::REQUEST_TERMINATED => match text {
                "Consumer Deleted" => self.trouble = Some(Trouble::Deleted),
                "Leadership Change" | "Server Shutdown" | "Exceeded MaxWaiting" => {
                    self.trouble = Some(Trouble::NoResponders);
                }
                _ if text.starts_with("Exceeded MaxRequest") || text.contains("push") => {
                    self.trouble = Some(Trouble::Refused(text.to_owned()));
                }
                _ => {
                    let ended = self.requests.pop_front();
                    if text.contains("MaxBytes") && ended.is_none_or(|asked| asked.left == asked.of)
                    {
                        // Not even the first message had room.
                        self.max_bytes = self.max_bytes.saturating_mul(2);
                    }
                }
            },
            _ => self.trouble = Some(Trouble::Refused(format!("{status} {text}"))),
        }
        None
    }

    fn count_one(&mut self) {
        if let Some(asked) = self.requests.front_mut() {
            asked.left = asked.left.saturating_sub(1);
            if asked.left == 0 {
                self.requests.pop_front();
            }
        }
    }
}

type Changed = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

fn changed(mut connects: watch::Receiver<Established>) -> Changed {
    Box::pin(async move {
        if connects.changed().await.is_err() {
            // The connection is gone for good, which the answers tell.
            std::future::pending::<()>().await;
        }
    })
}

/// A duration as the server's API takes it.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
