//! Looking into a stream: one message, its subjects, its state at a sequence. Kafka finds a record
//! by its offset only; everything else is a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::StreamEntry;
use super::link::{Link, watermarks};
use super::record::Decoder;
use super::scan::{Part, parts, scan};
use super::sequence::{Place, first_offset};
use super::streams::marks;
use crate::driver::Tell;
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::{Subject, SubjectFilter};

/// See [`crate::driver::Driver::get`].
pub(super) async fn get(
    link: &Arc<Link>,
    entry: &StreamEntry,
    sequence: u64,
) -> Result<Option<StoredMessage>> {
    let Some(from) = Place::of(sequence, entry.config.partitions) else { return Ok(None) };
    let (topic, mut decoder) = (entry.config.name.to_string(), Decoder::of(entry));
    let stop = link.threads.stop().clone();
    link.with_client(move |client| {
        let (low, high) = watermarks(client, &topic, from.partition)?;
        if from.offset < low || from.offset >= high {
            return Ok(None);
        }
        let (mut found, end) = (None, from.offset + 1);
        scan(client, &topic, &[Part { from, end }], &stop, |record| {
            found = Some(decoder.message(record));
        })?;
        Ok(found)
    })
    .await
}

/// See [`crate::driver::Driver::subjects`]. Reads the whole stream, and keeps its subjects.
pub(super) async fn subjects(
    link: &Arc<Link>,
    entry: &StreamEntry,
    filter: &SubjectFilter,
) -> Result<Vec<Subject>> {
    let parts = parts(&marks(link, &entry.config).await?);
    let filter = filter.clone();
    let matches = move |subject: &Subject| filter.matches(subject.as_str());
    let found = scan_stream(link, entry, parts, BTreeSet::new(), matches, |found, message| {
        found.insert(message.subject);
    });
    Ok(found.await?.into_iter().collect())
}

/// See [`crate::driver::Driver::last_at`]. Reads the stream up to the sequence, and keeps one
/// message for each subject. A subject whose keys lie in several partitions has as its last
/// message the one that was stored last.
pub(super) async fn last_at(
    link: &Arc<Link>,
    entry: &StreamEntry,
    subjects: &[Subject],
    up_to: u64,
) -> Result<Vec<StoredMessage>> {
    let parts = parts_up_to(link, entry, up_to).await?;
    let asked: BTreeSet<Subject> = subjects.iter().cloned().collect();
    let last: BTreeMap<Subject, StoredMessage> = BTreeMap::new();
    let matches = move |subject: &Subject| asked.contains(subject);
    let found = scan_stream(link, entry, parts, last, matches, |last, message| {
        let age = |message: &StoredMessage| (message.timestamp, message.sequence);
        if last.get(&message.subject).is_none_or(|known| age(known) < age(&message)) {
            last.insert(message.subject.clone(), message);
        }
    });
    Ok(found.await?.into_values().collect())
}

/// See [`crate::driver::Driver::state`]. Reads the stream up to the sequence, and keeps its
/// subjects.
pub(super) async fn state(
    link: &Arc<Link>,
    entry: &StreamEntry,
    filters: &[SubjectFilter],
    up_to: u64,
    tell: &mut Tell<'_>,
) -> Result<()> {
    let parts = parts_up_to(link, entry, up_to).await?;
    let filters = filters.to_vec();
    let matches = move |subject: &Subject| {
        filters.is_empty() || filters.iter().any(|filter| filter.matches(subject.as_str()))
    };
    let last: BTreeMap<Subject, (SystemTime, u64)> = BTreeMap::new();
    let found = scan_stream(link, entry, parts, last, matches, |last, message| {
        let age = (message.timestamp, message.sequence);
        let known = last.entry(message.subject).or_insert(age);
        *known = age.max(*known);
    });
    for (subject, (_, sequence)) in found.await? {
        tell(subject.as_str(), sequence);
    }
    Ok(())
}

/// Everything at or before the sequence.
async fn parts_up_to(link: &Arc<Link>, entry: &StreamEntry, up_to: u64) -> Result<Vec<Part>> {
    let mut parts = parts(&marks(link, &entry.config).await?);
    for part in &mut parts {
        let beyond = up_to.saturating_add(1);
        let end = first_offset(beyond, part.from.partition, entry.config.partitions);
        part.end = part.end.min(end);
    }
    Ok(parts)
}

/// Folds the messages of these parts whose subject is wanted, away from the runtime.
async fn scan_stream<T: Send + 'static>(
    link: &Arc<Link>,
    entry: &StreamEntry,
    parts: Vec<Part>,
    mut folded: T,
    wanted: impl Fn(&Subject) -> bool + Send + 'static,
    mut fold: impl FnMut(&mut T, StoredMessage) + Send + 'static,
) -> Result<T> {
    let (topic, mut decoder) = (entry.config.name.to_string(), Decoder::of(entry));
    let stop = link.threads.stop().clone();
    link.with_client(move |client| {
        scan(client, &topic, &parts, &stop, |record| {
            if let Some(message) = decoder.message_if(record, &wanted) {
                fold(&mut folded, message);
            }
        })?;
        Ok(folded)
    })
    .await
}
