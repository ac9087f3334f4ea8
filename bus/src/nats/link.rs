//! The connection as everything else in this backend uses it: requests with a limit, answers read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::{Client, HeaderMap, Message, Request, Subscriber};
use bytes::Bytes;
use futures_util::FutureExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::connect::{Connected, Established};
use super::failure::Failure;
use super::seek::Gates;
use crate::backoff::Backoff;
use crate::door::Door;
use crate::error::Error;
use crate::name::{StreamName, SubjectFilter};

/// A connection that was lost is back within this long, or counts as away.
const AWAY: Duration = Duration::from_secs(2);
/// How long one request may take.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// How long a request that may be repeated is repeated while nobody answers.
const REPEAT_LIMIT: Duration = Duration::from_secs(10);

/// A connection shared by everything that one [`super::Nats`] hands out.
pub(super) struct Link {
    pub(super) client: Client,
    connects: watch::Receiver<Established>,
    door: Door,
    unique: String,
    /// What the subjects of the JetStream API begin with.
    api: String,
    counter: AtomicU64,
    leftovers: mpsc::Sender<String>,
    pub(super) gates: Gates,
}

impl Link {
    /// Also returns the receiving end of [`Link::leave_behind`].
    pub(super) fn new(connected: Connected) -> (Self, mpsc::Receiver<String>) {
        let Connected { client, connects, api } = connected;
        let (leftovers, to_remove) = mpsc::channel(1024);
        let inbox = client.new_inbox();
        let unique = inbox.rsplit('.').next().unwrap_or(&inbox).to_owned();
        let (door, counter) = (Door::default(), AtomicU64::new(0));
        let gates = Gates::default();
        (Self { client, connects, door, unique, api, counter, leftovers, gates }, to_remove)
    }

    /// Text that no other process and no other call makes.
    pub(super) fn unique(&self) -> String {
        format!("{}-{}", self.unique, self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// The subject of an operation of the JetStream API.
    pub(super) fn api_subject(&self, operation: &str) -> String {
        format!("{}.{operation}", self.api)
    }

    /// Text that another process hardly makes.
    pub(super) fn short(&self) -> &str {
        let from = self.unique.len().saturating_sub(6);
        self.unique.get(from..).unwrap_or(&self.unique)
    }

    /// Changes each time the connection was established anew.
    pub(super) fn connects(&self) -> watch::Receiver<Established> {
        let mut connects = self.connects.clone();
        connects.mark_unchanged();
        connects
    }

    pub(super) fn connect_count(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// When the connection was last established, if it stands.
    pub(super) fn connected_since(&self) -> Option<Instant> {
        self.is_connected().then(|| self.connects.borrow().1)
    }

    /// Asks for the removal of an ephemeral consumer, `<stream>.<consumer>`, by a `Drop` that
    /// cannot wait. When the queue is full the server removes it after its inactivity.
    pub(super) fn leave_behind(&self, consumer: String) {
        let _ = self.leftovers.try_send(consumer);
    }

    pub(super) fn close(&self) {
        self.door.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.door.is_closed()
    }

    /// Waits a moment for a connection that was lost. An error means that nothing was sent: who
    /// waits for an answer is told soon that there is none, and tries again.
    pub(super) async fn connected(&self) -> Result<(), Failure> {
        if self.is_closed() {
            return Err(Failure::Closed);
        }
        if self.is_connected() || self.wait_connected(Instant::now() + AWAY).await {
            return Ok(());
        }
        Err(if self.is_closed() { Failure::Closed } else { Failure::Away })
    }

    pub(super) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Waits until the connection stands or the time is up; true when it stands.
    pub(super) async fn wait_connected(&self, until: Instant) -> bool {
        let mut connects = self.connects();
        loop {
            if self.is_connected() {
                return true;
            }
            // The state turns a moment before or after the event: look again soon either way.
            let look_again = until.min(Instant::now() + Duration::from_millis(100));
            let _ = tokio::time::timeout_at(look_again, connects.changed()).await;
            if Instant::now() >= until || self.is_closed() {
                return false;
            }
        }
    }

    /// Sends a request and waits for its one answer.
    pub(super) async fn request(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Message, Failure> {
        self.connected().await?;
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        // One limit over sending too: while the connection is away sending is what waits.
        let answer = tokio::time::timeout(limit, self.client.send_request(subject, request)).await;
        Ok(answer.map_err(|_elapsed| Failure::Lost)??)
    }

    /// Sends a request that may get many answers.
    pub(super) async fn ask(&self, subject: String, payload: Bytes) -> Result<Subscriber, Failure> {
        self.connected().await?;
        let ask = async {
            let inbox = self.client.new_inbox();
            let answers =
                self.client.subscribe(inbox.clone()).await.map_err(|_| Failure::Closed)?;
            self.client.publish_with_reply(subject, inbox, payload).await?;
            Ok(answers)
        };
        match tokio::time::timeout(REQUEST_LIMIT, ask).await {
            Ok(answers) => answers,
            // Nothing was sent: the client's queue is full because the server is away.
            Err(_) => Err(Failure::NoResponders),
        }
    }

    /// Calls the JetStream API once.
    pub(super) async fn api<R: DeserializeOwned>(
        &self,
        operation: &str,
        body: &impl Serialize,
    ) -> Result<R, Failure> {
        let mut body = serde_json::to_vec(body).map_err(|e| Failure::Malformed(e.to_string()))?;
        if body == b"null" {
            // Where the server wants no request body it refuses every other.
            body.clear();
        }
        let subject = self.api_subject(operation);
        read(&self.request(subject, None, body.into(), REQUEST_LIMIT).await?.payload)
    }

    /// Calls the JetStream API with something that does no harm twice, again and again while the
    /// server is away or elects a leader.
    pub(super) async fn api_repeated<R: DeserializeOwned>(
        &self,
        operation: &str,
        body: &impl Serialize,
    ) -> Result<R, Failure> {
        let deadline = Instant::now() + REPEAT_LIMIT;
        let backoff = Backoff::exponential(Duration::from_millis(50)).cap(Duration::from_secs(1));
        for attempt in 1.. {
            let failure = match self.api(operation, body).await {
                Err(failure) if failure.is_transient() || matches!(failure, Failure::Lost) => {
                    failure
                }
                answered => return answered,
            };
            let again = Instant::now() + backoff.delay(attempt);
            if again >= deadline {
                return Err(failure);
            }
            tokio::time::sleep_until(again).await;
        }
        Err(Failure::Lost)
    }

    /// Why nobody answered for a stream, if that can be told for certain: it does not exist, or
    /// it does not capture `subject`. `None`: its leader is away.
    pub(super) async fn explain(
        &self,
        stream: &StreamName,
        subject: Option<&str>,
    ) -> Option<Error> {
        let operation = format!("STREAM.INFO.{stream}");
        let info = match self.api::<jetstream::stream::Info>(&operation, &()).await {
            Ok(info) => info,
            Err(failure) if failure.is_stream_missing() => {
                return Some(Error::not_found(format!("stream {stream} does not exist")));
            }
            Err(_) => return None,
        };
        let subject = subject?;
        let captures = |filter: &String| {
            SubjectFilter::new(filter).is_ok_and(|filter| filter.matches(subject))
        };
        if info.config.subjects.iter().any(captures) {
            return None;
        }
        Some(Error::invalid(format!("stream {stream} does not capture subject {subject}")))
    }
}

/// Waits for room in the client's own queue, but not for ever: it fills while the server is away.
pub(super) async fn limited(
    publish: impl Future<Output = Result<(), async_nats::PublishError>>,
) -> Result<(), Failure> {
    let mut publish = std::pin::pin!(publish);
    // Most often there is room, and a timer would cost more than the publish.
    if let Some(done) = publish.as_mut().now_or_never() {
        return Ok(done?);
    }
    match tokio::time::timeout(REQUEST_LIMIT, publish).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Failure::NoResponders),
    }
}

/// Reads an answer of the JetStream API: an `error`, or the answer itself.
fn read<R: DeserializeOwned>(payload: &[u8]) -> Result<R, Failure> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<jetstream::Error>,
    }
    let malformed = |e: serde_json::Error| Failure::Malformed(format!("the answer is odd: {e}"));
    let refusal: Refusal = serde_json::from_slice(payload).map_err(malformed)?;
    match refusal.error {
        Some(error) => Err(error.into()),
        None => serde_json::from_slice(payload).map_err(malformed),
    }
}
