//! Reads chosen messages of a log, in order.

use std::collections::VecDeque;
use std::time::Duration;

use bus::{Error, Reader, Start, StoredMessage, Stream, SubjectFilter};
use futures_util::{StreamExt, TryStreamExt};

use super::source::SourceError;

/// Up to here they are asked for one by one, which needs no reader.
const FEW: usize = 256;
/// Messages that are read or asked for together, while they are small.
const MOST: usize = 256;
const LEAST: usize = 8;
/// And how many bytes of them, by the largest seen lately.
const BYTES: usize = 1 << 20;
/// How long a read waits before they are asked for one by one.
const WAIT: Duration = Duration::from_secs(2);

/// Reads the messages at some sequences.
///
/// Most of them are the last of their subject to this day, and a reader over those gives them in
/// one pass. What it leaves out was written again since, and is asked for by its sequence.
pub(super) struct LogReader {
    stream: Stream,
    filters: Vec<SubjectFilter>,
    /// Sorted.
    sequences: Vec<u64>,
    /// How many of them are read.
    read: usize,
    pass: Pass,
    /// What was read ahead, in order.
    ahead: VecDeque<StoredMessage>,
    /// The bytes of the largest message of the last read.
    largest: usize,
}

enum Pass {
    NotBegun,
    Reading(Reader),
    /// Nothing more comes of it.
    Over,
}

impl LogReader {
    pub(super) fn new(stream: Stream, filters: Vec<SubjectFilter>, sequences: Vec<u64>) -> Self {
        let (pass, ahead) = (Pass::NotBegun, VecDeque::new());
        Self { stream, filters, sequences, read: 0, pass, ahead, largest: BYTES / LEAST }
    }

    /// How many there are in all.
    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.read >= self.sequences.len()
    }

    /// Goes on behind a sequence.
    pub(super) fn seek(&mut self, sequence: u64) {
        let read = self.sequences.partition_point(|known| *known <= sequence);
        if read != self.read {
            (self.read, self.pass) = (read, Pass::NotBegun);
            self.ahead.clear();
        }
    }

    /// The next message; `None` at the end. May be dropped and called again at any point.
    pub(super) async fn next(&mut self) -> Result<Option<StoredMessage>, SourceError> {
        let Some(wanted) = self.sequences.get(self.read).copied() else { return Ok(None) };
        loop {
            while self.ahead.front().is_some_and(|message| message.sequence < wanted) {
                self.ahead.pop_front();
            }
            match self.ahead.front() {
                Some(next) if next.sequence == wanted => {
                    self.read += 1;
                    return Ok(self.ahead.pop_front());
                }
                Some(next) => self.ask_for_those_before(next.sequence).await?,
                None => self.read_on().await?,
            }
        }
    }

    /// How many messages are taken at once.
    fn portion(&self) -> usize {
        (BYTES / self.largest.max(1)).clamp(LEAST, MOST)
    }

    async fn read_on(&mut self) -> Result<(), SourceError> {
        if matches!(self.pass, Pass::NotBegun) {
            self.pass = match self.sequences.len() - self.read {
                0..=FEW => Pass::Over,
                _ => Pass::Reading(self.stream.reader(&self.filters, Start::LastPerSubject).await?),
            };
        }
        let portion = self.portion();
        let Pass::Reading(reader) = &mut self.pass else {
            return self.ask_for_those_before(u64::MAX).await;
        };
        let found = reader.next(portion, WAIT).await?;
        if found.is_empty() {
            return self.ask_for_those_before(u64::MAX).await;
        }
        self.largest = found.iter().map(size).max().unwrap_or(1);
        let last = self.sequences.last().copied().unwrap_or(0);
        if found.last().is_some_and(|message| message.sequence >= last) {
            self.pass = Pass::Over;
        }
        self.ahead.extend(found);
        Ok(())
    }

    /// Reads the next ones by their sequence, as far as they stand before `sequence`.
    async fn ask_for_those_before(&mut self, sequence: u64) -> Result<(), SourceError> {
        let portion = self.portion();
        let next = self.sequences.iter().skip(self.read).take(portion);
        let next: Vec<u64> = next.copied().take_while(|next| *next < sequence).collect();
        let stream = &self.stream;
        let get = |sequence: u64| async move {
            let found = stream.get(sequence).await?;
            Ok::<_, Error>(found.ok_or(sequence))
        };
        let found: Vec<Result<StoredMessage, u64>> =
            futures_util::stream::iter(next).map(get).buffered(portion).try_collect().await?;
        let found: Result<Vec<StoredMessage>, u64> = found.into_iter().collect();
        let found = found.map_err(|sequence| {
            let log = stream.name();
            SourceError::Impossible(format!(
                "history-incomplete: message {sequence} of {log} was removed while the state was \
                 read: prefill again"
            ))
        })?;
        self.largest = found.iter().map(size).max().unwrap_or(1);
        found.into_iter().rev().for_each(|message| self.ahead.push_front(message));
        Ok(())
    }
}

/// What a message takes in memory, about.
pub(super) fn size(message: &StoredMessage) -> usize {
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let body = message.payload.as_ref().map_or(0, bytes::Bytes::len);
    message.subject.as_str().len() + headers + body
}
