//! The messages of one stream in sequence order, and where each subject's are.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::SystemTime;

use super::journal::{Change, Journal};
use super::recent::Recent;
use super::slots::Slots;
use crate::error::Result;
use crate::headers::Headers;
use crate::message::{Message, StoredMessage};
use crate::name::{Subject, SubjectFilter};

/// A subject that had many messages keeps room for this many, and no more than it may need soon.
const SPARE_PLACES: usize = 64;

/// An append-only log from which single messages can be taken out again; it takes memory for what
/// it holds, and none for what it held.
#[derive(Debug)]
pub(super) struct Log {
    held: Slots<Held>,
    /// The highest sequence ever given.
    last: u64,
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
            Self::Whole(message) => message.bytes(),
            Self::Outline(outline) => outline.bytes,
        }
    }
}

impl Log {
    pub(super) fn new(journal: Journal) -> Self {
        Self {
            held: Slots::default(),
            last: 0,
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
        log.last = last;
        for (sequence, mut outline) in held {
            // One copy of a subject serves all its messages.
            if let Some((subject, _)) = log.by_subject.get_key_value(&outline.subject) {
                outline.subject = subject.clone();
            }
            log.by_subject.entry(outline.subject.clone()).or_default().push_back(sequence);
            log.bytes += outline.bytes;
            log.held.push(sequence, Held::Outline(Box::new(outline)));
        }
        log
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The lowest sequence held; one past the last when nothing is.
    pub(super) fn first_sequence(&self) -> u64 {
        self.held.first_from(0).map_or(self.last + 1, |(sequence, _)| sequence)
    }

    /// The highest sequence ever given; 0 before the first message.
    pub(super) fn last_sequence(&self) -> u64 {
        self.last
    }

    pub(super) fn messages(&self) -> u64 {
        self.held.len()
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
        let sequence = self.last + 1;
        let Message { subject, key, headers, payload, .. } = message;
        match self.by_subject.get_mut(&subject) {
            Some(sequences) => sequences.push_back(sequence),
            None => {
                self.by_subject.insert(subject.clone(), VecDeque::from([sequence]));
            }
        }
        let stored = StoredMessage { sequence, timestamp, subject, key, headers, payload };
        let bytes = stored.bytes();
        self.bytes += bytes;
        self.last = sequence;
        self.journal.note(|| Change::Stored(&stored, bytes));
        self.held.push(sequence, Held::Whole(Box::new(stored)));
        if let Some(record) = self.journal.record() {
            self.recent.push(sequence, bytes);
            while let Some(sequence) = self.recent.pop(|| record.readable()) {
                if let Some(held) = self.held.get_mut(sequence) {
                    outline(held);
                }
            }
        }
        sequence
    }

    pub(super) fn get(&self, sequence: u64) -> Option<&Held> {
        self.held.get(sequence)
    }

    /// The first message held at or behind `from`.
    pub(super) fn first_from(&self, from: u64) -> Option<(u64, &Held)> {
        self.held.first_from(from)
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
        self.held.first_from(0).map(|(_, held)| held.timestamp())
    }

    /// Takes the oldest message out.
    pub(super) fn remove_oldest(&mut self) {
        self.remove(self.first_sequence());
    }

    /// Takes a message out; false when it is not held.
    pub(super) fn remove(&mut self, sequence: u64) -> bool {
        let Some(removed) = self.held.remove(sequence) else { return false };
        self.bytes -= removed.bytes();
        self.forget_place(sequence, removed.subject());
        self.journal.note(|| Change::Removed(sequence));
        true
    }

    fn forget_place(&mut self, sequence: u64, subject: &Subject) {
        let Some(sequences) = self.by_subject.get_mut(subject) else { return };
        if let Ok(place) = sequences.binary_search(&sequence) {
            sequences.remove(place);
        }
        if sequences.is_empty() {
            self.by_subject.remove(subject);
        } else if sequences.capacity() > SPARE_PLACES.max(4 * sequences.len()) {
            sequences.shrink_to(2 * sequences.len());
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

    /// The sequences that the subject holds.
    pub(super) fn of(&self, subject: &Subject) -> Vec<u64> {
        self.by_subject.get(subject).map_or_else(Vec::new, |held| held.iter().copied().collect())
    }

    /// The sequence of the subject's last message held at or before `up_to`.
    pub(super) fn last_at(&self, subject: &Subject, up_to: u64) -> Option<u64> {
        last_at(self.by_subject.get(subject)?, up_to)
    }

    /// The sequence of the first message held that was taken at or after `time`; one past the
    /// last when there is none.
    pub(super) fn first_since(&self, time: SystemTime) -> u64 {
        let since = self.held.iter().find(|(_, held)| held.timestamp() >= time);
        since.map_or(self.last + 1, |(sequence, _)| sequence)
    }
}

/// The last of a subject's sequences that is not beyond `up_to`.
pub(super) fn last_at(sequences: &VecDeque<u64>, up_to: u64) -> Option<u64> {
    let last = sequences.back().copied()?;
    if last <= up_to {
        return Some(last);
    }
    let place = sequences.partition_point(|sequence| *sequence <= up_to).checked_sub(1)?;
    sequences.get(place).copied()
}

/// Leaves of a message what is needed to find it.
fn outline(held: &mut Held) {
    let (subject, timestamp) = (held.subject().clone(), held.timestamp());
    *held = Held::Outline(Box::new(Outline { subject, timestamp, bytes: held.bytes() }));
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
    fn one_old_message_keeps_nothing_of_those_behind_it() {
        let mut log = log(&["old"]);
        for _ in 0..10_000 {
            log.append(Message::new("row", "x").unwrap(), SystemTime::UNIX_EPOCH);
        }
        log.append(Message::new("row", "x").unwrap(), SystemTime::UNIX_EPOCH);
        for sequence in 2..=10_001 {
            assert!(log.remove(sequence));
        }
        assert_eq!((log.held.len(), log.held.blocks()), (2, 2));
        assert!(log.by_subject.values().all(|sequences| sequences.capacity() <= SPARE_PLACES));
        assert_eq!((log.first_sequence(), log.first_from(2).unwrap().0), (1, 10_002));
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
