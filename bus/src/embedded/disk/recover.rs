//! Streams and buckets as the disk has them.
//!
//! Reading takes time with the number of messages and not with their size: bodies stay where they
//! are.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fjall::Slice;
use serde::de::DeserializeOwned;

use super::bytes::Input;
use super::declared::{BucketRow, ConsumerRow, StreamRow};
use super::keys::{Meta, Table};
use super::queue::Shared;
use super::record::DiskRecord;
use super::rows;
use super::tables::{Tables, corrupt, failed};
use crate::config::{BucketConfig, ConsumerConfig, StreamConfig};
use crate::embedded::Names;
use crate::embedded::bucket::{BucketCell, BucketParts};
use crate::embedded::clock::Now;
use crate::embedded::cursor::CursorParts;
use crate::embedded::journal::{Journal, Open};
use crate::embedded::log::{Log, Outline};
use crate::embedded::stream::{StreamCell, StreamParts};
use crate::error::Result;
use crate::name::Subject;

/// What the table `meta` holds.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// With the time at which each was made, where that is known.
    streams: BTreeMap<u64, (StreamConfig, Option<SystemTime>)>,
    last_sequences: BTreeMap<u64, u64>,
    /// By stream and number.
    consumers: BTreeMap<(u64, u64), (ConsumerConfig, SystemTime)>,
    buckets: BTreeMap<u64, BucketConfig>,
    revisions: BTreeMap<u64, u64>,
    /// Those whose rows are to go.
    pub(super) dropped: Vec<u64>,
    /// The highest number that is in use.
    pub(super) highest: u64,
}

/// Reads a database.
pub(super) struct Recovery<'a> {
    pub(super) path: &'a Path,
    pub(super) tables: &'a Tables,
}

impl Recovery<'_> {
    pub(super) fn inventory(&self) -> Result<Inventory> {
        let mut found = Inventory::default();
        for row in self.tables.rows(Table::Meta, &[]) {
            let (key, value) = row.map_err(|error| failed(self.path, error))?;
            let taken = self.take_meta(&mut found, &key, &value)?;
            taken.ok_or_else(|| corrupt(self.path, Table::Meta, &key))?;
        }
        Ok(found)
    }

    fn take_meta(&self, found: &mut Inventory, key: &[u8], value: &[u8]) -> Result<Option<()>> {
        let mut parts = Input::new(key);
        let (Some(tag), Some(number)) = (parts.u8(), parts.u64()) else {
            // The version and the clock, which were read before.
            return Ok(Some(()));
        };
        let number_in = |value: &[u8]| Input::new(value).u64();
        found.highest = found.highest.max(number);
        Ok(match tag {
            tag if tag == Meta::Stream.tag() => {
                found.streams.insert(number, self.json::<StreamRow>(key, value)?.config()?);
                Some(())
            }
            tag if tag == Meta::Bucket.tag() => {
                found.buckets.insert(number, self.json::<BucketRow>(key, value)?.config()?);
                Some(())
            }
            tag if tag == Meta::Consumer.tag() => {
                let Some(consumer) = parts.u64() else { return Ok(None) };
                found.highest = found.highest.max(consumer);
                let row = self.json::<ConsumerRow>(key, value)?.config()?;
                found.consumers.insert((number, consumer), row);
                Some(())
            }
            tag if tag == Meta::LastSequence.tag() => {
                let last = number_in(value);
                last.map(|last| found.last_sequences.extend([(number, last)]))
            }
            tag if tag == Meta::Revision.tag() => {
                let last = number_in(value);
                last.map(|last| found.revisions.extend([(number, last)]))
            }
            tag if tag == Meta::Dropped.tag() => {
                found.dropped.push(number);
                Some(())
            }
            // Read with their consumers.
            tag if tag == Meta::Head.tag() || tag == Meta::First.tag() => Some(()),
            _ => None,
        })
    }

    fn json<T: DeserializeOwned>(&self, key: &[u8], value: &[u8]) -> Result<T> {
        serde_json::from_slice(value).map_err(|_| corrupt(self.path, Table::Meta, key))
    }

    /// Everything that is declared, noting its further changes with `shared`.
    pub(super) fn names(&self, found: &Inventory, shared: &Arc<Shared>, now: Now) -> Result<Names> {
        let mut names = Names::default();
        for (&number, declared) in &found.streams {
            let last = found.last_sequences.get(&number).copied().unwrap_or(0);
            let record = DiskRecord::new(shared.clone(), number, last);
            let parts =
                self.stream(found, number, declared, Journal::new(Arc::new(record)), now)?;
            names.newest = names.newest.max(declared.1);
            names.streams.insert(declared.0.name.clone(), Arc::new(StreamCell::restore(parts)));
        }
        for (&number, config) in &found.buckets {
            let record = DiskRecord::new(shared.clone(), number, 0);
            let parts = BucketParts {
                config: config.clone(),
                entries: self.each(Table::Values, number, |key, value| {
                    rows::read_value(value, Subject::received(key.rest_text()?))
                })?,
                revision: found.revisions.get(&number).copied().unwrap_or(0),
                journal: Journal::new(Arc::new(record)),
            };
            names.buckets.insert(config.name.clone(), Arc::new(BucketCell::restore(parts)));
        }
        Ok(names)
    }

    fn stream(
        &self,
        found: &Inventory,
        number: u64,
        (config, created): &(StreamConfig, Option<SystemTime>),
        journal: Journal,
        now: Now,
    ) -> Result<StreamParts> {
        let last = found.last_sequences.get(&number).copied().unwrap_or(0);
        let held: Vec<(u64, Outline)> = self.each(Table::Outlines, number, |key, value| {
            Some((key.u64()?, rows::read_outline(value)?))
        })?;
        let ids = self.each(Table::Ids, number, |key, value| {
            let (sequence, came, id) = rows::read_id(value)?;
            Some((key.u64()?, Arc::from(id), sequence, came))
        })?;
        let delayed = self.each(Table::Delayed, number, |key, value| {
            let place = (key.time()?, key.u64()?);
            Some((rows::read_delayed(value, place.0)?, place))
        })?;
        let of_stream = found.consumers.range((number, 0)..=(number, u64::MAX));
        let consumers = of_stream.map(|(&(_, number), consumer)| self.consumer(number, consumer));
        let consumers = consumers.collect::<Result<_>>()?;
        let log = Log::restore(journal.clone(), last, held);
        let (config, created) = (config.clone(), *created);
        Ok(StreamParts { config, created, log, ids, delayed, consumers, journal, now })
    }

    fn consumer(
        &self,
        number: u64,
        (config, created): &(ConsumerConfig, SystemTime),
    ) -> Result<CursorParts> {
        let head_key = Meta::Head.key(number);
        let head = self.get(&head_key)?.as_deref().and_then(rows::read_head);
        let head = head.ok_or_else(|| corrupt(self.path, Table::Meta, &head_key))?;
        let first_key = Meta::First.key(number);
        let first = self.get(&first_key)?.as_deref().and_then(rows::read_numbers);
        let mut first = first.ok_or_else(|| corrupt(self.path, Table::Meta, &first_key))?;
        let came = (first.len() as u64).saturating_sub(head.first_left);
        first.drain(..usize::try_from(came).unwrap_or(first.len()));
        let open: Vec<Open> =
            self.each(Table::Open, number, |key, value| rows::read_open(value, key.u64()?))?;
        let (config, created) = (config.clone(), *created);
        Ok(CursorParts { number, config, created, head, first, open })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Slice>> {
        self.tables.get(Table::Meta, key).map_err(|error| failed(self.path, error))
    }

    /// Reads every row that belongs to `number`, from what follows it in the key.
    fn each<T>(
        &self,
        table: Table,
        number: u64,
        read: impl Fn(&mut Input<'_>, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let rows = self.tables.rows(table, &number.to_be_bytes());
        rows.map(|row| {
            let (key, value) = row.map_err(|error| failed(self.path, error))?;
            let mut of_it = Input::new(&key);
            let row = of_it.u64().and_then(|_| read(&mut of_it, &value));
            row.ok_or_else(|| corrupt(self.path, table, &key))
        })
        .collect()
    }
}
