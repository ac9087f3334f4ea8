//! Reading a lane: the rows of a prefill, or what follows the fence in a realm's log.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::{Error, Reader, Start, StoredMessage, Stream};
use tokio::time::Instant;

use super::lane::{Lane, Part};
use super::table::{Arrived, Body};
use crate::limits::STREAM_PAGE_BYTES;
use crate::messages::stream::{CatchUp, Entry, Feed, Feeds, Found, PAGE, Page as CaughtUp};
use crate::messages::watched::Follower;
use crate::model::{
    History, Incarnation, LogEvent, Mark, Realm, Row, Subscription, TopicSet, names,
};
use crate::store::Store;
use crate::store::journal::{KeyHash, Stamp};
use crate::store::prefill::rows_gone;

/// One read waits at most this long.
pub(super) const WAIT: Duration = Duration::from_secs(5);
/// Events taken from the shared ring at once.
const BATCH: usize = 1024;

/// A part of a lane.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) events: Vec<Arrived>,
    /// Everything up to here was read, what is of no interest included.
    pub(super) up_to: u64,
    /// There is more at once.
    pub(super) more: bool,
    /// Nothing follows, ever.
    pub(super) ended: bool,
    /// The log does not hold what comes next any more.
    pub(super) lost: Option<String>,
}

/// Reads one lane in order. A read that is dropped loses nothing but its place: open another.
pub(super) enum Source {
    Rows(Box<Rows>),
    Log(Box<Log>),
}

impl Source {
    /// Opens the lane after `place`, which is held against the log.
    pub(super) async fn open(
        feeds: &Feeds,
        of: &Subscription,
        lane: &Lane,
        place: Mark,
    ) -> Result<Self, Error> {
        Ok(match &lane.part {
            Part::Prefill => {
                Self::Rows(Box::new(Rows::open(&feeds.store, of, place.sequence).await?))
            }
            Part::Live(realm) => Self::Log(Box::new(Log::open(feeds, of, realm, place).await?)),
        })
    }

    /// What comes next, waiting for it for a while.
    pub(super) async fn next(&mut self) -> Result<Page, Error> {
        match self {
            Self::Rows(rows) => rows.next(WAIT).await,
            Self::Log(log) => log.next(WAIT).await,
        }
    }

    /// What comes next up to a sequence that is known to be there, or to have been.
    pub(super) async fn next_up_to(&mut self, last: u64) -> Result<Page, Error> {
        let mut page = match self {
            Self::Rows(rows) => rows.next(Duration::from_secs(1)).await?,
            Self::Log(log) => log.next(Duration::from_secs(1)).await?,
        };
        let stream = match self {
            Self::Rows(rows) => rows.store.prefill.clone(),
            Self::Log(log) => log.stream.clone(),
        };
        if page.events.is_empty() && page.up_to < last && stream.get(last).await?.is_none() {
            page.up_to = last;
        }
        Ok(page)
    }
}

/// The rows of one prefill, up to its manifest.
pub(super) struct Rows {
    store: Store,
    reader: Reader,
    of: Incarnation,
    position: u64,
}

impl Rows {
    async fn open(store: &Store, of: &Subscription, position: u64) -> Result<Self, Error> {
        let of = of.incarnation.clone();
        let (filter, start) = (names::prefill_filter(&of)?, Start::Sequence(position + 1));
        let reader = store.prefill.reader(&[filter], start).await?;
        Ok(Self { store: store.clone(), reader, of, position })
    }

    async fn next(&mut self, wait: Duration) -> Result<Page, Error> {
        let end = names::manifest_subject(&self.of)?;
        let mut page = Page { up_to: self.position, ..Page::default() };
        let messages = self.reader.next_within(PAGE, STREAM_PAGE_BYTES, wait).await?;
        if messages.is_empty() {
            // They were to come, and the manifest behind them.
            page.lost = rows_gone(&self.store, &self.of).await?.map(String::from);
        }
        for message in messages {
            page.up_to = message.sequence;
            if message.subject == end {
                page.ended = true;
                break;
            }
            page.events.extend(row(&message));
        }
        self.position = page.up_to;
        page.more = !page.events.is_empty() && !page.ended;
        Ok(page)
    }
}

/// A realm's log: from the ring that all readers of the process share, or, where that begins
/// later, from the log itself.
pub(super) struct Log {
    feeds: Feeds,
    stream: Stream,
    realm: Realm,
    topics: TopicSet,
    feed: Arc<Feed>,
    changes: Follower<()>,
    catch_up: Option<CatchUp>,
    /// Everything up to here was read.
    place: Mark,
    /// The feed's epoch in which the place was held against the log.
    checked: Option<u64>,
}

impl Log {
    async fn open(
        feeds: &Feeds,
        of: &Subscription,
        realm: &Realm,
        place: Mark,
    ) -> Result<Self, Error> {
        let stream = feeds.store.log(realm).await?;
        let feed = feeds.of(realm);
        Ok(Self {
            feeds: feeds.clone(),
            stream,
            realm: realm.clone(),
            topics: of.topics.clone(),
            changes: feed.changes(),
            feed,
            catch_up: None,
            place,
            checked: None,
        })
    }

    async fn next(&mut self, wait: Duration) -> Result<Page, Error> {
        let until = Instant::now() + wait;
        loop {
            // Marked as seen before the look, so that a change after it is not missed.
            self.changes.mark_seen();
            let epoch = self.feed.epoch();
            if let Some(lost) = self.check(epoch).await? {
                return Ok(lost);
            }
            let found = self.feed.after(self.place.sequence, &self.topics, BATCH);
            if self.feed.epoch() != epoch {
                continue;
            }
            let page = match found {
                Some(Found::Here { entries, up_to }) if up_to.sequence > self.place.sequence => {
                    (self.catch_up, self.place) = (None, up_to);
                    let more = entries.len() >= BATCH;
                    let events = entries.iter().map(|entry| arrived(entry)).collect();
                    Page { events, up_to: up_to.sequence, more, ..Page::default() }
                }
                Some(Found::Older) => self.older().await?,
                Some(Found::Here { .. }) | None => {
                    self.catch_up = None;
                    if tokio::time::timeout_at(until, self.changes.changed()).await.is_ok() {
                        continue;
                    }
                    Page { up_to: self.place.sequence, ..Page::default() }
                }
            };
            return Ok(page);
        }
    }

    /// Holds the place against the log, once for each log that the feed reads. What it gives says
    /// that the log is not the one that was read.
    async fn check(&mut self, epoch: u64) -> Result<Option<Page>, Error> {
        if self.checked == Some(epoch) {
            return Ok(None);
        }
        self.catch_up = None;
        Ok(match self.feeds.store.check_mark(&self.realm, &self.place).await? {
            History::Same => {
                self.checked = Some(epoch);
                None
            }
            History::Changed { why } => Some(self.lost(why)),
            History::Purged { first_sequence } => Some(self.begins_at(first_sequence)),
        })
    }

    fn begins_at(&self, first_sequence: u64) -> Page {
        self.lost(format!("the log of {} begins at {first_sequence} now", self.realm))
    }

    fn lost(&self, why: String) -> Page {
        Page { up_to: self.place.sequence, lost: Some(why), ..Page::default() }
    }

    async fn older(&mut self) -> Result<Page, Error> {
        let catch_up = match &mut self.catch_up {
            Some(catch_up) => catch_up,
            none => none.insert(CatchUp::open(&self.feeds.store, &self.realm, self.place).await?),
        };
        let caught_up = match catch_up.next(&self.feeds.catch_ups).await {
            Ok(page) => page,
            Err(error) => {
                self.catch_up = None;
                return Err(error);
            }
        };
        Ok(match caught_up {
            CaughtUp::Lost { first_sequence } => self.begins_at(first_sequence),
            CaughtUp::Changed { why } => self.lost(why),
            CaughtUp::Messages(messages) => {
                if let Some(last) = messages.last() {
                    self.place = Mark::of(self.place.life(), last.sequence, last.timestamp);
                }
                let up_to = self.place.sequence;
                let matching = |m| Entry::matching(m, &self.topics);
                let events = messages.iter().filter_map(matching);
                let events = events.map(|entry| arrived(&entry)).collect();
                let more = self.feed.head().is_some_and(|head| head.sequence > up_to);
                Page { events, up_to, more, ..Page::default() }
            }
        })
    }
}

fn arrived(entry: &Entry) -> Arrived {
    Arrived {
        sequence: entry.sequence,
        key: KeyHash::of(&entry.topic, &entry.key),
        stamp: Stamp { time_ms: millis(entry.time) },
        body: Body { sequence: entry.sequence, event: entry.json.clone() },
    }
}

fn row(message: &StoredMessage) -> Option<Arrived> {
    let row = Row::read(message)?;
    let body = Body { sequence: row.sequence, event: row.json };
    let key = KeyHash::of(&row.topic, &row.key);
    Some(Arrived { sequence: message.sequence, key, stamp: Stamp::default(), body })
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads single events of a lane, when their turn has come.
#[derive(Clone)]
pub(super) struct Bodies {
    stream: Stream,
    is_log: bool,
}

impl Bodies {
    pub(super) async fn open(store: &Store, lane: &Lane) -> Result<Self, Error> {
        Ok(match &lane.part {
            Part::Prefill => Self { stream: store.prefill.clone(), is_log: false },
            Part::Live(realm) => Self { stream: store.log(realm).await?, is_log: true },
        })
    }

    /// The event at a sequence; `None` when the stream does not hold it any more.
    pub(super) async fn row(&self, sequence: u64) -> Result<Option<Row>, Error> {
        let Some(message) = self.stream.get(sequence).await? else { return Ok(None) };
        Ok(match self.is_log {
            true => LogEvent::from_log(&message).map(Row::from),
            false => Row::read(&message),
        })
    }

    /// The same, as a client gets to see it.
    pub(super) async fn get(&self, sequence: u64) -> Result<Option<Body>, Error> {
        let body = |row: Row| Body { sequence: row.sequence, event: row.json };
        Ok(self.row(sequence).await?.map(body))
    }
}
