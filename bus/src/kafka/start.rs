//! Where a reader or a consumer begins, as places of a topic.

use std::collections::{BTreeMap, BTreeSet};

use rdkafka::consumer::Consumer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::entry::{Origin, StreamEntry};
use super::failure::failed;
use super::link::{Client, REQUEST_LIMIT};
use super::record::{Decoder, millis_of};
use super::scan::{parts, scan};
use super::sequence::{Place, first_offset};
use super::topics::all_watermarks;
use super::watermark::Watermark;
use crate::config::{Start, StreamConfig};
use crate::error::{Error, Result};
use crate::message::StoredMessage;
use crate::name::{Subject, SubjectFilter};

/// Where to begin, and what to leave out from there.
#[derive(Debug, Clone, Default)]
pub(super) struct Beginning {
    /// One for each partition.
    pub(super) places: Vec<Place>,
    /// Messages of a lower sequence are left out.
    at_least: u64,
    /// Of what was there at the beginning, only these are wanted.
    only: Option<Only>,
}

#[derive(Debug, Clone)]
struct Only {
    /// The end of each partition at that time.
    ends: Vec<i64>,
    last: BTreeSet<Place>,
}

impl Beginning {
    /// Finds the places; blocks.
    pub(super) fn find(
        client: &Client,
        entry: &StreamEntry,
        filters: &[SubjectFilter],
        start: Start,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let config = &entry.config;
        let marks = all_watermarks(client, config.name.as_str(), config.partitions)?;
        let places = |offset: &dyn Fn(i32, i64, i64) -> i64| {
            let place = |(partition, (low, high)): (i32, &(i64, i64))| {
                let offset = offset(partition, *low, *high);
                Place { partition, offset }
            };
            (0..).zip(&marks).map(place).collect::<Vec<_>>()
        };
        Ok(match start {
            Start::Beginning => Self { places: places(&|_, low, _| low), ..Self::default() },
            Start::New => Self { places: places(&|_, _, high| high), ..Self::default() },
            Start::Sequence(sequence) => {
                let offset = |partition, low: i64, high: i64| {
                    // A sequence that was not given yet: what comes before it is left out.
                    first_offset(sequence, partition, config.partitions).min(high).max(low)
                };
                Self { places: places(&offset), at_least: sequence, only: None }
            }
            Start::Time(time) => {
                let found = at_time(client, config, millis_of(time))?;
                let offset = |partition, low: i64, high: i64| {
                    found.get(&partition).map_or(high, |offset| (*offset).clamp(low, high))
                };
                Self { places: places(&offset), ..Self::default() }
            }
            Start::LastPerSubject => last_per_subject(client, entry, filters, &marks, stop)?,
        })
    }

    /// The same for a consumer, as what its group would have committed, and the sequence that its
    /// messages have at least. What was there and is not wanted counts as settled, which must fit
    /// beside a commit.
    pub(super) fn origins(&self, config: &StreamConfig) -> Result<(Vec<Origin>, u64)> {
        let origin = |place: &Place| {
            let mut watermark = Watermark::new(place.offset);
            let ends = self.only.as_ref().map_or(&[][..], |only| &only.ends);
            let end = usize::try_from(place.partition).ok().and_then(|at| ends.get(at));
            for offset in place.offset..end.copied().unwrap_or(place.offset) {
                if !watermark.fits(offset) {
                    let what = format!(
                        "the last messages of the subjects of stream {} are too far apart for a                          consumer to begin with them: begin elsewhere, or use a reader",
                        config.name
                    );
                    return Err(Error::invalid(what));
                }
                let place = Place { offset, ..*place };
                watermark.take(offset);
                if !self.wants(place, place.sequence(config.partitions)) {
                    watermark.settle(offset);
                }
            }
            let (offset, metadata) = (watermark.committed(), watermark.metadata());
            Ok(Origin { offset, metadata })
        };
        Ok((self.places.iter().map(origin).collect::<Result<_>>()?, self.at_least))
    }

    /// True for a message that belongs to what was asked for.
    pub(super) fn wants(&self, place: Place, sequence: u64) -> bool {
        let of_old = |only: &Only| {
            let partition = usize::try_from(place.partition).unwrap_or(usize::MAX);
            only.ends.get(partition).is_none_or(|end| place.offset >= *end)
                || only.last.contains(&place)
        };
        sequence >= self.at_least && self.only.as_ref().is_none_or(of_old)
    }
}

/// The first offset at or after a time; no entry for a partition that has none.
fn at_time(client: &Client, config: &StreamConfig, millis: i64) -> Result<BTreeMap<i32, i64>> {
    let (topic, doing) = (config.name.as_str(), || format!("look for a time in {}", config.name));
    let mut asked = TopicPartitionList::new();
    for partition in 0..i32::try_from(config.partitions).unwrap_or(i32::MAX) {
        asked
            .add_partition_offset(topic, partition, Offset::Offset(millis))
            .map_err(|e| failed(doing(), e))?;
    }
    // What is stored behind an open transaction was stored all the same.
    let found = client.ends()?.offsets_for_times(asked, REQUEST_LIMIT);
    let found = found.map_err(|e| failed(doing(), e))?;
    let mut offsets = BTreeMap::new();
    for element in found.elements() {
        element.error().map_err(|e| failed(doing(), e))?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(element.partition(), offset);
        }
    }
    Ok(offsets)
}

/// Reads everything once, to know the last message of each subject.
fn last_per_subject(
    client: &Client,
    entry: &StreamEntry,
    filters: &[SubjectFilter],
    marks: &[(i64, i64)],
    stop: &CancellationToken,
) -> Result<Beginning> {
    let (config, mut decoder) = (&entry.config, Decoder::of(entry));
    let mut last: BTreeMap<Subject, (StoredAt, Place)> = BTreeMap::new();
    scan(client, config.name.as_str(), &parts(marks), stop, |record| {
        let wanted = decoder.message_if(record, |subject| matches_any(filters, subject));
        let Some(message) = wanted else { return };
        let Some(place) = Place::of(message.sequence, config.partitions) else { return };
        let age = StoredAt::of(&message);
        if last.get(&message.subject).is_none_or(|(known, _)| *known < age) {
            last.insert(message.subject, (age, place));
        }
    })?;
    let last: BTreeSet<Place> = last.into_values().map(|(_, place)| place).collect();
    let first = |(partition, (_, high)): (i32, &(i64, i64))| {
        let mut kept = last.iter().filter(|place| place.partition == partition);
        kept.next().copied().unwrap_or(Place { partition, offset: *high })
    };
    let places = (0..).zip(marks).map(first).collect();
    let ends = marks.iter().map(|(_, high)| *high).collect();
    Ok(Beginning { places, at_least: 0, only: Some(Only { ends, last }) })
}

/// The order in which messages of one subject were stored, over partitions too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct StoredAt(std::time::SystemTime, u64);

impl StoredAt {
    fn of(message: &StoredMessage) -> Self {
        Self(message.timestamp, message.sequence)
    }
}

/// True when the subject matches one of the filters; no filter means everything.
pub(super) fn matches_any(filters: &[SubjectFilter], subject: &Subject) -> bool {
    filters.is_empty() || filters.iter().any(|filter| filter.matches(subject.as_str()))
}
