//! The messages of one stream in sequence order, and where each subject's are.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::SystemTime;

use super::journal::{Change, Journal};
use super::recent::Recent;
use crate::error::Result;
use crate::headers::Headers;
use crate::message::{Message, StoredMessage};
use crate::name::{Subject, SubjectFilter};

/// An append-only log from which single messages can be taken out again.
///
/// A slot per sequence makes every look-up an index; a message that was taken out leaves an empty
/// slot of two words until everything before it is gone too.
#[derive(Debug)]
pub(super) struct Log {
    slots: VecDeque<Option<Held>>,
    /// The sequence of the first slot. The first slot is never an empty one.
    first: u64,
    held: u64,
    bytes: u64,
    by_subject: BTreeMap<Subject, VecDeque<u64>>,
    journal: Journal,
    /// What is in memory of a log that is kept elsewhere too.
    recent: Recent,
}

/// A message as the log has it.
#[derive(Debug)]
pub(super) enum Held {
    /// All of it.
    Whole(Box<StoredMessage>),
    /// What is needed to find it; the rest is read back.
    Outline(Box<Outline>),
}

/// What a log knows of a message whose body is elsewhere.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) subject: Subject,
    pub(super) timestamp: SystemTime,
    pub(super) bytes: u64,
}

impl Held {
    pub(super) fn subject(&self) -> &Subject {
        match self {
            Self::Whole(message) => &message.subject,
            Self::Outline(outline) => &outline.subject,
        }
    }

    pub(super) fn timestamp(&self) -> SystemTime {
        match self {
            Self::Whole(message) => message.timestamp,
            Self::Outline(outline) => outline.timestamp,
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Whole(message) => stored_bytes(message),
            Self::Outline(outline) => outline.bytes,
        }
    }
}

impl Log {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 1,
            held: 0,
            bytes: 0,
            by_subject: BTreeMap::new(),
            journal,
            recent: Recent::default(),
        }
    }

    /// The log as it was kept: `held` in order, none above `last`.
    #[cfg(feature = "disk")]
    pub(super) fn restore(journal: Journal, last: u64, held: Vec<(u64, Outline)>) -> Self {
        let mut log = Self::new(journal);
        log.first = held.first().map_or(last + 1, |(sequence, _)| *sequence);
        for (sequence, mut outline) in held {
            while log.last_sequence() + 1 < sequence {
                log.slots.push_back(None);
            }
            // One copy of a subject serves all its messages.
            if let Some((subject, _)) = log.by_subject.get_key_value(&outline.subject) {
                outline.subject = subject.clone();
            }
            log.by_subject.entry(outline.subject.clone()).or_default().push_back(sequence);
            log.bytes += outline.bytes;
            log.held += 1;
            log.slots.push_back(Some(Held::Outline(Box::new(outline))));
        }
        while log.last_sequence() < last {
            log.slots.push_back(None);
        }
        log
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The lowest sequence held; one past the last when nothing is.
    pub(super) fn first_sequence(&self) -> u64 {
        self.first
    }

    /// The highest sequence ever given; 0 before the first message.
    pub(super) fn last_sequence(&self) -> u64 {
        self.first + self.slots.len() as u64 - 1
    }

    pub(super) fn messages(&self) -> u64 {
        self.held
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many subjects hold a message.
    pub(super) fn subjects(&self) -> usize {
        self.by_subject.len()
    }

    /// Takes the message in and returns its sequence.
    pub(super) fn append(&mut self, message: Message, timestamp: SystemTime) -> u64 {
        let sequence = self.last_sequence() + 1;
        let Message { subject, key, headers, payload, .. } = message;
        match self.by_subject.get_mut(&subject) {
            Some(sequences) => sequences.push_back(sequence),
            None => {
                self.by_subject.insert(subject.clone(), VecDeque::from([sequence]));
            }
        }
        let stored = StoredMessage { sequence, timestamp, subject, key, headers, payload };
        let bytes = stored_bytes(&stored);
        self.bytes += bytes;
        self.held += 1;
        self.journal.note(|| Change::Stored(&stored, bytes));
        self.slots.push_back(Some(Held::Whole(Box::new(stored))));
        if let Some(record) = self.journal.record() {
            self.recent.push(sequence, bytes);
            while let Some(sequence) = self.recent.pop(|| record.readable()) {
                let slot = sequence.checked_sub(self.first).and_then(|slot| slot.try_into().ok());
                outline(slot.and_then(|slot: usize| self.slots.get_mut(slot)));
            }
        }
        sequence
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Held> {
        let slot = sequence.checked_sub(self.first)?;
        self.slots.get(usize::try_from(slot).ok()?)?.as_ref()
    }

    /// The whole message at `sequence`, if it is held. Fails where it must be read back and cannot.
    pub(super) fn read(&self, sequence: u64) -> Result<Option<StoredMessage>> {
        match self.get(sequence) {
            None => Ok(None),
            Some(Held::Whole(message)) => Ok(Some(StoredMessage::clone(message))),
            Some(Held::Outline(outline)) => {
                let message = StoredMessage {
                    sequence,
                    timestamp: outline.timestamp,
                    subject: outline.subject.clone(),
                    key: None,
                    headers: Headers::new(),
                    payload: None,
                };
                self.journal.record().map(|record| record.read_back(message)).transpose()
            }
        }
    }

    /// When the oldest message held was taken.
    pub(super) fn oldest(&self) -> Option<SystemTime> {
        self.slots.front()?.as_ref().map(Held::timestamp)
    }

    /// Takes the oldest message out.
    pub(super) fn remove_oldest(&mut self) {
        self.remove(self.first);
    }

    /// Takes a message out; false when it is not held.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let Some(removed) = sequence
            .checked_sub(self.first)
            .and_then(|slot| self.slots.get_mut(usize::try_from(slot).ok()?))
            .and_then(Option::take)
        else {
            return false;
        };
        self.held -= 1;
        self.bytes -= removed.bytes();
        self.forget_place(sequence, removed.subject());
        self.journal.note(|| Change::Removed(sequence));
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        true
    }

    fn forget_place(&mut self, sequence: u64, subject: &Subject) {
        let Some(sequences) = self.by_subject.get_mut(subject) else { return };
        if let Ok(place) = sequences.binary_search(&sequence) {
            sequences.remove(place);
        }
        if sequences.is_empty() {
            self.by_subject.remove(subject);
        }
    }

    /// Takes out every message that matches and returns how many there were.
    pub(super) fn purge(&mut self, filter: &SubjectFilter) -> u64 {
        let sequences: Vec<u64> =
            self.matching(filter).flat_map(|(_, sequences)| sequences).copied().collect();
        sequences.into_iter().filter(|sequence| self.remove(*sequence)).count() as u64
    }

    /// Every subject that matches with the sequences it holds, sorted by subject.
    pub(super) fn matching<'a>(
        &'a self,
        filter: &'a SubjectFilter,
    ) -> impl Iterator<Item = (&'a Subject, &'a VecDeque<u64>)> {
        let prefix = literal_prefix(filter.as_str());
        // Subjects sort by bytes, so that all with the prefix stand together.
        let from = Subject::new(prefix).map_or(Bound::Unbounded, Bound::Included);
        self.by_subject
            .range((from, Bound::Unbounded))
            .take_while(move |(subject, _)| subject.as_str().starts_with(prefix))
            .filter(|(subject, _)| filter.matches(subject.as_str()))
    }

    /// The sequence of the subject's last message; 0 when it has none.
    pub(super) fn last_of(&self, subject: &Subject) -> u64 {
        self.by_subject.get(subject).and_then(VecDeque::back).copied().unwrap_or(0)
    }

    /// The sequence of the subject's last message held at or before `up_to`.
    pub(super) fn last_at(&self, subject: &Subject, up_to: u64) -> Option<u64> {
        let sequences = self.by_subject.get(subject)?;
        let place = sequences.partition_point(|sequence| *sequence <= up_to).checked_sub(1)?;
        sequences.get(place).copied()
    }

    /// The sequence of the first message held that was taken at or after `time`; one past the
    /// last when there is none.
    pub(super) fn first_since(&self, time: SystemTime) -> u64 {
        let mut slots = self.slots.iter();
        let is_since = |slot: &Option<Held>| slot.as_ref().is_some_and(|m| m.timestamp() >= time);
        let place = slots.position(is_since).unwrap_or(self.slots.len());
        self.first + place as u64
    }
}

/// Leaves of a message what is needed to find it.
fn outline(slot: Option<&mut Option<Held>>) {
    if let Some(Some(held)) = slot {
        let (subject, timestamp) = (held.subject().clone(), held.timestamp());
        *held = Held::Outline(Box::new(Outline { subject, timestamp, bytes: held.bytes() }));
    }
}

/// What a message costs against a stream's limit on bytes.
pub(super) fn message_bytes(message: &Message) -> u64 {
    content_bytes(message) + message.subject.as_str().len() as u64
}

/// What a message costs against the limit on one message: all but its subject.
pub(super) fn content_bytes(message: &Message) -> u64 {
    let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
    let body = message.payload.as_ref().map_or(0, bytes::Bytes::len);
    let key = message.key.as_ref().map_or(0, bytes::Bytes::len);
    (headers.sum::<usize>() + body + key) as u64
}

fn stored_bytes(message: &StoredMessage) -> u64 {
    let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
    let body = message.payload.as_ref().map_or(0, bytes::Bytes::len);
    let key = message.key.as_ref().map_or(0, bytes::Bytes::len);
    (headers.sum::<usize>() + body + key + message.subject.as_str().len()) as u64
}

/// The tokens of a filter before its first wildcard, without the dot behind them.
fn literal_prefix(filter: &str) -> &str {
    let wildcard = filter.find(['*', '>']).unwrap_or(filter.len());
    filter.get(..wildcard).unwrap_or_default().trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(subjects: &[&str]) -> Log {
        let mut log = Log::new(Journal::default());
        for subject in subjects {
            log.append(Message::new(subject, "x").unwrap(), SystemTime::UNIX_EPOCH);
        }
        log
    }

    fn filter(filter: &str) -> SubjectFilter {
        SubjectFilter::new(filter).unwrap()
    }

    #[test]
    fn sequences_go_on_after_everything_is_gone() {
        let mut log = log(&["a", "b"]);
        assert_eq!(log.purge(&SubjectFilter::all()), 2);
        assert_eq!((log.first_sequence(), log.last_sequence(), log.messages()), (3, 2, 0));
        assert_eq!(log.bytes(), 0);
        assert_eq!(log.append(Message::new("a", "x").unwrap(), SystemTime::UNIX_EPOCH), 3);
        assert_eq!(log.first_sequence(), 3);
    }

    #[test]
    fn a_hole_in_the_middle_keeps_the_rest_in_place() {
        let mut log = log(&["a", "b", "a", "c"]);
        assert!(log.remove(2) && !log.remove(2) && !log.remove(9) && !log.remove(0));
        assert_eq!(log.first_sequence(), 1);
        assert!(log.get(2).is_none());
        assert_eq!(log.get(4).unwrap().subject().as_str(), "c");
        assert!(log.remove(1));
        assert_eq!(log.first_sequence(), 3, "the hole goes with what was before it");
    }

    #[test]
    fn newer_messages_do_not_hide_the_state_of_a_sequence() {
        let log = log(&["a", "b", "a", "a"]);
        let (a, b) = (Subject::new("a").unwrap(), Subject::new("b").unwrap());
        assert_eq!(log.last_at(&a, 2), Some(1));
        assert_eq!(log.last_at(&a, 3), Some(3));
        assert!(log.last_at(&b, 1).is_none());
        assert_eq!((log.last_of(&a), log.last_of(&Subject::new("z").unwrap())), (4, 0));
    }

    #[test]
    fn matching_subjects_are_found_by_their_prefix() {
        let log = log(&["a.b", "a-b.c", "a.c.d", "ab.c", "a"]);
        let found = |f: &str| -> Vec<String> {
            log.matching(&filter(f)).map(|(subject, _)| subject.to_string()).collect()
        };
        assert_eq!(found("a.>"), ["a.b", "a.c.d"]);
        assert_eq!(found("*.c"), ["a-b.c", "ab.c"]);
        assert_eq!(found("a"), ["a"]);
        assert_eq!(found(">").len(), 5);
    }
}
