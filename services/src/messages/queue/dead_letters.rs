//! What a subscription gave up: kept with its reason, listed, redriven in order or dropped.
//!
//! A letter is the event itself, in a stream of its own, under a subject that says whose it is,
//! where it stood, and how often it was handed out. It is kept **before** the journal lets the
//! event go, so that a crash between the two leaves both, and the event is given up once more.

use std::collections::BTreeMap;

use bus::{Error, StoredMessage, Stream, Subject, SubjectFilter};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::{StreamExt, stream};

use super::ack_id::AckId;
use super::journals::Journals;
use super::lane::{Lane, Part, Place};
use super::lanes::SIDE_BY_SIDE;
use super::source::Bodies;
use crate::limits::MAX_PULL_BYTES;
use crate::model::{Incarnation, Row, Subscription, names};
use crate::store::Store;
use crate::store::journal::KeyHash;

/// Why an event was given up: base64, because it is a client's text.
const REASON: &str = "lockgate-reason";
/// Letters that are read at once.
const READ_AT_ONCE: usize = 8;
/// A longer reason is cut.
const MAX_REASON_BYTES: usize = 1024;

/// The letters of all subscriptions. Cheap to clone.
#[derive(Clone)]
pub(super) struct DeadLetters {
    store: Store,
    stream: Stream,
}

/// One letter, as it is listed.
pub(in crate::messages) struct Letter {
    pub(in crate::messages) id: String,
    pub(in crate::messages) phase: &'static str,
    pub(in crate::messages) realm: String,
    /// In the realm's log.
    pub(in crate::messages) sequence: u64,
    pub(in crate::messages) attempts: u32,
    pub(in crate::messages) reason: String,
    /// When it was given up, milliseconds since 1970.
    pub(in crate::messages) since: std::time::SystemTime,
    /// JSON.
    pub(in crate::messages) event: Bytes,
}

/// What became of a letter that was to be redriven or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::messages) enum Moved {
    /// It is.
    Done,
    /// There is no such letter.
    Unknown,
    /// It belongs to an earlier generation, or its event is not held any more.
    Stale,
}

impl DeadLetters {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), stream: store.dead_letters.clone() }
    }

    /// Keeps an event that is given up; it is durable when this returns. `None` when there is no
    /// such event any more, which loses nothing.
    pub(super) async fn keep(
        &self,
        of: &Incarnation,
        id: &AckId,
        bodies: &Bodies,
        reason: &str,
    ) -> Result<Option<Subject>, Error> {
        let Some(event) = bodies.row(id.place.sequence).await? else { return Ok(None) };
        let subject = subject(of, id, &event)?;
        let reason = cut(reason);
        let letter =
            event.message(subject.clone())?.header(REASON, BASE64.encode(reason.as_bytes()))?;
        self.stream.publish(letter).await?;
        self.store.platform.metrics.given_up(reason);
        Ok(Some(subject))
    }

    /// Takes back a letter whose event was not given up after all.
    pub(super) async fn retract(&self, subject: &Subject) -> Result<(), Error> {
        self.stream.purge(&SubjectFilter::new(subject.as_str())?).await.map(drop)
    }

    /// The ids of all letters of a subscription's life, in the order of their events.
    async fn ids(&self, of: &Incarnation) -> Result<BTreeMap<(Place, u32), Subject>, Error> {
        let filter = SubjectFilter::new(names::dead_letters_filter(of))?;
        let subjects = self.stream.subjects(&filter).await?;
        Ok(subjects.into_iter().filter_map(|subject| Some((parse(&subject)?, subject))).collect())
    }

    /// Up to `max` letters after `after`, and whether there are more. A page ends at 4 MiB of
    /// events, so that a client can read it whatever they are.
    pub(super) async fn list(
        &self,
        of: &Incarnation,
        after: Option<&AckId>,
        max: usize,
    ) -> Result<(Vec<Letter>, bool), Error> {
        let ids = self.ids(of).await?;
        let after = after.map(|id| (id.place.clone(), id.attempt));
        let later: Vec<_> = ids
            .into_iter()
            .filter(|(id, _)| after.as_ref().is_none_or(|after| id > after))
            .collect();
        let (mut letters, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        let page = later.get(..max.min(later.len())).unwrap_or_default();
        for group in page.chunks(READ_AT_ONCE) {
            for letter in self.read(group).await? {
                bytes += letter.event.len();
                letters.push(letter);
            }
            looked_at += group.len();
            if bytes >= MAX_PULL_BYTES {
                break;
            }
        }
        Ok((letters, looked_at < later.len()))
    }

    async fn read(&self, group: &[(Id, Subject)]) -> Result<Vec<Letter>, Error> {
        let subjects: Vec<Subject> = group.iter().map(|(_, subject)| subject.clone()).collect();
        let mut held: BTreeMap<Subject, StoredMessage> = BTreeMap::new();
        for message in self.stream.last_at(&subjects, u64::MAX).await? {
            held.insert(message.subject.clone(), message);
        }
        let read = |((place, attempt), subject): &(Id, Subject)| {
            let id = AckId { place: place.clone(), attempt: *attempt };
            letter(id, held.get::<Subject>(subject)?)
        };
        Ok(group.iter().filter_map(read).collect())
    }

    /// Opens the events of letters again, in order: each is handed out before everything of its
    /// key that was not handed out yet. One answer for each id; all letters where none are named.
    pub(super) async fn redrive(
        &self,
        subscription: &Subscription,
        journals: &Journals,
        named: Option<Vec<String>>,
    ) -> Result<Vec<(String, Moved)>, Error> {
        let of = &subscription.incarnation;
        let ids = self.ids(of).await?;
        let (mut answers, mut lanes) = (Vec::new(), BTreeMap::<Lane, Vec<_>>::new());
        for (at, (text, id)) in chosen(&ids, named).into_iter().enumerate() {
            let found = id.and_then(|id| Some((ids.get(&id)?.clone(), id)));
            match found {
                None => answers.push((at, text, Moved::Unknown)),
                Some((_, (place, _))) if place.lane.generation != of.generation => {
                    answers.push((at, text, Moved::Stale));
                }
                Some((subject, (place, attempt))) => {
                    let lane = place.lane.clone();
                    lanes.entry(lane).or_default().push((at, text, place, attempt, subject));
                }
            }
        }
        for (lane, letters) in lanes {
            answers.extend(self.reopen(subscription, journals, &lane, letters).await?);
        }
        answers.sort_by_key(|(at, ..)| *at);
        Ok(answers.into_iter().map(|(_, text, moved)| (text, moved)).collect())
    }

    async fn reopen(
        &self,
        subscription: &Subscription,
        journals: &Journals,
        lane: &Lane,
        letters: Vec<(usize, String, Place, u32, Subject)>,
    ) -> Result<Vec<(usize, String, Moved)>, Error> {
        let bodies = Bodies::open(&self.store, lane).await?;
        let key = |place: Place| {
            let bodies = &bodies;
            async move {
                let event = bodies.row(place.sequence).await?;
                Ok::<_, Error>(event.map(|event| KeyHash::of(&event.topic, &event.key)))
            }
        };
        let places: Vec<Place> = letters.iter().map(|(_, _, place, ..)| place.clone()).collect();
        let keys: Vec<_> = stream::iter(places).map(key).buffered(SIDE_BY_SIDE).collect().await;
        let keys = keys.into_iter().collect::<Result<Vec<_>, Error>>()?;
        let reopened = journals
            .of(subscription, lane)
            .write(|journal| {
                // Live events follow a prefill that is settled: none of its rows may come then.
                let may_come = !journal.complete;
                for ((_, _, place, attempt, _), key) in letters.iter().zip(&keys) {
                    if let Some(key) = key.filter(|_| may_come) {
                        journal.redrive(place.sequence, key, *attempt);
                    }
                }
                may_come
            })
            .await?
            .value;
        let mut answers = Vec::with_capacity(letters.len());
        for ((at, text, _, _, subject), key) in letters.into_iter().zip(keys) {
            let moved = if reopened && key.is_some() { Moved::Done } else { Moved::Stale };
            if moved == Moved::Done {
                self.retract(&subject).await?;
            }
            answers.push((at, text, moved));
        }
        Ok(answers)
    }

    /// Removes letters for good. One answer for each id; all letters where none are named.
    pub(super) async fn discard(
        &self,
        of: &Incarnation,
        named: Option<Vec<String>>,
    ) -> Result<Vec<(String, Moved)>, Error> {
        let ids = self.ids(of).await?;
        let mut answers = Vec::new();
        for (text, id) in chosen(&ids, named) {
            let moved = match id.and_then(|id| ids.get(&id)) {
                None => Moved::Unknown,
                Some(subject) => {
                    self.retract(subject).await?;
                    Moved::Done
                }
            };
            answers.push((text, moved));
        }
        Ok(answers)
    }
}

type Id = (Place, u32);

/// The letters that are named, or all.
fn chosen(ids: &BTreeMap<Id, Subject>, named: Option<Vec<String>>) -> Vec<(String, Option<Id>)> {
    match named {
        Some(named) => {
            let read = |text: String| {
                let id = AckId::read_plain(&text).map(|id| (id.place, id.attempt));
                (text, id)
            };
            named.into_iter().map(read).collect()
        }
        None => {
            let all = |(place, attempt): &Id| {
                let id = AckId { place: place.clone(), attempt: *attempt };
                (id.plain(), Some((id.place, id.attempt)))
            };
            ids.keys().map(all).collect()
        }
    }
}

fn subject(of: &Incarnation, id: &AckId, event: &Row) -> Result<Subject, Error> {
    let of = Incarnation { generation: id.place.lane.generation, ..of.clone() };
    let (part, sequence) = (id.place.lane.phase(), id.place.sequence);
    names::dead_letter_subject(&of, part, sequence, id.attempt, &event.topic, &event.key)
}

fn parse(subject: &Subject) -> Option<Id> {
    let names::DeadLetter { generation, part, sequence, attempt, topic, .. } =
        names::parse_dead_letter_subject(subject)?;
    let part = match part {
        "prefill" => Part::Prefill,
        "live" => Part::Live(topic.realm),
        _ => return None,
    };
    Some((Place { lane: Lane { generation, part }, sequence }, attempt))
}

fn letter(id: AckId, message: &StoredMessage) -> Option<Letter> {
    let names::DeadLetter { topic, key, .. } = names::parse_dead_letter_subject(&message.subject)?;
    let reason = message.headers.get(REASON).and_then(|reason| BASE64.decode(reason.as_ref()).ok());
    let reason = reason.and_then(|reason| String::from_utf8(reason).ok()).unwrap_or_default();
    let event = Row::carried_by(topic, key, message)?;
    Some(Letter {
        phase: id.place.lane.phase(),
        realm: event.topic.realm.to_string(),
        sequence: event.sequence,
        attempts: id.attempt,
        reason,
        since: message.timestamp,
        event: event.json,
        id: id.plain(),
    })
}

fn cut(reason: &str) -> &str {
    let end =
        (0..=MAX_REASON_BYTES.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
    reason.get(..end.unwrap_or(0)).unwrap_or_default()
}
