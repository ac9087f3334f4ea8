//! A stream read in order without acks, over an ephemeral consumer that is made anew as often as
//! need be: the position is here, not there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::Message;
use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info};
use async_nats::jetstream::stream::RetentionPolicy;
use tokio::time::Instant;

use super::consumers::{CreateRequest, deliver_policy, set_filters};
use super::convert::parse_ack_subject;
use super::direct;
use super::link::Link;
use super::puller::{Puller, Trouble, pull_bytes};
use super::schedule;
use super::streams;
use crate::backoff::Backoff;
use crate::config::Start;
use crate::error::{Error, ErrorKind, Result};
use crate::name::{StreamName, SubjectFilter};

/// How many messages are on their way to a reader.
const BATCH: usize = 500;
/// A request for fewer bytes than a message has would never be answered: this much room is left
/// beyond its body and headers, for its subjects.
const ENVELOPE: usize = 16 << 10;
/// The server removes a consumer that was not pulled from for this long.
const INACTIVE: Duration = Duration::from_secs(30);
/// What was there at the opening may go without a word, by a purge or its age: so long after the
/// last message of it the consumer is asked whether there is any more.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// As often in a row the consumer may say that it has sent more than came.
const LOOKS_IN_FLIGHT: u32 = 4;

/// Messages of a stream, in its order, without gap or repeat.
pub(super) struct Feed {
    link: Arc<Link>,
    stream: StreamName,
    filters: Vec<SubjectFilter>,
    start: DeliverPolicy,
    /// Where to go on; unknown before the first message of a start per subject.
    resume_at: Option<u64>,
    /// Tells the stream from a later one of the same name.
    created: DateTime,
    /// What was handed out last, and when the stream took it: tells the stream from one that was
    /// put back from a backup and has other messages at the same sequences.
    last: Option<(u64, SystemTime)>,
    /// The last sequence of the stream when the feed was opened.
    opened_at: u64,
    in_step: bool,
    /// The consumer of the moment has nothing left, as far as its last message told.
    exhausted: bool,
    /// Without bodies.
    outlines: bool,
    /// How many consumers it took so far.
    made: u32,
    replicated: bool,
    live: Option<Live>,
    failures: u32,
    /// How often in a row a look found messages on their way.
    in_flight: u32,
    /// Bytes on their way at once, for the largest message at least.
    batch_bytes: usize,
    largest: usize,
}

/// The ephemeral consumer of the moment.
struct Live {
    link: Arc<Link>,
    name: String,
    puller: Puller,
    last_delivered: u64,
}

/// A message of the feed.
pub(super) struct Item {
    pub(super) message: Message,
    pub(super) sequence: u64,
    pub(super) timestamp: SystemTime,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.link.leave_behind(std::mem::take(&mut self.name));
    }
}

impl Feed {
    /// Opens a feed; where it starts is fixed when this returns.
    pub(super) async fn open(
        link: Arc<Link>,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Self> {
        Self::open_as(link, stream, filters, start, false).await
    }

    /// Opens a feed of messages without their bodies.
    pub(super) async fn outlines(
        link: Arc<Link>,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Self> {
        Self::open_as(link, stream, filters, start, true).await
    }

    async fn open_as(
        link: Arc<Link>,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
        outlines: bool,
    ) -> Result<Self> {
        let info = streams::raw_info(&link, stream).await?;
        if info.config.retention == RetentionPolicy::WorkQueue {
            return Err(Error::invalid(format!(
                "stream {stream} is a work queue, which nats:// lets only its consumers read"
            )));
        }
        let of_server = link.client.max_payload();
        let largest = match usize::try_from(info.config.max_message_size) {
            Ok(of_stream) if of_stream > 0 => of_stream.min(of_server),
            _ => of_server,
        };
        let batch_bytes = pull_bytes(&link);
        let mut feed = Self {
            link,
            stream: stream.clone(),
            filters: schedule::hide_waiting(stream, &info.config, filters)?,
            start: deliver_policy(start)?,
            resume_at: None,
            created: info.created,
            last: None,
            opened_at: info.state.last_sequence,
            in_step: false,
            exhausted: false,
            outlines,
            made: 0,
            replicated: info.config.num_replicas > 1,
            live: None,
            failures: 0,
            in_flight: 0,
            batch_bytes,
            largest,
        };
        feed.create().await?;
        Ok(feed)
    }

    /// True when everything that was there at the opening, and still is there, has been handed
    /// out. What was overwritten meanwhile comes behind it.
    pub(super) fn in_step(&self) -> bool {
        self.in_step
    }

    /// True when the consumer had nothing more to hand out behind the last message.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// True while nothing was lost on the way, so that a start per subject handed out the last of
    /// each and nothing else: made anew, it goes on with all messages.
    pub(super) fn is_unbroken(&self) -> bool {
        self.made <= 1
    }

    /// The next sequence that it has not handed out.
    pub(super) fn position(&self) -> u64 {
        self.resume_at.unwrap_or(1)
    }

    /// True when the server that it reads from may be a moment behind the leader, so that being in
    /// step with it does not mean to have seen everything.
    pub(super) fn may_lag(&self) -> bool {
        self.replicated
    }

    /// The last sequence of the stream when the feed was opened.
    pub(super) fn opened_at(&self) -> u64 {
        self.opened_at
    }

    /// Has about `max_bytes` on their way from the next request on, at most 16 MiB, and room for
    /// one message at least.
    pub(super) fn read_ahead(&mut self, max_bytes: usize) {
        let enough = pull_bytes(&self.link);
        self.batch_bytes = max_bytes.saturating_mul(2).min(enough).max(self.largest + ENVELOPE);
        if let Some(live) = &mut self.live {
            live.puller.limit(self.batch_bytes);
        }
    }

    /// The next message, or nothing by `until`. While the backend is away it waits and tries
    /// again; an error is final. May be dropped and called again at any point.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<Item>> {
        loop {
            let Some(live) = &mut self.live else {
                if !self.revive(until).await? {
                    return Ok(None);
                }
                continue;
            };
            let trouble = match live.puller.next(until).await {
                Ok(None) => return Ok(None),
                Ok(Some(pulled)) => match self.accept(pulled.message) {
                    Some(item) => return Ok(Some(item)),
                    None => String::from("a message is missing"),
                },
                Err(Trouble::Refused(why)) => {
                    let what = format!("stream {} cannot be read: {why}", self.stream);
                    return Err(Error::new(ErrorKind::Backend, what));
                }
                Err(Trouble::Closed) => {
                    let what = format!("stream {} is not read on: the bus was closed", self.stream);
                    return Err(Error::new(ErrorKind::Closed, what));
                }
                Err(trouble) => format!("{trouble:?}"),
            };
            tracing::debug!(stream = %self.stream, at = self.resume_at, trouble, "reading anew");
            self.live = None;
        }
    }

    /// The next message of what was there at the opening; nothing once it is in step, or by `until`.
    /// An error is final. May be dropped and called again at any point.
    pub(super) async fn next_initial(&mut self, until: Instant) -> Result<Option<Item>> {
        while !self.in_step {
            let look_at = until.min(Instant::now() + LOOK_AFTER);
            if let Some(item) = self.next(look_at).await? {
                return Ok(Some(item));
            }
            if Instant::now() >= until {
                break;
            }
            self.look().await?;
        }
        Ok(None)
    }

    /// Asks the consumer whether anything is left of what was there at the opening. What cannot be
    /// told is told another time.
    async fn look(&mut self) -> Result<()> {
        let Some(live) = &self.live else { return Ok(()) };
        let asked = self.link.api::<Info>(&format!("CONSUMER.INFO.{}", live.name), &()).await;
        let info = match asked {
            Ok(info) => info,
            Err(failure) if failure.is_stream_missing() => {
                return Err(streams::missing(&self.stream));
            }
            Err(failure) => {
                if failure.is_consumer_missing() {
                    self.live = None;
                }
                return Ok(());
            }
        };
        if info.delivered.consumer_sequence == live.last_delivered {
            self.in_step |= info.num_pending == 0;
            self.in_flight = 0;
            return Ok(());
        }
        self.in_flight += 1;
        if self.in_flight >= LOOKS_IN_FLIGHT {
            tracing::debug!(stream = %self.stream, "a message was lost on the way, reading anew");
            (self.live, self.in_flight) = (None, 0);
        }
        Ok(())
    }

    /// A message that is here already.
    pub(super) fn ready(&mut self) -> Option<Item> {
        let pulled = self.live.as_mut()?.puller.ready()?;
        let item = self.accept(pulled.message);
        if item.is_none() {
            self.live = None;
        }
        item
    }

    /// `None` when a message before this one was lost on the way.
    fn accept(&mut self, message: Message) -> Option<Item> {
        let live = self.live.as_mut()?;
        let ack = message.reply.as_ref().and_then(|reply| parse_ack_subject(reply.as_str()))?;
        if ack.consumer_sequence != live.last_delivered + 1 {
            return None;
        }
        live.last_delivered = ack.consumer_sequence;
        let (sequence, timestamp) = (ack.stream_sequence, ack.timestamp);
        // Under constant publishing there is always something pending, but the mark is passed.
        self.exhausted = ack.pending == 0;
        self.in_step |= self.exhausted || sequence >= self.opened_at;
        self.resume_at = Some(sequence + 1);
        self.last = Some((sequence, timestamp));
        (self.failures, self.in_flight) = (0, 0);
        Some(Item { message, sequence, timestamp })
    }

    /// Makes the consumer again where the last one stopped; false when the time is up.
    async fn revive(&mut self, until: Instant) -> Result<bool> {
        let backoff = Backoff::exponential(Duration::from_millis(50)).cap(Duration::from_secs(1));
        let again = match self.failures {
            0 => Instant::now(),
            failures => Instant::now() + backoff.delay(failures),
        };
        if again > until || !self.link.wait_connected(until).await {
            if self.link.is_closed() {
                let what = format!("stream {} is not read on: the bus was closed", self.stream);
                return Err(Error::new(ErrorKind::Closed, what));
            }
            tokio::time::sleep_until(until).await;
            return Ok(false);
        }
        tokio::time::sleep_until(again).await;
        self.failures = self.failures.saturating_add(1);
        match self.check_stream().await {
            Ok(()) => {}
            Err(error) if error.is_retryable() => return Ok(true),
            Err(error) => return Err(error),
        }
        match self.create().await {
            Ok(()) => Ok(true),
            Err(error) if error.is_retryable() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Refuses to go on with a stream that is not the one this feed began on.
    async fn check_stream(&self) -> Result<()> {
        let info = streams::raw_info(&self.link, &self.stream).await?;
        let last = info.state.last_sequence;
        let behind = self.resume_at.is_some_and(|next| next > last + 1);
        if info.created == self.created && !behind && self.holds_last().await? {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "stream {} was made anew or lost its end (sequence {last}): open it again",
            self.stream
        )))
    }

    /// False when the stream has another message where the last one was handed out; true when it
    /// has none any more.
    async fn holds_last(&self) -> Result<bool> {
        let Some((sequence, timestamp)) = self.last else { return Ok(true) };
        let query = serde_json::json!({ "seq": sequence });
        let held = direct::get_from_leader(&self.link, &self.stream, &query).await?;
        Ok(held.is_none_or(|held| held.timestamp == timestamp))
    }

    async fn create(&mut self) -> Result<()> {
        let name = format!("lg-{}", self.link.unique());
        let start = match self.resume_at {
            Some(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            None => self.start,
        };
        let mut config = Config {
            name: Some(name.clone()),
            deliver_policy: start,
            ack_policy: AckPolicy::None,
            inactive_threshold: INACTIVE,
            num_replicas: 1,
            memory_storage: true,
            headers_only: self.outlines,
            ..Config::default()
        };
        set_filters(&mut config, &self.filters);
        let stream = self.stream.as_str();
        let consumer = format!("{stream}.{name}");
        let doing = || format!("read stream {stream}");
        let puller = Puller::start(self.link.clone(), &consumer, BATCH)
            .await
            .map_err(|failure| failure.into_error(doing()))?;
        // Whatever becomes of the request, the consumer is removed with this.
        let mut live = Live { link: self.link.clone(), name: consumer, puller, last_delivered: 0 };
        live.puller.limit(self.batch_bytes);
        let request = CreateRequest { stream_name: stream, config: &config, action: "" };
        let operation = format!("CONSUMER.CREATE.{}", live.name);
        let info: Info = match self.link.api_repeated(&operation, &request).await {
            Ok(info) => info,
            Err(failure) if failure.is_stream_missing() => {
                return Err(streams::missing(&self.stream));
            }
            Err(failure) => return Err(failure.into_error(doing())),
        };
        live.last_delivered = info.delivered.consumer_sequence;
        self.made = self.made.saturating_add(1);
        self.exhausted = info.num_pending == 0;
        self.in_step |= self.exhausted;
        if self.start != DeliverPolicy::LastPerSubject && self.resume_at.is_none() {
            self.resume_at = Some(info.delivered.stream_sequence + 1);
        }
        self.live = Some(live);
        Ok(())
    }
}
