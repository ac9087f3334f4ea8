//! The driver: finds the stream or bucket, does one step on it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::bucket::{BucketCell, OpenBucket};
use super::clock::Now;
use super::consumer::{BoundConsumer, OpenReader};
use super::count::count;
use super::log::last_at;
use super::position::Position;
use super::stream::{StreamCell, overlapping};
use super::{Embedded, Names};
use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, ConsumerInfo, Start, StreamConfig, StreamInfo};
use crate::creation::Creation;
use crate::driver::Committed;
use crate::driver::{ConsumerDriver, Driver, KvDriver, ReaderDriver, ResponderDriver, Tell, Unit};
use crate::error::{Error, Result};
use crate::message::{Message, StoredMessage};
use crate::name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
use crate::publish::PendingReceipt;

impl Embedded {
    pub(super) fn stream(&self, name: &StreamName) -> Result<(Now, Arc<StreamCell>)> {
        let now = self.connection.enter()?;
        match self.names().streams.get(name) {
            Some(cell) => Ok((now, cell.clone())),
            None => Err(no_stream(name)),
        }
    }

    pub(super) fn open_reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<OpenReader> {
        let (now, cell) = self.stream(stream)?;
        let position = Position::new(&cell.enter(now)?.log, filters, start);
        Ok(OpenReader { connection: self.connection.clone(), cell, position })
    }

    pub(super) fn bind_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<BoundConsumer> {
        let (now, cell) = self.stream(stream)?;
        cell.enter(now)?.cursor(consumer)?;
        let connection = self.connection.clone();
        Ok(BoundConsumer { connection, cell, name: consumer.clone() })
    }

    /// A consumer as its owner sees it, who knows the machine's clock only.
    fn shown(&self, mut info: ConsumerInfo) -> ConsumerInfo {
        info.paused_until = info.paused_until.map(|time| self.connection.wall_time(time));
        info
    }

    pub(super) fn open_bucket(&self, bucket: &BucketName) -> Result<OpenBucket> {
        self.connection.enter()?;
        let cell = self.names().buckets.get(bucket).cloned().ok_or_else(|| no_bucket(bucket))?;
        Ok(OpenBucket { connection: self.connection.clone(), cell })
    }
}

/// What the embedded backend gives: the table in the documentation is made of this.
pub(crate) fn support(capability: Capability) -> Support {
    match capability {
        Capability::KeyAffinity => Support::Unsupported,
        _ => Support::Native,
    }
}

#[async_trait]
impl Driver for Embedded {
    fn name(&self) -> &'static str {
        "embedded:"
    }

    fn support(&self, capability: Capability) -> Support {
        support(capability)
    }

    async fn create_stream(&self, config: &StreamConfig) -> Result<Creation<StreamInfo>> {
        let now = self.connection.enter()?;
        check_subjects(config)?;
        let mut names = self.names();
        if let Some(cell) = names.streams.get(&config.name) {
            return Ok(Creation::Exists(cell.enter(now)?.info()));
        }
        self.make_stream(&mut names, config, now).map(Creation::Created)
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<StreamInfo> {
        let now = self.connection.enter()?;
        check_subjects(config)?;
        let mut names = self.names();
        let Some(cell) = names.streams.get(&config.name) else {
            return self.make_stream(&mut names, config, now);
        };
        check_all_apart(&names, config, now)?;
        let mut state = cell.enter(now)?;
        state.update(config)?;
        Ok(state.info())
    }

    async fn stream_info(&self, stream: &StreamName) -> Result<StreamInfo> {
        let (now, cell) = self.stream(stream)?;
        Ok(cell.enter(now)?.info())
    }

    async fn delete_stream(&self, stream: &StreamName) -> Result<()> {
        let now = self.connection.enter()?;
        let mut names = self.names();
        let cell = names.streams.remove(stream).ok_or_else(|| no_stream(stream))?;
        cell.enter(now)?.delete();
        Ok(())
    }

    async fn purge(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<u64> {
        let (now, cell) = self.stream(stream)?;
        Ok(cell.enter(now)?.purge(filter))
    }

    async fn submit(&self, stream: &StreamName, mut message: Message) -> Result<PendingReceipt> {
        let (now, cell) = self.stream(stream)?;
        message.not_before = message.not_before.map(|wall| self.connection.log_time(wall));
        Ok(PendingReceipt::ready(cell.enter(now)?.publish(message, now)))
    }

    async fn get(&self, stream: &StreamName, sequence: u64) -> Result<Option<StoredMessage>> {
        let (now, cell) = self.stream(stream)?;
        cell.enter(now)?.log.read(sequence)
    }

    async fn subjects(&self, stream: &StreamName, filter: &SubjectFilter) -> Result<Vec<Subject>> {
        let (now, cell) = self.stream(stream)?;
        let state = cell.enter(now)?;
        Ok(state.log.matching(filter).map(|(subject, _)| subject.clone()).collect())
    }

    async fn last_at(
        &self,
        stream: &StreamName,
        subjects: &[Subject],
        up_to: u64,
    ) -> Result<Vec<StoredMessage>> {
        let (now, cell) = self.stream(stream)?;
        let state = cell.enter(now)?;
        let last = subjects.iter().filter_map(|subject| state.log.last_at(subject, up_to));
        last.filter_map(|sequence| state.log.read(sequence).transpose()).collect()
    }

    async fn count(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        after: u64,
    ) -> Result<u64> {
        let (now, cell) = self.stream(stream)?;
        let state = cell.enter(now)?;
        Ok(count(&state.log, filters, after.saturating_add(1)))
    }

    async fn state(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        up_to: u64,
        tell: &mut Tell<'_>,
    ) -> Result<()> {
        let (now, cell) = self.stream(stream)?;
        let state = cell.enter(now)?;
        let all = [SubjectFilter::all()];
        let filters = if filters.is_empty() { &all[..] } else { filters };
        for (subject, sequences) in filters.iter().flat_map(|filter| state.log.matching(filter)) {
            if let Some(sequence) = last_at(sequences, up_to) {
                tell(subject.as_str(), sequence);
            }
        }
        Ok(())
    }

    async fn reader(
        &self,
        stream: &StreamName,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Box<dyn ReaderDriver>> {
        Ok(Box::new(self.open_reader(stream, filters, start)?))
    }

    async fn ensure_consumer(
        &self,
        stream: &StreamName,
        config: &ConsumerConfig,
    ) -> Result<ConsumerInfo> {
        let (now, cell) = self.stream(stream)?;
        Ok(self.shown(cell.enter(now)?.ensure_consumer(config, now)?))
    }

    async fn consumer_info(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<ConsumerInfo> {
        let (now, cell) = self.stream(stream)?;
        let mut state = cell.enter(now)?;
        let (cursor, log) = state.cursor(consumer)?;
        Ok(self.shown(cursor.info(log, now)))
    }

    async fn consumers(&self, stream: &StreamName) -> Result<Vec<ConsumerInfo>> {
        let (now, cell) = self.stream(stream)?;
        let consumers = cell.enter(now)?.consumers(now);
        Ok(consumers.into_iter().map(|info| self.shown(info)).collect())
    }

    async fn delete_consumer(&self, stream: &StreamName, consumer: &ConsumerName) -> Result<()> {
        let (now, cell) = self.stream(stream)?;
        cell.enter(now)?.delete_consumer(consumer)
    }

    async fn bind(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        _prefetch: usize,
    ) -> Result<Arc<dyn ConsumerDriver>> {
        Ok(Arc::new(self.bind_consumer(stream, consumer)?))
    }

    async fn pause_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        until: Option<SystemTime>,
    ) -> Result<()> {
        let (now, cell) = self.stream(stream)?;
        let mut state = cell.enter(now)?;
        state.cursor(consumer)?.0.pause(until.map(|wall| self.connection.log_time(wall)));
        Ok(())
    }

    async fn seek_consumer(
        &self,
        stream: &StreamName,
        consumer: &ConsumerName,
        to: Start,
    ) -> Result<()> {
        let (now, cell) = self.stream(stream)?;
        let mut state = cell.enter(now)?;
        let (cursor, log) = state.cursor(consumer)?;
        cursor.seek(log, to);
        Ok(())
    }

    async fn commit(&self, unit: &Unit) -> Result<Committed> {
        self.commit_unit(unit)
    }

    async fn request(&self, question: Message, wait: Duration) -> Result<Message> {
        self.connection.enter()?;
        self.broker.responders.ask(question, wait).await
    }

    async fn responder(
        &self,
        filter: &SubjectFilter,
        group: &ConsumerName,
    ) -> Result<Box<dyn ResponderDriver>> {
        self.connection.enter()?;
        Ok(Box::new(self.broker.responders.open(self.connection.clone(), filter, group)))
    }

    async fn create_bucket(&self, config: &BucketConfig) -> Result<Creation<BucketConfig>> {
        let now = self.connection.enter()?;
        let mut names = self.names();
        if let Some(cell) = names.buckets.get(&config.name) {
            return Ok(Creation::Exists(cell.enter(now)?.config().clone()));
        }
        self.make_bucket(&mut names, config);
        Ok(Creation::Created(config.clone()))
    }

    async fn ensure_bucket(&self, config: &BucketConfig) -> Result<()> {
        let now = self.connection.enter()?;
        let mut names = self.names();
        if let Some(cell) = names.buckets.get(&config.name) {
            return cell.enter(now)?.update_config(config);
        }
        self.make_bucket(&mut names, config);
        Ok(())
    }

    async fn bucket_info(&self, bucket: &BucketName) -> Result<BucketConfig> {
        let now = self.connection.enter()?;
        let cell = self.names().buckets.get(bucket).cloned().ok_or_else(|| no_bucket(bucket))?;
        Ok(cell.enter(now)?.config().clone())
    }

    async fn bucket(&self, bucket: &BucketName) -> Result<Arc<dyn KvDriver>> {
        Ok(Arc::new(self.open_bucket(bucket)?))
    }

    async fn delete_bucket(&self, bucket: &BucketName) -> Result<()> {
        let now = self.connection.enter()?;
        let cell = self.names().buckets.remove(bucket).ok_or_else(|| no_bucket(bucket))?;
        cell.enter(now)?.delete_bucket();
        Ok(())
    }

    /// Never: there is nothing in memory that could fail.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }

    async fn close(&self) -> Result<()> {
        self.connection.close();
        Ok(())
    }
}

impl Embedded {
    /// Makes a stream of a name that is free, unless its subjects are not.
    fn make_stream(
        &self,
        names: &mut Names,
        config: &StreamConfig,
        now: Now,
    ) -> Result<StreamInfo> {
        check_all_apart(names, config, now)?;
        let created = names.moment(now.time);
        let cell = StreamCell::new(config.clone(), created, self.broker.journal(config.storage));
        let info = cell.enter(now)?.info();
        names.streams.insert(config.name.clone(), Arc::new(cell));
        Ok(info)
    }

    /// Makes a bucket of a name that is free.
    fn make_bucket(&self, names: &mut Names, config: &BucketConfig) {
        let journal = self.broker.journal(config.storage);
        let cell = BucketCell::new(config.clone(), journal);
        names.buckets.insert(config.name.clone(), Arc::new(cell));
    }
}

fn check_all_apart(names: &Names, config: &StreamConfig, now: Now) -> Result<()> {
    for (name, cell) in names.streams.iter().filter(|(name, _)| **name != config.name) {
        check_apart(config, name, &cell.enter(now)?.config)?;
    }
    Ok(())
}

fn check_subjects(config: &StreamConfig) -> Result<()> {
    let name = &config.name;
    if config.subjects.is_empty() {
        return Err(Error::invalid(format!("stream {name} captures nothing: give it a subject")));
    }
    match overlapping(&config.subjects) {
        None => Ok(()),
        Some((one, other)) => Err(Error::invalid(format!(
            "subjects {one} and {other} of stream {name} overlap: keep the wider one"
        ))),
    }
}

fn check_apart(config: &StreamConfig, other: &StreamName, has: &StreamConfig) -> Result<()> {
    for wanted in &config.subjects {
        if let Some(taken) = has.subjects.iter().find(|taken| taken.overlaps(wanted)) {
            return Err(Error::invalid(format!(
                "subject {wanted} of stream {} overlaps with {taken} of stream {other}: \
                 a subject belongs to one stream",
                config.name
            )));
        }
    }
    Ok(())
}

pub(super) fn no_stream(name: &StreamName) -> Error {
    Error::not_found(format!("there is no stream {name}: create it first"))
}

fn no_bucket(name: &BucketName) -> Error {
    Error::not_found(format!("there is no bucket {name}: create it first"))
}
