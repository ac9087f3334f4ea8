//! What a wrapped backend hands out, wrapped too.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::driver::At;
use super::faults::{Fate, Faults, unavailable};
use crate::config::Entry;
use crate::driver::{
    ConsumerDriver, KvChange, KvDriver, LeaseToken, RawDelivery, ReaderDriver, Settlement,
    WatchDriver,
};
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::{Subject, SubjectFilter};

/// A bound consumer with faults.
pub(super) struct FaultyConsumer {
    inner: Arc<dyn ConsumerDriver>,
    faults: Faults,
    at: String,
}

impl FaultyConsumer {
    pub(super) fn new(inner: Arc<dyn ConsumerDriver>, faults: Faults, at: String) -> Self {
        Self { inner, faults, at }
    }
}

#[async_trait]
impl ConsumerDriver for FaultyConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        self.faults.run("fetch", &self.at, self.inner.fetch(max, wait)).await
    }

    /// Never: an ack that may wait is one that may fail.
    fn ack_now(&self, _token: &LeaseToken) -> Option<Result<()>> {
        None
    }

    async fn settle(&self, token: &LeaseToken, how: &Settlement, confirm: bool) -> Result<()> {
        let operation = match how {
            Settlement::Ack => "ack",
            Settlement::Retry(_) => "retry",
            Settlement::Reject(_) => "reject",
            Settlement::Extend => "extend",
        };
        let plan = self.faults.begin(operation, &At(&self.at, &token.as_str())).await;
        if plan.fate == Fate::FailBefore && !confirm {
            return Ok(());
        }
        self.faults.carry_out(plan, self.inner.settle(token, how, confirm)).await
    }
}

/// An open reader with faults. What was read and could not be told waits for the next call.
pub(super) struct FaultyReader {
    inner: Box<dyn ReaderDriver>,
    faults: Faults,
    at: String,
    held: VecDeque<StoredMessage>,
}

impl FaultyReader {
    pub(super) fn new(inner: Box<dyn ReaderDriver>, faults: Faults, at: String) -> Self {
        Self { inner, faults, at, held: VecDeque::new() }
    }
}

#[async_trait]
impl ReaderDriver for FaultyReader {
    async fn next(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>> {
        let Self { inner, faults, at, held } = self;
        let plan = faults.begin("read", at).await;
        let read = async {
            if held.is_empty() {
                held.extend(inner.next(max, max_bytes, wait).await?);
            }
            Ok(())
        };
        faults.carry_out(plan, read).await?;
        Ok(held.drain(..max.min(held.len())).collect())
    }
}

/// An open bucket with faults.
pub(super) struct FaultyKv {
    inner: Arc<dyn KvDriver>,
    faults: Faults,
    at: String,
}

impl FaultyKv {
    pub(super) fn new(inner: Arc<dyn KvDriver>, faults: Faults, at: String) -> Self {
        Self { inner, faults, at }
    }
}

#[async_trait]
impl KvDriver for FaultyKv {
    async fn get(&self, key: &Subject) -> Result<Option<Entry>> {
        self.faults.run("kv_get", &At(&self.at, key), self.inner.get(key)).await
    }

    async fn put(&self, key: &Subject, value: Bytes) -> Result<u64> {
        self.faults.run("kv_put", &At(&self.at, key), self.inner.put(key, value)).await
    }

    async fn update(&self, key: &Subject, value: Bytes, revision: u64) -> Result<u64> {
        let effect = self.inner.update(key, value, revision);
        self.faults.run("kv_update", &At(&self.at, key), effect).await
    }

    async fn delete(&self, key: &Subject, revision: Option<u64>) -> Result<()> {
        self.faults.run("kv_delete", &At(&self.at, key), self.inner.delete(key, revision)).await
    }

    async fn entries(&self, filter: &SubjectFilter) -> Result<Vec<Entry>> {
        self.faults.run("kv_entries", &At(&self.at, filter), self.inner.entries(filter)).await
    }

    async fn page(&self, after: Option<&Subject>, max: usize) -> Result<Vec<Entry>> {
        self.faults.run("kv_page", &self.at, self.inner.page(after, max)).await
    }

    async fn watch(&self, filter: &SubjectFilter) -> Result<Box<dyn WatchDriver>> {
        let at = At(&self.at, filter);
        let inner = self.faults.run("kv_watch", &at, self.inner.watch(filter)).await?;
        let (faults, at) = (self.faults.clone(), at.to_string());
        Ok(Box::new(FaultyWatch { inner, faults, at, held: None }))
    }
}

/// An open watch with faults. A change counts as an operation when it is there, because the wait
/// for it has no end; one that could not be told waits for the next call.
struct FaultyWatch {
    inner: Box<dyn WatchDriver>,
    faults: Faults,
    at: String,
    held: Option<KvChange>,
}

#[async_trait]
impl WatchDriver for FaultyWatch {
    async fn next(&mut self) -> Result<KvChange> {
        if self.held.is_none() {
            self.held = Some(self.faults.unless_crashed(self.inner.next()).await?);
        }
        let plan = self.faults.begin("kv_changed", &self.at).await;
        self.faults.carry_out(plan, std::future::ready(Ok(()))).await?;
        self.held.take().ok_or_else(unavailable)
    }
}
