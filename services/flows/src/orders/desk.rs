//! Records that change by compare-and-set, together with what has to be published because of it.
//!
//! A change and a publish cannot be one step: state and topics may be on different backends. So a
//! change writes the record **and** its events (the outbox) as one value; then the events are
//! published and taken out again. Whatever crashes in between leaves the outbox full, and it is
//! emptied by whoever comes next: the message that is delivered again, the request that is
//! repeated, or, for a request that nobody repeats, the sweep. Events have deterministic ids, so
//! that publishing one twice is harmless.

use std::collections::HashMap;
use std::time::Duration;

use bus::{Error, ErrorKind, KeyValue, Subject};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::order::OrderId;
use super::topology::Topics;
use crate::flow::Failure;

/// How many marks one sweep deals with.
const MARKS_AT_ONCE: usize = 1000;

/// The persisted value: keep the JSON stable.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    record: T,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    outbox: Vec<Event>,
}

/// One record for each order, in a bucket of its own. Cheap to clone; all methods may be called
/// from many tasks and processes at once.
#[derive(Clone)]
pub(super) struct Desk {
    records: KeyValue,
    topics: Topics,
}

impl Desk {
    pub(super) fn new(records: KeyValue, topics: Topics) -> Self {
        Self { records, topics }
    }

    /// The record of an order, if it has one.
    pub(super) async fn get<T: DeserializeOwned + Send>(
        &self,
        order: &OrderId,
    ) -> bus::Result<Option<T>> {
        let kept = self.records.get_json::<Kept<T>>(record_key(order)).await?;
        Ok(kept.map(|(kept, _)| kept.record))
    }

    /// Changes the record of an order by `rule`, which is told what stands there and returns what
    /// is to and the events that go with it; `None` leaves it. Returns what stands there then.
    ///
    /// On return everything that this or an earlier change had to publish is durable. After an
    /// error the change may have been made: whoever called calls again.
    pub(super) async fn change<T: Serialize + DeserializeOwned + Send>(
        &self,
        order: &OrderId,
        mut rule: impl FnMut(Option<T>) -> Option<(T, Vec<Event>)> + Send,
    ) -> bus::Result<Option<T>> {
        let stands = self.records.modify(record_key(order), |kept: Option<Kept<T>>| {
            let (record, mut outbox) = match kept {
                Some(Kept { record, outbox }) => (Some(record), outbox),
                None => (None, Vec::new()),
            };
            let (record, events) = rule(record)?;
            outbox.extend(events);
            Some(Kept { record, outbox })
        });
        match stands.await? {
            None => Ok(None),
            Some(Kept { record, outbox }) => {
                self.send::<T>(order, &outbox).await?;
                Ok(Some(record))
            }
        }
    }

    /// The same for a request, which nobody has to repeat: before the change a mark is left that
    /// tells the sweep to look here. Each request has a mark of its own, so that none is removed
    /// by a request that has not seen the change done.
    pub(super) async fn change_on_request<T: Serialize + DeserializeOwned + Send>(
        &self,
        order: &OrderId,
        rule: impl FnMut(Option<T>) -> Option<(T, Vec<Event>)> + Send,
    ) -> bus::Result<Option<T>> {
        let nonce = getrandom::u64().map_err(|source| {
            Error::with_source(ErrorKind::Failed, "the system gives no random bytes", source)
        })?;
        let mark = format!("due.{order}.{nonce:x}");
        let revision = self.records.create(&mark, "").await?;
        let stands = self.change(order, rule).await?;
        self.unmark(&mark, revision).await?;
        Ok(stands)
    }

    /// Publishes what an outbox holds and takes it out.
    async fn send<T: Serialize + DeserializeOwned + Send>(
        &self,
        order: &OrderId,
        outbox: &[Event],
    ) -> bus::Result<()> {
        if outbox.is_empty() {
            return Ok(());
        }
        self.topics.publish(outbox).await?;
        self.records
            .modify(record_key(order), |kept: Option<Kept<T>>| {
                let mut kept = kept?;
                let before = kept.outbox.len();
                kept.outbox.retain(|event| outbox.iter().all(|sent| sent.id != event.id));
                (kept.outbox.len() < before).then_some(kept)
            })
            .await?;
        Ok(())
    }

    /// Removes a mark. A sweep may have been faster.
    async fn unmark(&self, mark: &str, revision: u64) -> bus::Result<()> {
        match self.records.delete(mark, Some(revision)).await {
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            removed => removed,
        }
    }
}

/// Finishes what requests began and did not end: the marks that this process has seen for longer
/// than a request may take. It compares no clocks.
pub(super) struct Sweep {
    desk: Desk,
    after: Duration,
    seen: HashMap<Subject, Instant>,
}

impl Sweep {
    pub(super) fn new(desk: Desk, after: Duration) -> Self {
        Self { desk, after, seen: HashMap::new() }
    }

    /// Sweeps until `shutdown`, once in each period of `after`.
    pub(super) async fn run<T: Serialize + DeserializeOwned + Send>(
        mut self,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! { biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.after) => {}
            }
            if let Err(error) = self.once::<T>().await {
                tracing::warn!(%error, "not swept, it is tried again");
            }
        }
    }

    /// Looks at every mark once. One that cannot be dealt with stays for the next time.
    async fn once<T: Serialize + DeserializeOwned + Send>(&mut self) -> bus::Result<()> {
        let now = Instant::now();
        let marks = self.desk.records.entries("due.>").await?;
        self.seen.retain(|key, _| marks.iter().any(|entry| entry.key == *key));
        for entry in marks.into_iter().take(MARKS_AT_ONCE) {
            let since = *self.seen.entry(entry.key.clone()).or_insert(now);
            if now.duration_since(since) >= self.after {
                self.finish::<T>(entry.key.as_str(), entry.revision).await?;
            }
        }
        Ok(())
    }

    async fn finish<T: Serialize + DeserializeOwned + Send>(
        &self,
        mark: &str,
        revision: u64,
    ) -> bus::Result<()> {
        let order = mark.split('.').nth(1).and_then(|order| order.parse::<OrderId>().ok());
        if let Some(order) = order {
            self.desk.change::<T>(&order, |_| None).await?;
            tracing::info!(%order, mark, "finished what a request had begun");
        }
        self.desk.unmark(mark, revision).await
    }
}

fn record_key(order: &OrderId) -> String {
    format!("record.{order}")
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
