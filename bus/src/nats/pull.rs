//! A bound durable consumer: fetching and settling.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_nats::client::PublishError;
use async_nats::{Message, StatusCode, Subject};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::arrival::noted;
use super::consumers;
use super::convert::{parse_ack_subject, stored};
use super::failure::Failure;
use super::fence::Fence;
use super::link::{Link, limited};
use super::made::Made;
use super::puller::{Pulled, Puller, Trouble, nanos};
use super::seek::Gate;
use super::settle;
use crate::driver::{ConsumerDriver, LeaseToken, RawDelivery, Settlement};
use crate::error::{Error, ErrorKind, Result};
use crate::name::{ConsumerName, StreamName};

/// How much longer than asked an answer is waited for, since there is no heartbeat to miss.
const GRACE: Duration = Duration::from_secs(1);
/// For how many deliveries room is made before it is known how many there are.
const AT_ONCE: usize = 32;
/// A consumer that was just made may not be answered for yet.
const NOT_READY_PAUSE: Duration = Duration::from_millis(50);
const NOT_READY_ATTEMPTS: u32 = 10;

/// A consumer, bound.
pub(super) struct Pull {
    link: Arc<Link>,
    stream: StreamName,
    name: ConsumerName,
    ack_wait: Duration,
    /// What the tokens of this consumer begin with, in the usual form.
    tokens: String,
    prefetch: Option<Arc<Prefetch>>,
    gate: Arc<Gate>,
    fence: Fence,
    /// What cut a fetch short that had found something; the next one reports it, because what was
    /// on its way then is out and has not come.
    cut_short: std::sync::Mutex<Option<Trouble>>,
    made: std::sync::Mutex<Made>,
    /// The highest delivery of the consumer that came here: it counts from 1 again after a move.
    counted: AtomicU64,
}

/// What is fetched ahead.
pub(super) struct Prefetch {
    deliveries: usize,
    puller: Mutex<Option<Puller>>,
}

impl Prefetch {
    /// Lets go of what was fetched and of what was asked for.
    pub(super) async fn give_up(&self) {
        *self.puller.lock().await = None;
    }
}

impl Pull {
    pub(super) async fn bind(
        link: Arc<Link>,
        stream: &StreamName,
        name: &ConsumerName,
        prefetch: usize,
    ) -> Result<Self> {
        let ack_wait = consumers::info(&link, stream, name).await?.config.ack_wait;
        let prefetch = (prefetch > 0)
            .then(|| Arc::new(Prefetch { deliveries: prefetch, puller: Mutex::new(None) }));
        let gate = link.gates.gate(stream, name);
        if let Some(prefetch) = &prefetch {
            gate.watch_over(prefetch);
        }
        let (tokens, fence) = (format!("$JS.ACK.{stream}.{name}."), Fence::new(ack_wait));
        let (stream, name) = (stream.clone(), name.clone());
        Ok(Self {
            link,
            stream,
            name,
            ack_wait,
            tokens,
            prefetch,
            gate,
            fence,
            cut_short: Default::default(),
            made: Default::default(),
            counted: AtomicU64::new(0),
        })
    }

    /// One request for up to `max` that the server ends as soon as it has sent something.
    async fn fetch_once(&self, max: usize, until: Instant) -> Result<Vec<RawDelivery>, Trouble> {
        if let Some(trouble) = self.take_trouble() {
            return Err(trouble);
        }
        let wait = until.saturating_duration_since(Instant::now());
        // Without a bound in bytes: with one beside `no_wait`, a consumer with three copies was seen
        // to leave the request unanswered (nats-server 2.15.1).
        let mut request = json!({ "batch": max, "no_wait": true });
        if !wait.is_zero() {
            request["expires"] = nanos(wait).into();
        }
        let next = format!("CONSUMER.MSG.NEXT.{}.{}", self.stream, self.name);
        let subject = self.link.api_subject(&next);
        // The leases of what is there begin at the server, and not when it is read here.
        let mut since = Instant::now();
        let mut answers = match self.link.ask(subject, request.to_string().into()).await {
            Ok(answers) => answers,
            Err(Failure::Closed) => return Err(Trouble::Closed),
            Err(_) => return Err(Trouble::NoResponders),
        };
        let mut connects = self.link.connects();
        let mut found = Vec::new();
        while found.len() < max {
            let next = tokio::time::timeout_at(until + GRACE, noted(answers.next(), since));
            let answer = tokio::select! { biased;
                answer = next => answer,
                _ = connects.changed() => return self.ended(found, Trouble::Reconnected),
            };
            let Ok((Some(message), arrived)) = answer else {
                return self.ended(found, Trouble::Silent);
            };
            since = arrived;
            match verdict(&message) {
                Verdict::Message => {
                    let pulled = Pulled { message, since };
                    found.extend(self.delivery(pulled));
                }
                Verdict::Over => break,
                Verdict::Trouble(trouble) => return self.ended(found, trouble),
            }
        }
        Ok(found)
    }

    /// What was fetched before the trouble is handed out; the trouble is kept for the next fetch.
    fn ended(
        &self,
        found: Vec<RawDelivery>,
        trouble: Trouble,
    ) -> Result<Vec<RawDelivery>, Trouble> {
        if found.is_empty() {
            return Err(trouble);
        }
        *self.cut_short.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
        Ok(found)
    }

    fn take_trouble(&self) -> Option<Trouble> {
        self.cut_short.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn fetch_on_demand(&self, max: usize, until: Instant) -> Result<Vec<RawDelivery>> {
        for _ in 0..NOT_READY_ATTEMPTS {
            let trouble = match self.fetch_once(max, until).await {
                Ok(found) => return Ok(found),
                Err(trouble) => trouble,
            };
            match trouble {
                Trouble::Deleted => self.made_anew().await?,
                Trouble::NoResponders if self.exists().await? => {}
                trouble => return Err(self.error(trouble)),
            }
            if Instant::now() + NOT_READY_PAUSE > until {
                return Err(self.error(Trouble::NoResponders));
            }
            tokio::time::sleep(NOT_READY_PAUSE).await;
        }
        Err(self.error(Trouble::NoResponders))
    }

    async fn fetch_ahead(
        &self,
        prefetch: &Prefetch,
        max: usize,
        until: Instant,
    ) -> Result<Vec<RawDelivery>> {
        let mut slot = match prefetch.puller.try_lock() {
            Ok(slot) => slot,
            // Someone else's fetch may hold it for as long as that one waits.
            Err(_) => match tokio::time::timeout_at(until, prefetch.puller.lock()).await {
                Ok(slot) => slot,
                Err(_) => return Ok(Vec::new()),
            },
        };
        let mut not_ready = 0;
        loop {
            let puller = match &mut *slot {
                Some(puller) => puller,
                None => {
                    let consumer = format!("{}.{}", self.stream, self.name);
                    let start = Puller::start(self.link.clone(), &consumer, prefetch.deliveries);
                    let started =
                        start.await.map_err(|failure| failure.into_error(self.doing()))?;
                    slot.insert(started)
                }
            };
            match puller.next(until).await {
                Ok(first) => {
                    let mut found = Vec::with_capacity(max.min(AT_ONCE));
                    found.extend(first.and_then(|pulled| self.delivery(pulled)));
                    self.drain(puller, max, &mut found);
                    if (1..max.min(AT_ONCE)).contains(&found.len()) {
                        // The connection hands over one by one what arrived together: with a turn
                        // for it, the caller wakes up once for all of that.
                        tokio::task::yield_now().await;
                        self.drain(puller, max, &mut found);
                    }
                    // While the caller works on these, the server sends the next.
                    puller.ask_on();
                    return Ok(found);
                }
                // The requests of before are forgotten and asked again.
                Err(Trouble::Reconnected) => {}
                Err(Trouble::NoResponders) if not_ready < NOT_READY_ATTEMPTS => {
                    if !self.exists().await? || Instant::now() + NOT_READY_PAUSE > until {
                        return Err(self.error(Trouble::NoResponders));
                    }
                    tokio::time::sleep(NOT_READY_PAUSE).await;
                    not_ready += 1;
                }
                Err(Trouble::Deleted) if not_ready < NOT_READY_ATTEMPTS => {
                    *slot = None;
                    self.made_anew().await?;
                    not_ready += 1;
                }
                Err(trouble) => {
                    *slot = None;
                    return Err(self.error(trouble));
                }
            }
        }
    }

    /// Waits a moment for the consumer: who moves it may have to make it anew.
    async fn made_anew(&self) -> Result<()> {
        self.gate.set_life(None);
        for _ in 0..NOT_READY_ATTEMPTS {
            match self.exists().await {
                Err(error) if error.is_not_found() => {}
                looked => return looked.map(|_| ()),
            }
            tokio::time::sleep(NOT_READY_PAUSE).await;
        }
        Err(self.error(Trouble::Deleted))
    }

    /// Adds what is here already.
    fn drain(&self, puller: &mut Puller, max: usize, found: &mut Vec<RawDelivery>) {
        while found.len() < max
            && let Some(pulled) = puller.ready()
        {
            found.extend(self.delivery(pulled));
        }
    }

    /// `None` for what is no delivery of a consumer: nothing that could be settled.
    fn delivery(&self, pulled: Pulled) -> Option<RawDelivery> {
        let Message { subject, reply, payload, headers, .. } = pulled.message;
        let reply = reply?;
        let ack = parse_ack_subject(reply.as_str())?;
        let (attempt, sequence, timestamp) = (ack.delivered, ack.stream_sequence, ack.timestamp);
        if ack.consumer_sequence <= self.counted.swap(ack.consumer_sequence, Ordering::Relaxed) {
            self.gate.set_life(None);
        }
        self.fence.delivered(sequence, attempt);
        let (subject, token) = self.made().of(&subject, &reply, &self.link, self.gate.moves());
        Some(RawDelivery {
            message: stored(subject, sequence, timestamp, headers.as_ref(), payload),
            attempt,
            expires: pulled.since + self.ack_wait,
            token,
        })
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when the backend cannot say; an error when the consumer is gone.
    async fn exists(&self) -> Result<bool> {
        match consumers::info(&self.link, &self.stream, &self.name).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_retryable() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Refuses what is no token of this consumer, and everything after the close.
    fn check<'t>(&self, token: &'t LeaseToken) -> Result<&'t str> {
        let (subject, moves) = settle::parts(token, &self.link);
        // The usual form is told by its beginning; the rest are numbers that only the server knows.
        let usual = subject.strip_prefix(self.tokens.as_str());
        // What has not travelled is as it came.
        let numbers = |rest: &str| rest.bytes().all(|b| b == b'.' || b.is_ascii_digit());
        if !usual.is_some_and(|rest| token.as_marked().is_some() || numbers(rest)) {
            settle::check(&self.stream, &self.name, subject)?;
        }
        if moves.is_some_and(|moves| moves != self.gate.moves()) {
            return Err(settle::moved(&self.stream, &self.name));
        }
        if self.fence.is_used()
            && let Some(ack) = parse_ack_subject(subject)
            && self.fence.is_over(ack.stream_sequence, ack.delivered)
        {
            return Err(settle::over(&self.stream, &self.name, ack.stream_sequence));
        }
        if self.link.is_closed() {
            return Err(Failure::Closed.into_error(self.settling()));
        }
        Ok(subject)
    }

    /// Sends a settlement; waits only while the connection takes nothing.
    fn send(
        &self,
        token: &LeaseToken,
        subject: &str,
        how: &Settlement,
    ) -> impl Future<Output = Result<(), PublishError>> + Send {
        let kept = token
            .as_marked()
            .and_then(|(kept, _)| Subject::from_utf8(kept.as_bytes().clone()).ok());
        let subject = kept.unwrap_or_else(|| Subject::from(subject));
        let (client, payload) = (&self.link.client, settle::payload(how));
        client.publish(subject, payload)
    }

    fn settling(&self) -> String {
        format!("settle a delivery of {}", self.place())
    }

    fn doing(&self) -> String {
        format!("fetch from {}", self.place())
    }

    fn place(&self) -> String {
        format!("consumer {} on stream {}", self.name, self.stream)
    }

    fn error(&self, trouble: Trouble) -> Error {
        let doing = self.doing();
        match trouble {
            Trouble::Deleted => consumers::missing(&self.stream, &self.name),
            Trouble::Closed => Failure::Closed.into_error(doing),
            Trouble::Refused(why) => Error::new(ErrorKind::Backend, format!("{doing}: {why}")),
            Trouble::NoResponders => Failure::NoResponders.into_error(doing),
            Trouble::Reconnected | Trouble::Silent => {
                let what = format!("{doing}: the connection was lost meanwhile: fetch again");
                Error::new(ErrorKind::Unavailable, what)
            }
        }
    }
}

#[async_trait]
impl ConsumerDriver for Pull {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        if max == 0 {
            return Ok(Vec::new());
        }
        if self.link.is_closed() {
            return Err(self.error(Trouble::Closed));
        }
        let until = Instant::now() + wait;
        loop {
            let Ok(mut passage) = tokio::time::timeout_at(until + GRACE, self.gate.pass()).await
            else {
                return Ok(Vec::new());
            };
            let fetch = async {
                match &self.prefetch {
                    Some(prefetch) => self.fetch_ahead(prefetch, max, until).await,
                    None => Box::pin(self.fetch_on_demand(max, until)).await,
                }
            };
            tokio::select! { biased;
                () = passage.moved() => {}
                fetched = fetch => return fetched,
            }
        }
    }

    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>> {
        let subject = match self.check(token) {
            Ok(subject) => subject,
            Err(refused) => return Some(Err(refused)),
        };
        let sent = self.send(token, subject, &Settlement::Ack).now_or_never()?;
        Some(sent.map_err(|failure| Failure::from(failure).into_error(self.settling())))
    }

    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()> {
        let subject = self.check(token)?;
        if confirm {
            let (link, stream) = (&self.link, &self.stream);
            return settle::confirmed(link, stream, &self.name, subject, how).await;
        }
        let sent = limited(self.send(token, subject, how)).await;
        sent.map_err(|failure| failure.into_error(self.settling()))
    }
}

enum Verdict {
    Message,
    Over,
    Trouble(Trouble),
}

fn verdict(message: &Message) -> Verdict {
    let text = message.description.as_deref().unwrap_or_default();
    match message.status {
        None => Verdict::Message,
        Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => Verdict::Over,
        Some(StatusCode::NO_RESPONDERS) => Verdict::Trouble(Trouble::NoResponders),
        Some(StatusCode::REQUEST_TERMINATED) => match text {
            "Consumer Deleted" => Verdict::Trouble(Trouble::Deleted),
            "Leadership Change" | "Server Shutdown" | "Exceeded MaxWaiting" => {
                Verdict::Trouble(Trouble::NoResponders)
            }
            _ if text.starts_with("Exceeded MaxRequest") || text.contains("push") => {
                Verdict::Trouble(Trouble::Refused(text.to_owned()))
            }
            _ => Verdict::Over,
        },
        Some(status) => Verdict::Trouble(Trouble::Refused(format!("{status} {text}"))),
    }
}
