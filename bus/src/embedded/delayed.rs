//! Messages that are not yet in their stream: each enters it when it is due.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::time::Instant;

use super::clock::Now;
use super::journal::{Change, Journal};
use super::log::message_bytes;
use crate::message::Message;
use crate::name::SubjectFilter;

/// What waits, by time; those of the same time in the order they came.
#[derive(Debug, Default)]
pub(super) struct Delayed {
    waiting: BTreeMap<(SystemTime, u64), Message>,
    taken: u64,
    bytes: u64,
    journal: Journal,
}

impl Delayed {
    pub(super) fn new(journal: Journal) -> Self {
        Self { journal, ..Self::default() }
    }

    pub(super) fn hold(&mut self, message: Message, until: SystemTime) {
        self.journal.note(|| Change::Held(until, self.taken, &message));
        self.restore(message, (until, self.taken));
    }

    /// Takes in what was held before.
    pub(super) fn restore(&mut self, message: Message, place: (SystemTime, u64)) {
        self.bytes += message_bytes(&message);
        self.waiting.insert(place, message);
        self.taken = self.taken.max(place.1 + 1);
    }

    /// Takes out the first message that is due at `time`.
    pub(super) fn next_due(&mut self, time: SystemTime) -> Option<Message> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= time)?;
        let ((until, number), message) = first.remove_entry();
        self.journal.note(|| Change::LetGo(until, number));
        self.bytes -= message_bytes(&message);
        Some(message)
    }

    /// When the next message is due.
    pub(super) fn next_at(&self, now: Now) -> Option<Instant> {
        let ((until, _), _) = self.waiting.first_key_value()?;
        Some(now.after(until.duration_since(now.time).unwrap_or_default()))
    }

    pub(super) fn messages(&self) -> u64 {
        self.waiting.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes out what matches and returns how many there were.
    pub(super) fn purge(&mut self, filter: &SubjectFilter) -> u64 {
        let before = self.messages();
        self.waiting.retain(|(until, number), message| {
            let stays = !filter.matches(message.subject.as_str());
            if !stays {
                self.journal.note(|| Change::LetGo(*until, *number));
            }
            stays
        });
        self.bytes = self.waiting.values().map(message_bytes).sum();
        before - self.messages()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_nothing_before_its_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut delayed = Delayed::default();
        for (subject, seconds) in [("c", 9), ("a", 5), ("b", 5)] {
            delayed.hold(Message::new(subject, "x").unwrap(), at(seconds));
        }
        assert_eq!((delayed.messages(), delayed.bytes()), (3, 6));
        assert!(delayed.next_due(at(4)).is_none());
        let due: Vec<_> = std::iter::from_fn(|| delayed.next_due(at(8))).collect();
        let subjects: Vec<_> = due.iter().map(|message| message.subject.as_str()).collect();
        assert_eq!(subjects, ["a", "b"]);
        assert_eq!((delayed.messages(), delayed.bytes()), (1, 2));
    }
}
