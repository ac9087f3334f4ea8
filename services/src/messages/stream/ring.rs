//! The newest events of a realm, in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use bus::StoredMessage;
use bytes::Bytes;

use crate::model::{Key, LogEvent, Mark, Topic, TopicSet};

/// How many events one look goes over.
const SCAN: usize = 1024;

/// An event as every reader of the process is sent it, over whatever transport.
#[derive(Debug, PartialEq)]
pub(in crate::messages) struct Entry {
    pub(in crate::messages) sequence: u64,
    pub(in crate::messages) topic: Topic,
    pub(in crate::messages) key: Key,
    /// When the log took the message.
    pub(in crate::messages) time: SystemTime,
    /// The event, encoded once. One line.
    pub(in crate::messages) json: Bytes,
}

impl Entry {
    /// `None` for a message whose subject is not that of an event.
    pub(super) fn of(message: &StoredMessage) -> Option<Self> {
        LogEvent::from_log(message).map(|event| Self::new(event, message.timestamp))
    }

    /// The same, for those who want it only if it matches.
    pub(in crate::messages) fn matching(
        message: &StoredMessage,
        topics: &TopicSet,
    ) -> Option<Self> {
        let event = LogEvent::from_log(message)?;
        topics.matches(&event.topic).then(|| Self::new(event, message.timestamp))
    }

    fn new(event: LogEvent, time: SystemTime) -> Self {
        let json = event.to_json();
        let LogEvent { sequence, topic, key, .. } = event;
        Self { sequence, topic, key, time, json }
    }
}

/// How much the ring of a realm holds; less where many realms share what a process keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSize {
    /// Events.
    pub entries: usize,
    /// Bytes of encoded events.
    pub bytes: usize,
}

impl Default for RingSize {
    /// 4096 events, 8 MiB.
    fn default() -> Self {
        Self { entries: 4096, bytes: 8 << 20 }
    }
}

/// Every event after `from` up to `head`.
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    from: u64,
    head: Mark,
}

/// What a reader finds behind its position.
#[derive(Debug, PartialEq)]
pub(in crate::messages) enum Found {
    /// What matches, and the place up to which everything has been looked at.
    Here { entries: Vec<Arc<Entry>>, up_to: Mark },
    /// The ring begins later: catch up from the log.
    Older,
}

impl Ring {
    /// An empty ring: what comes after `head` will be here.
    pub(super) fn new(head: Mark) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, from: head.sequence, head }
    }

    pub(super) fn head(&self) -> Mark {
        self.head
    }

    /// Adds the next message of the log.
    pub(super) fn push(&mut self, message: &StoredMessage) {
        let life = self.head.life();
        if message.sequence != self.head.sequence + 1 {
            // The log dropped something before it was read: whoever stands before the hole must
            // look at the log, which tells whether anything is lost.
            *self = Self::new(Mark::bare(message.sequence - 1).in_life(life));
        }
        self.head = Mark::of(life, message.sequence, message.timestamp);
        if let Some(entry) = Entry::of(message) {
            self.bytes += entry.json.len();
            self.entries.push_back(Arc::new(entry));
        }
    }

    /// Drops the oldest until it is of this size.
    pub(super) fn shrink(&mut self, size: RingSize) {
        while (self.entries.len() > size.entries || self.bytes > size.bytes)
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.json.len();
            self.from = oldest.sequence;
        }
    }

    /// Up to `max` events after `position` that match, for a `max` above 0. Behind the head there is
    /// nothing, and `up_to` is the head.
    pub(super) fn after(&self, position: u64, topics: &TopicSet, max: usize) -> Found {
        if position < self.from {
            return Found::Older;
        }
        let first = self.entries.partition_point(|entry| entry.sequence <= position);
        let (mut entries, mut scanned) = (Vec::new(), 0);
        let (mut up_to, mut last) = (self.head, None);
        for entry in self.entries.range(first..) {
            if entries.len() >= max || scanned >= SCAN {
                up_to = last.unwrap_or(up_to);
                break;
            }
            scanned += 1;
            last = Some(Mark::of(self.head.life(), entry.sequence, entry.time));
            if topics.matches(&entry.topic) {
                entries.push(entry.clone());
            }
        }
        Found::Here { entries, up_to }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bus::{Headers, Subject};

    use super::*;
    use crate::model::Life;

    fn taken(sequence: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(sequence)
    }

    fn message(sequence: u64, topic: &str) -> StoredMessage {
        StoredMessage {
            sequence,
            timestamp: taken(sequence),
            subject: Subject::new(format!("events.{topic}.k")).unwrap(),
            key: None,
            headers: Headers::new(),
            payload: Some(Bytes::from_static(b"1")),
        }
    }

    fn here(ring: &Ring, position: u64, topics: &str, max: usize) -> Option<(Vec<u64>, u64)> {
        match ring.after(position, &TopicSet::parse(&[topics]).unwrap(), max) {
            Found::Older => None,
            Found::Here { entries, up_to } => {
                Some((entries.iter().map(|entry| entry.sequence).collect(), up_to.sequence))
            }
        }
    }

    #[test]
    fn a_reader_gets_what_matches_and_moves_over_the_rest() {
        let mut ring = Ring::new(Mark::bare(10));
        for sequence in 11..=16 {
            ring.push(&message(sequence, if sequence % 2 == 0 { "a.even" } else { "a.odd" }));
        }
        assert_eq!(here(&ring, 10, "a.*", 100), Some((vec![11, 12, 13, 14, 15, 16], 16)));
        assert_eq!(here(&ring, 10, "a.even", 2), Some((vec![12, 14], 14)));
        assert_eq!(here(&ring, 14, "a.even", 2), Some((vec![16], 16)));
        assert_eq!(here(&ring, 10, "b.*", 2), Some((vec![], 16)));
        assert_eq!(here(&ring, 16, "a.*", 2), Some((vec![], 16)));
        assert_eq!(here(&ring, 9, "a.*", 2), None);
    }

    #[test]
    fn the_place_that_was_reached_is_that_of_a_message() {
        let mut ring = Ring::new(Mark::bare(0));
        (1..=3).for_each(|sequence| ring.push(&message(sequence, "a.b")));
        for (position, max, reached) in [(0, 2, 2), (0, 9, 3), (3, 9, 3), (7, 9, 3)] {
            let topics = TopicSet::parse(&["a.*"]).unwrap();
            let Found::Here { up_to, .. } = ring.after(position, &topics, max) else { panic!() };
            let place = Mark::of(Life::default(), reached, taken(reached));
            assert_eq!(up_to, place, "{position} {max}");
        }
    }

    #[test]
    fn the_oldest_make_room_and_a_hole_begins_anew() {
        let mut ring = Ring::new(Mark::bare(0));
        (1..=3).for_each(|sequence| ring.push(&message(sequence, "a.b")));
        ring.shrink(RingSize { entries: 2, bytes: 1 << 20 });
        assert_eq!(here(&ring, 0, "a.*", 9), None);
        assert_eq!(here(&ring, 1, "a.*", 9), Some((vec![2, 3], 3)));
        ring.push(&message(7, "a.b"));
        assert_eq!(here(&ring, 3, "a.*", 9), None);
        assert_eq!(here(&ring, 6, "a.*", 9), Some((vec![7], 7)));
        ring.shrink(RingSize { entries: 2, bytes: 0 });
        assert_eq!(here(&ring, 6, "a.*", 9), None);
        assert_eq!(here(&ring, 7, "a.*", 9), Some((vec![], 7)));
    }
}
