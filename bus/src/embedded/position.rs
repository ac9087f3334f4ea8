//! Where a consumer or reader stands in a log, and what it sees there.

use std::collections::VecDeque;

use super::count::count;
use super::log::Log;
use crate::config::Start;
use crate::name::SubjectFilter;

/// A cursor over the messages that match.
#[derive(Debug)]
pub(super) struct Position {
    filters: Vec<SubjectFilter>,
    /// Sequences below `next` that are still to come: the last of each subject at the start.
    first: VecDeque<u64>,
    next: u64,
}

impl Position {
    /// Resolves `start` against the log as it is now. No filter means everything.
    pub(super) fn new(log: &Log, filters: &[SubjectFilter], start: Start) -> Self {
        let end = log.last_sequence() + 1;
        let mut position = Self { filters: filters.to_vec(), first: VecDeque::new(), next: end };
        match start {
            Start::Beginning => position.next = log.first_sequence(),
            Start::New => {}
            Start::Sequence(sequence) => position.next = sequence.max(1),
            Start::Time(time) => position.next = log.first_since(time),
            Start::LastPerSubject => position.first = position.last_of_each(log),
        }
        position
    }

    /// The position as it was kept.
    #[cfg(feature = "disk")]
    pub(super) fn restore(filters: &[SubjectFilter], first: Vec<u64>, next: u64) -> Self {
        Self { filters: filters.to_vec(), first: first.into(), next }
    }

    /// The sequences that come before all others.
    pub(super) fn first(&self) -> &VecDeque<u64> {
        &self.first
    }

    /// Where it goes on once they came.
    pub(super) fn after_first(&self) -> u64 {
        self.next
    }

    fn last_of_each(&self, log: &Log) -> VecDeque<u64> {
        let all = [SubjectFilter::all()];
        let filters = if self.filters.is_empty() { &all[..] } else { &self.filters };
        let last = filters.iter().flat_map(|filter| log.matching(filter));
        let mut sequences: Vec<u64> =
            last.filter_map(|(_, sequences)| sequences.back().copied()).collect();
        sequences.sort_unstable();
        sequences.dedup();
        sequences.into()
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(subject))
    }

    /// The lowest sequence that may still come.
    pub(super) fn next(&self) -> u64 {
        self.first.front().copied().unwrap_or(self.next)
    }

    /// Steps to the next message held that matches.
    pub(super) fn advance(&mut self, log: &Log) -> Option<u64> {
        while let Some(sequence) = self.first.pop_front() {
            if log.get(sequence).is_some() {
                return Some(sequence);
            }
        }
        while let Some((sequence, message)) = log.first_from(self.next) {
            self.next = sequence + 1;
            if self.matches(message.subject().as_str()) {
                return Some(sequence);
            }
        }
        self.next = self.next.max(log.last_sequence() + 1);
        None
    }

    /// True when the message at `sequence`, if it matches, is still to come.
    pub(super) fn is_ahead(&self, sequence: u64) -> bool {
        sequence >= self.next || self.first.binary_search(&sequence).is_ok()
    }

    /// How many messages held are still to come.
    pub(super) fn remaining(&self, log: &Log) -> u64 {
        let first = self.first.iter().filter(|sequence| log.get(**sequence).is_some()).count();
        // A consumer's filters do not overlap; a reader is never asked.
        first as u64 + count(log, &self.filters, self.next)
    }
}
