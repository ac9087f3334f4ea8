//! The logs themselves as source: per key the last event at or before the fence, in the order of
//! the logs.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use bus::{Stream, SubjectFilter};

use super::log_reader::LogReader;
use super::source::{Open, PAGE_BYTES, PAGE_ROWS, Page, Source, SourceError};
use crate::model::{Fence, Key, LogEvent, Realm, Row, Subscription, Topic, names};
use crate::store::prefill::Position;
use crate::store::{Completeness, Store};

/// Opens [`LogSource`]s.
pub(super) struct Logs;

#[async_trait]
impl Open for Logs {
    async fn open(
        &self,
        store: &Store,
        subscription: &Subscription,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(LogSource::open(store, subscription).await?))
    }
}

/// Reads the state of the logs at a fence, exactly: newer events do not hide older state, and a
/// key whose last event is a tombstone is left out.
///
/// When it is opened it learns at which sequences the state stands: eight bytes for each key, and
/// the same whenever it is asked, because a log refuses to lose history. Then it reads those
/// messages, in the order of the log.
pub(crate) struct LogSource {
    store: Store,
    logs: BTreeMap<Realm, Log>,
    total: u64,
}

struct Log {
    reader: LogReader,
    /// The last event of a key that is written as several tokens: see [`variants`].
    last: HashMap<(Topic, Key), u64>,
}

impl LogSource {
    pub(super) async fn open(
        store: &Store,
        subscription: &Subscription,
    ) -> Result<Self, SourceError> {
        let filters = |realm: &Realm| subscription.topics.filters(realm);
        Self::at(store, &subscription.fence, filters).await
    }

    /// The state of what `filters` let through of each realm, at any fence that the logs can still
    /// tell of.
    pub(crate) async fn at(
        store: &Store,
        fence: &Fence,
        filters: impl Fn(&Realm) -> Vec<SubjectFilter>,
    ) -> Result<Self, SourceError> {
        let mut logs = BTreeMap::new();
        for (realm, fence) in fence.iter().filter(|(_, fence)| **fence > 0) {
            let stream = store.log(realm).await?;
            let log = Log::open(stream, filters(realm), *fence).await?;
            check_history(store, realm).await?;
            logs.insert(realm.clone(), log);
        }
        let total = logs.values().map(|log| log.reader.len() as u64).sum();
        Ok(Self { store: store.clone(), logs, total })
    }

    /// Forgets what was read before `position`.
    fn seek(&mut self, position: &Position) {
        self.logs.retain(|realm, _| *realm >= position.realm);
        if let Some(log) = self.logs.get_mut(&position.realm) {
            log.reader.seek(position.sequence);
        }
    }
}

#[async_trait]
impl Source for LogSource {
    async fn page(&mut self, position: Option<&Position>) -> Result<Page, SourceError> {
        if let Some(position) = position {
            self.seek(position);
        }
        self.logs.retain(|_, log| !log.reader.is_at_end());
        let mut page = Page { rows: Vec::new(), scanned: 0, total: self.total, next: None };
        let Some((realm, log)) = self.logs.iter_mut().next() else { return Ok(page) };
        let (mut bytes, mut reached) = (0, 0);
        while page.scanned < PAGE_ROWS as u64 && bytes < PAGE_BYTES {
            let Some(message) = log.reader.next().await? else { break };
            bytes += super::log_reader::size(&message);
            reached = message.sequence;
            page.scanned += 1;
            page.rows.extend(log.row(LogEvent::from_log(&message)).map(Row::from));
        }
        check_history(&self.store, realm).await?;
        let (realm, ended) = (realm.clone(), log.reader.is_at_end());
        if !ended || self.logs.len() > 1 {
            page.next = Some(Position { realm, sequence: reached });
        }
        Ok(page)
    }
}

impl Log {
    async fn open(
        stream: Stream,
        filters: Vec<SubjectFilter>,
        fence: u64,
    ) -> Result<Self, SourceError> {
        let (mut sequences, mut odd) = (Vec::new(), HashMap::new());
        let tell = |subject: &str, sequence: u64| {
            sequences.push(sequence);
            if !is_plain(subject) {
                note_odd(&mut odd, subject, sequence);
            }
        };
        stream.state(&filters, fence, tell).await?;
        sequences.sort_unstable();
        sequences.dedup();
        sequences.shrink_to_fit();
        let last = variants(&stream, fence, odd).await?;
        Ok(Self { reader: LogReader::new(stream, filters, sequences), last })
    }

    /// The event, if it is the last of its key and not its end.
    fn row(&self, event: Option<LogEvent>) -> Option<LogEvent> {
        let event = event.filter(|event| !event.is_tombstone())?;
        if self.last.is_empty() {
            return Some(event);
        }
        let last = self.last.get(&(event.topic.clone(), event.key.clone()));
        last.is_none_or(|last| *last == event.sequence).then_some(event)
    }
}

/// True when a key's token can be its only one: it stands for itself.
fn is_plain(subject: &str) -> bool {
    let token = subject.rsplit('.').next().unwrap_or_default();
    token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Notes the place of a subject whose key is not written as Lockgate writes it, and the last of
/// its events so far.
fn note_odd(odd: &mut HashMap<(Topic, Key), u64>, subject: &str, sequence: u64) {
    let Ok(subject) = bus::Subject::new(subject) else { return };
    let Some((topic, key)) = names::parse_event_subject(&subject) else { return };
    let ours = names::event_subject(&topic, &key).is_ok_and(|ours| ours == subject);
    if !ours {
        let last = odd.entry((topic, key)).or_insert(sequence);
        *last = sequence.max(*last);
    }
}

/// Publishers outside Lockgate may write one key as several tokens; those are one place, and its
/// state is the last of them all. `odd` has those that Lockgate would not write.
async fn variants(
    stream: &Stream,
    fence: u64,
    mut odd: HashMap<(Topic, Key), u64>,
) -> Result<HashMap<(Topic, Key), u64>, bus::Error> {
    let ours = odd.keys().map(|(topic, key)| names::event_subject(topic, key));
    let ours: Vec<bus::Subject> = ours.collect::<Result<_, _>>()?;
    for page in ours.chunks(64) {
        for message in stream.last_at(page, fence).await? {
            let Some(place) = names::parse_event_subject(&message.subject) else { continue };
            if let Some(last) = odd.get_mut(&place) {
                *last = message.sequence.max(*last);
            }
        }
    }
    Ok(odd)
}

/// A log that has lost its beginning cannot say what the state was: a key that was published
/// only there is not even known. An admin who knows better says so.
async fn check_history(store: &Store, realm: &Realm) -> Result<(), SourceError> {
    let log = store.log_info(realm).await?;
    if store.completeness(realm, &log).await? != Completeness::Incomplete {
        return Ok(());
    }
    let first = log.first_sequence;
    Err(SourceError::Impossible(format!(
        "history-incomplete: the log of realm {realm} begins at sequence {first}, so the state of \
         its keys is not known: publish every key anew, run lockgate realms accept-history \
         {realm} and prefill again, or register without prefill"
    )))
}
