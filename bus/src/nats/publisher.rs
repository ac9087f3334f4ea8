//! The publish window: many messages on their way at once, one subscription for all answers.
//!
//! Every message goes out with a reply subject `<inbox>.<place>`; one task reads the answers and
//! resolves the receipts. A bounded number of places is the back-pressure. What is not answered
//! plainly leaves the fast path for [`super::recover`], and keeps its place until it is resolved.
//!
//! What has to be sent again goes in the order it was submitted, stream by stream, and nothing that
//! is submitted later passes it.
//!
//! ```text
//!  submit ──► has a place ──► on its way ──plain answer──────────────► receipt
//!    │ no place free,     │ client full:  │ conflict, refusal ────────► error, or own success
//!    │ reconnecting,      │ taken back    │                             (recover.rs)
//!    │ stream held up     ▼               │ no leader, no responders,
//!    └──────────────► waits in line       │ or no answer after a reconnect
//!                                         ▼
//!                        lane of its stream (window.rs): sent again by one task,
//!                        in the order of submission; what is submitted later waits
//!                                         │ stored, or RECOVER_FOR is over
//!                                         ▼
//!                                   receipt or error
//!
//!  who moves them: submit (any task) ► has a place ► on its way
//!                  AnswerReader (one task) ► receipts, and every 100 ms what is overdue ► lanes
//!                  one task for each lane ► receipts; it ends when its lane is empty
//! ```
//!
//! A message without an id that may have been stored is never sent again: its receipt is a time-out.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use super::convert::headers_out;
use super::facts::KnownFacts;
use super::failure::Failure;
use super::link::{Link, REQUEST_LIMIT, limited};
use super::recover::{RECOVER_FOR, is_sent_again, recover, send};
use super::schedule;
use super::window::{Outstanding, Overdue, Place, Reserved, WINDOW, WINDOW_KIB, Window};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Message, Receipt};
use crate::name::StreamName;
use crate::publish::PendingReceipt;

/// How long a message waits for those before it that are sent again; each of them has ended then.
const HELD_UP_FOR: Duration =
    RECOVER_FOR.saturating_add(REQUEST_LIMIT).saturating_add(REQUEST_LIMIT);
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// How many answers are read before the timers get their turn.
const ANSWERS_AT_ONCE: usize = 256;

/// Publishes through a bounded window.
pub(super) struct Publisher {
    link: Arc<Link>,
    window: Arc<Window>,
    places: Arc<Semaphore>,
    /// In KiB.
    bytes: Arc<Semaphore>,
    task: Mutex<Option<JoinHandle<()>>>,
    facts: KnownFacts,
}

/// A message on its way, with all that is needed to send it again.
pub(super) struct Job {
    pub(super) stream: StreamName,
    pub(super) message: Message,
    /// The id was made here, so a duplicate of it is this very message.
    pub(super) own_id: bool,
    /// Where it waits for its time, if it has one.
    waits_on: Option<String>,
    pub(super) submitted: Instant,
}

/// What the client is handed for a message.
struct Outbound {
    subject: async_nats::Subject,
    reply: async_nats::Subject,
    headers: Option<HeaderMap>,
    payload: Bytes,
}

/// What came of submitting without waiting.
enum Attempt {
    /// Submitted, or refused.
    Done(Result<PendingReceipt>),
    /// There was no room, or no connection: here is the message again.
    MustWait(Message),
}

impl Publisher {
    /// Subscribes to the answers and starts the task that reads them.
    pub(super) async fn start(link: Arc<Link>) -> Result<Self> {
        let inbox = format!("{}.", link.client.new_inbox());
        let answers = link.client.subscribe(format!("{inbox}*")).await.map_err(|source| {
            Error::with_source(ErrorKind::Unavailable, "the publish inbox was refused", source)
        })?;
        let at = inbox.len();
        let window = Arc::new(Window::new(inbox));
        let reader = AnswerReader::new(link.clone(), window.clone(), at);
        let task = Mutex::new(Some(tokio::spawn(reader.run(answers))));
        Ok(Self {
            link,
            window,
            places: Arc::new(Semaphore::new(WINDOW)),
            bytes: Arc::new(Semaphore::new(WINDOW_KIB)),
            task,
            facts: KnownFacts::default(),
        })
    }

    /// See [`crate::driver::Driver::submit`].
    pub(super) async fn submit(
        &self,
        stream: &StreamName,
        message: Message,
    ) -> Result<PendingReceipt> {
        if message.not_before.is_some() {
            return Box::pin(self.submit_delayed(stream, message)).await;
        }
        match self.submit_now(stream, message) {
            Attempt::Done(submitted) => submitted,
            // Rare and large: kept out of the future that every publish allocates.
            Attempt::MustWait(message) => Box::pin(self.submit_later(stream, message)).await,
        }
    }

    /// Submits without waiting; gives the message back where that cannot be.
    fn submit_now(&self, stream: &StreamName, message: Message) -> Attempt {
        if !self.link.is_connected() || !self.window.is_clear(stream, &self.link) {
            return Attempt::MustWait(message);
        }
        let one = self.places.clone().try_acquire_owned();
        let bytes = self.bytes.clone().try_acquire_many_owned(kib(&message));
        let (Ok(_one), Ok(_bytes)) = (one, bytes) else { return Attempt::MustWait(message) };
        let place = Place { _one, _bytes };
        let (entry, outbound, receipt) = match self.reserve(stream, message, place) {
            Ok(reserved) => reserved,
            Err(error) => return Attempt::Done(Err(error)),
        };
        match self.hand_over(outbound).now_or_never() {
            Some(Ok(())) => entry.keep(),
            Some(Err(error)) => return Attempt::Done(Err(not_sent(error.into()))),
            None => {
                return match entry.take_back() {
                    Some(job) => Attempt::MustWait(job.into_message()),
                    None => Attempt::Done(Err(Failure::Closed.into_error("publish"))),
                };
            }
        }
        Attempt::Done(Ok(PendingReceipt::channel(receipt)))
    }

    async fn submit_delayed(
        &self,
        stream: &StreamName,
        mut message: Message,
    ) -> Result<PendingReceipt> {
        let mut facts = self.facts.get(&self.link, stream).await?;
        if !facts.delayed {
            facts = self.facts.look(&self.link, stream).await?;
        }
        schedule::check(stream, &facts, &message)?;
        message.not_before = message.not_before.filter(|until| *until > SystemTime::now());
        self.submit_later(stream, message).await
    }

    /// What is known of a stream.
    pub(super) fn facts(&self) -> &KnownFacts {
        &self.facts
    }

    async fn submit_later(&self, stream: &StreamName, message: Message) -> Result<PendingReceipt> {
        self.link.connected().await.map_err(not_sent)?;
        self.wait_in_line(stream).await?;
        let place = self.place(&message).await?;
        let (entry, outbound, receipt) = self.reserve(stream, message, place)?;
        limited(self.hand_over(outbound)).await.map_err(not_sent)?;
        entry.keep();
        Ok(PendingReceipt::channel(receipt))
    }

    /// Enters the message in the window: the entry, what goes out, and where its receipt comes.
    fn reserve(
        &self,
        stream: &StreamName,
        message: Message,
        place: Place,
    ) -> Result<(Reserved<'_>, Outbound, oneshot::Receiver<Result<Receipt>>)> {
        let job = self.job(stream, message);
        let headers = headers_out(&job.message, job.message.id.as_deref())?;
        let payload = job.message.payload.clone().unwrap_or_default();
        let (sender, receipt) = oneshot::channel();
        let job = Outstanding { job, receipt: sender, _place: place, order: 0 };
        let (entry, subject, reply) = self.window.add(job, &self.link);
        Ok((entry, Outbound { subject, reply, headers, payload }, receipt))
    }

    async fn hand_over(&self, outbound: Outbound) -> Result<(), async_nats::PublishError> {
        let Outbound { subject, reply, headers, payload } = outbound;
        let client = &self.link.client;
        match headers {
            None => client.publish_with_reply(subject, reply, payload).await,
            Some(headers) => {
                client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
        }
    }

    /// Publishes one message and waits until it is durable: quicker than the window for one that
    /// is waited for anyway, since its answer passes through no other task.
    pub(super) async fn publish(&self, stream: &StreamName, message: Message) -> Result<Receipt> {
        if !self.window.is_clear(stream, &self.link) {
            self.wait_in_line(stream).await?;
        }
        let job = self.job(stream, message);
        let _place = self.place(&job.message).await?;
        match send(&self.link, &job).await {
            Ok(result) => result,
            Err(failure) => recover(&self.link, &job, failure).await,
        }
    }

    fn job(&self, stream: &StreamName, mut message: Message) -> Job {
        // These are retried safely only if the server can recognise them.
        let special = message.expect.is_some() || message.not_before.is_some();
        let own_id = special && message.id.is_none();
        if own_id {
            message.id = Some(self.link.unique());
        }
        let waits_on = message.not_before.map(|_| schedule::place(stream, &self.link.unique()));
        Job { stream: stream.clone(), message, own_id, waits_on, submitted: Instant::now() }
    }

    /// Waits until nothing that was submitted to the stream before would be passed.
    async fn wait_in_line(&self, stream: &StreamName) -> Result<()> {
        if self.window.clear(stream, &self.link, Instant::now() + HELD_UP_FOR).await {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the message was not sent: earlier ones to stream {stream} are still being sent \
                 again: try later"
            ),
        ))
    }

    async fn place(&self, message: &Message) -> Result<Place> {
        let closed = |_| Failure::Closed.into_error("publish");
        let _one = self.places.clone().acquire_owned().await.map_err(closed)?;
        let bytes = self.bytes.clone().acquire_many_owned(kib(message));
        Ok(Place { _one, _bytes: bytes.await.map_err(closed)? })
    }

    /// Waits until every receipt is resolved, then stops.
    pub(super) async fn close(&self) {
        let everything = u32::try_from(WINDOW).unwrap_or(u32::MAX);
        // An error means that it was closed before.
        let _all = self.places.acquire_many(everything).await;
        self.places.close();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
    }
}

/// What a message takes of the window's bytes; all of them at most, so that any goes alone.
fn kib(message: &Message) -> u32 {
    let body = message.payload.as_ref().map_or(0, Bytes::len);
    let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
    let kib = (body + headers.sum::<usize>()).div_ceil(1024).clamp(1, WINDOW_KIB);
    u32::try_from(kib).unwrap_or(u32::MAX)
}

fn not_sent(failure: Failure) -> Error {
    failure.into_error("the message was not sent")
}

impl Job {
    /// The message as it was submitted.
    fn into_message(self) -> Message {
        let Self { mut message, own_id, .. } = self;
        if own_id {
            message.id = None;
        }
        message
    }

    /// What the caller gets when the server says that it is stored.
    fn receipt(&self, sequence: u64, duplicate: bool) -> Receipt {
        // What waits has no place among the others yet.
        let sequence = if self.waits_on.is_some() { 0 } else { sequence };
        Receipt { sequence, duplicate: duplicate && !self.own_id }
    }

    /// The subject that it is published to.
    pub(super) fn subject(&self) -> &str {
        self.waits_on.as_deref().unwrap_or(self.message.subject.as_str())
    }

    /// True when sending it again cannot store it twice.
    pub(super) fn may_repeat(&self) -> bool {
        self.message.id.is_some()
    }
}

/// The server's answer to a publish.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    error: Option<async_nats::jetstream::Error>,
}

/// Reads the answer to `job`: `Ok` holds what the caller gets.
pub(super) fn read_answer(
    job: &Job,
    answer: &async_nats::Message,
) -> Result<Result<Receipt>, Failure> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Failure::NoResponders);
    }
    if let Some(sequence) = plain_answer(&job.stream, &answer.payload) {
        return Ok(Ok(job.receipt(sequence, false)));
    }
    let answer: Answer<'_> = serde_json::from_slice(&answer.payload)
        .map_err(|e| Failure::Malformed(format!("the answer to a publish is odd: {e}")))?;
    if let Some(error) = answer.error {
        return Err(error.into());
    }
    if answer.stream != job.stream.as_str() {
        return Ok(Err(Error::invalid(format!(
            "subject {} belongs to stream {}, not to {}: it was stored there",
            job.message.subject, answer.stream, job.stream
        ))));
    }
    Ok(Ok(job.receipt(answer.seq, answer.duplicate)))
}

/// True for what a stream answers, or the server in its place: once for each message. Others may
/// listen on its subject too and answer what they like.
fn is_of_the_stream(status: Option<StatusCode>, payload: &[u8]) -> bool {
    let starts = |start: &[u8]| payload.starts_with(start);
    status == Some(StatusCode::NO_RESPONDERS) || starts(br#"{"stream":"#) || starts(br#"{"error":"#)
}

/// The sequence in `{"stream":"S","seq":7}`, the answer that nearly every publish gets (older
/// servers put a space after the comma). Anything else is for the parser, which costs
/// several times as much.
fn plain_answer(stream: &StreamName, answer: &[u8]) -> Option<u64> {
    let rest = answer.strip_prefix(br#"{"stream":""#)?.strip_prefix(stream.as_str().as_bytes())?;
    let rest = rest.strip_prefix(b"\",")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest);
    let digits = rest.strip_prefix(br#""seq":"#)?.strip_suffix(b"}")?;
    let plain = digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| plain)?.parse().ok()
}

/// The one task behind the window.
struct AnswerReader {
    link: Arc<Link>,
    window: Arc<Window>,
    /// Where the ticket begins in a reply subject.
    at: usize,
    /// What was answered, and waits to be told.
    answered: Vec<(Outstanding, Result<Receipt>)>,
    /// Bounded by the window, whose places the tasks hold.
    recovering: JoinSet<()>,
}

impl AnswerReader {
    fn new(link: Arc<Link>, window: Arc<Window>, at: usize) -> Self {
        let answered = Vec::with_capacity(ANSWERS_AT_ONCE);
        Self { link, window, at, answered, recovering: JoinSet::new() }
    }

    async fn run(mut self, mut answers: Subscriber) {
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! { biased;
                _ = sweep.tick() => {
                    let Overdue { lost, lanes } = self.window.overdue(&self.link);
                    lost.into_iter().for_each(|job| self.recover(job, Failure::Lost));
                    lanes.into_iter().for_each(|stream| self.send_again(stream));
                    while self.recovering.try_join_next().is_some() {}
                }
                answer = answers.next() => {
                    let Some(answer) = answer else { return };
                    self.take(&answer);
                    self.drain(&mut answers);
                    // A turn for the connection, which hands over one by one what arrived
                    // together: who waits wakes up once for all of that.
                    tokio::task::yield_now().await;
                    self.drain(&mut answers);
                    self.tell();
                }
            }
        }
    }

    /// Takes what is here already.
    fn drain(&mut self, answers: &mut Subscriber) {
        while self.answered.len() < ANSWERS_AT_ONCE
            && let Some(Some(answer)) = answers.next().now_or_never()
        {
            self.take(&answer);
        }
    }

    fn take(&mut self, answer: &async_nats::Message) {
        let ticket = answer.subject.as_str().get(self.at..).and_then(|t| t.parse().ok());
        let last = is_of_the_stream(answer.status, &answer.payload);
        let Some(job) = ticket.and_then(|ticket| self.window.take(ticket, last)) else { return };
        match read_answer(&job.job, answer) {
            Ok(result) => self.answered.push((job, result)),
            Err(failure) => self.recover(job, failure),
        }
    }

    /// The last one first: who waits for the oldest wakes up once, and finds all the others there.
    fn tell(&mut self) {
        self.answered.drain(..).rev().for_each(|(job, result)| job.resolve(result));
    }

    fn recover(&mut self, job: Outstanding, failure: Failure) {
        let link = self.link.clone();
        if !is_sent_again(&job.job, &failure) {
            self.recovering.spawn(async move {
                let result = recover(&link, &job.job, failure).await;
                job.resolve(result);
            });
            return;
        }
        let stream = job.job.stream.clone();
        if self.window.line_up(job, failure) {
            self.send_again(stream);
        }
    }

    /// Sends again what is lined up for the stream, one after another.
    fn send_again(&mut self, stream: StreamName) {
        let (link, window) = (self.link.clone(), self.window.clone());
        self.recovering.spawn(async move {
            while let Some((job, failure)) = window.next_in_line(&stream) {
                let result = recover(&link, &job.job, failure).await;
                job.resolve(result);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_answer_is_not_of_the_stream() {
        let of_the_stream = |text: &str| is_of_the_stream(None, text.as_bytes());
        assert!(of_the_stream(r#"{"stream":"S", "seq":7}"#));
        assert!(of_the_stream(r#"{"error":{"code":503},"stream":"S","seq":0}"#));
        assert!(is_of_the_stream(Some(StatusCode::NO_RESPONDERS), b""));
        assert!(!of_the_stream("") && !of_the_stream("thanks") && !of_the_stream(r#"{"ok":1}"#));
    }

    #[test]
    fn only_the_plain_answer_is_read_without_a_parser() {
        let read = |answer: &str| plain_answer(&StreamName::new("S").unwrap(), answer.as_bytes());
        assert_eq!(read(r#"{"stream":"S","seq":7}"#), Some(7));
        assert_eq!(read(r#"{"stream":"S", "seq":18446744073709551615}"#), Some(u64::MAX));
        for other in [
            r#"{"stream":"S", "seq":7,"duplicate": true}"#,
            r#"{"stream":"S","seq":7,"duplicate": true}"#,
            r#"{"stream":"S","domain":"d","seq":7}"#,
            r#"{"stream":"S2","seq":7}"#,
            r#"{"stream":"T","seq":7}"#,
            r#"{"stream":"S","seq":}"#,
            r#"{"stream":"S","seq":-7}"#,
            r#"{"error":{"code":503},"stream":"S", "seq":7}"#,
            "",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
