//! What a stream does with a message that is published: checks it, makes room, stores or delays it.

use std::time::SystemTime;

use super::clock::Now;
use super::log::{content_bytes, message_bytes};
use super::stream::StreamState;
use super::unit::Planned;
use crate::config::{StreamConfig, WhenFull};
use crate::error::{Error, ErrorKind, Result};
use crate::message::{Expect, Message, Receipt};
use crate::name::Subject;

impl StreamState {
    /// Checks and stores a message in one step.
    pub(super) fn publish(&mut self, message: Message, now: Now) -> Result<Receipt> {
        if let Some(receipt) = self.check(&message, &Planned::default(), now)? {
            return Ok(receipt);
        }
        match message.not_before.filter(|until| *until > now.time) {
            None => {
                self.make_room(1, message_bytes(&message));
                Ok(self.store(message, now))
            }
            Some(until) => Ok(self.delay(message, until, now)),
        }
    }

    /// What speaks against storing the message after what is `planned`; the receipt of an earlier
    /// one with its id.
    pub(super) fn check(
        &mut self,
        message: &Message,
        planned: &Planned,
        now: Now,
    ) -> Result<Option<Receipt>> {
        let (name, subject) = (&self.config.name, &message.subject);
        if !self.config.subjects.iter().any(|filter| filter.matches(subject.as_str())) {
            return Err(Error::invalid(format!(
                "stream {name} does not capture {subject}: publish to a subject it declares"
            )));
        }
        check_delay(&self.config, message)?;
        let content = content_bytes(message);
        if content > u64::from(self.config.max_message_bytes) {
            let limit = self.config.max_message_bytes;
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the message on {subject} has {content} bytes, stream {name} takes {limit}"
                ),
            ));
        }
        let window = self.config.duplicate_window;
        if let Some(id) = &message.id
            && let Some(sequence) = self.ids.find(id, now.instant, window)
        {
            return Ok(Some(Receipt { sequence, duplicate: true }));
        }
        if let Some(Expect::LastSubjectSequence(expected)) = message.expect {
            let planned = planned.last.get(subject).copied();
            let last = planned.unwrap_or_else(|| self.log.last_of(subject));
            if last != expected {
                return Err(Error::new(
                    ErrorKind::Conflict { current: Some(last) },
                    format!(
                        "{subject} has last sequence {last}, not {expected}: read it and try again"
                    ),
                ));
            }
        }
        self.check_room(message, planned)?;
        Ok(None)
    }

    /// Keeps the message out of the log until it is due.
    fn delay(&mut self, message: Message, until: SystemTime, now: Now) -> Receipt {
        if let Some(id) = &message.id {
            self.ids.remember(id, 0, now);
        }
        self.delayed.hold(Message { id: None, ..message }, until);
        // Whoever waits may have to look sooner.
        self.wake_all();
        Receipt { sequence: 0, duplicate: false }
    }

    /// Lets in what is due.
    pub(super) fn let_in(&mut self, now: Now) {
        while let Some(message) = self.delayed.next_due(now.time) {
            self.make_room(1, message_bytes(&message));
            self.store(message, now);
        }
    }

    fn store(&mut self, mut message: Message, now: Now) -> Receipt {
        let (id, subject) = (message.id.take(), message.subject.clone());
        if message.rollup {
            self.replace(&subject);
        }
        let sequence = self.log.append(message, now.time);
        if let Some(id) = id {
            self.ids.remember(&id, sequence, now);
        }
        self.arrived.notify_waiters();
        for cursor in self.cursors.values_mut() {
            cursor.arrived(sequence, subject.as_str());
        }
        Receipt { sequence, duplicate: false }
    }

    /// Takes out what the subject holds, for a message that comes in its place.
    fn replace(&mut self, subject: &Subject) {
        for sequence in self.log.of(subject) {
            for cursor in self.cursors.values_mut() {
                cursor.removed(sequence, subject.as_str());
            }
            self.log.remove(sequence);
        }
    }

    /// `Full` unless the message fits, after older ones were dropped where that is allowed.
    fn check_room(&self, message: &Message, planned: &Planned) -> Result<()> {
        let (messages, bytes) = (planned.messages + 1, planned.bytes + message_bytes(message));
        let fits = |held: u64, held_bytes: u64| {
            self.config.max_messages.is_none_or(|max| held + messages <= max)
                && self.config.max_bytes.is_none_or(|max| held_bytes + bytes <= max)
        };
        let drops = self.config.when_full == WhenFull::DropOldest;
        let held = self.log.messages() + self.delayed.messages();
        if fits(held, self.log.bytes() + self.delayed.bytes()) || drops && fits(0, 0) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Full,
            format!(
                "stream {} is full: settle or purge messages, or raise its limit",
                self.config.name
            ),
        ))
    }

    /// Drops the oldest until this much more fits; does nothing where nothing may be dropped,
    /// because then it fits already.
    pub(super) fn make_room(&mut self, messages: u64, bytes: u64) {
        if self.config.when_full == WhenFull::Refuse {
            return;
        }
        let (max_messages, max_bytes) = (self.config.max_messages, self.config.max_bytes);
        while (max_messages.is_some_and(|max| self.log.messages() + messages > max)
            || max_bytes.is_some_and(|max| self.log.bytes() + bytes > max))
            && self.log.messages() > 0
        {
            self.drop_oldest();
        }
    }
}

fn check_delay(stream: &StreamConfig, message: &Message) -> Result<()> {
    let (name, subject) = (&stream.name, &message.subject);
    match message.not_before {
        Some(_) if !stream.delayed => Err(Error::invalid(format!(
            "stream {name} takes no delayed messages: declare it with `delayed`"
        ))),
        Some(_) if message.rollup => Err(Error::invalid(format!(
            "the message on {subject} has a delay and is a rollup: drop one of them"
        ))),
        Some(_) if message.expect.is_some() => Err(Error::invalid(format!(
            "the message on {subject} has a delay and a condition: drop one of them"
        ))),
        _ => Ok(()),
    }
}
