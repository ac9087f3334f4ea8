//! A reader: a tail of the stream's topic, in no group, and nothing kept in the cluster.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::message::{BorrowedMessage, Message};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::catalog::Catalog;
use super::entry::StreamEntry;
use super::link::Link;
use super::record::Decoder;
use super::sequence::Place;
use super::start::{Beginning, matches_any};
use super::streams::missing;
use super::tail::{self, Sink};
use super::threads::closed;
use crate::config::Start;
use crate::driver::ReaderDriver;
use crate::error::{Error, Result};
use crate::message::StoredMessage;
use crate::name::SubjectFilter;

/// How many batches wait for a reader that is slow.
const BATCHES: usize = 4;
/// A batch of this size is handed over as it is.
const BATCH_BYTES: usize = 1 << 20;

type Batch = Result<Vec<StoredMessage>>;

/// See [`crate::driver::Driver::reader`].
pub(super) struct Reader {
    link: Arc<Link>,
    catalog: Arc<Catalog>,
    entry: Arc<StreamEntry>,
    batches: mpsc::Receiver<Batch>,
    ready: VecDeque<StoredMessage>,
    _stop: DropGuard,
}

impl Reader {
    /// Returns when the place to begin at is fixed.
    pub(super) async fn open(
        link: &Arc<Link>,
        catalog: &Arc<Catalog>,
        entry: Arc<StreamEntry>,
        filters: &[SubjectFilter],
        start: Start,
    ) -> Result<Self> {
        let stop = link.threads.stop().child_token();
        let beginning = {
            let (entry, filters, stop) = (entry.clone(), filters.to_vec(), stop.clone());
            link.with_client(move |client| Beginning::find(client, &entry, &filters, start, &stop))
                .await?
        };
        let (sender, batches) = mpsc::channel(BATCHES);
        let feeder = Feeder {
            partitions: entry.config.partitions,
            decoder: Decoder::of(&entry),
            filters: filters.to_vec(),
            beginning,
            batch: Vec::new(),
            bytes: 0,
            sender,
            runtime: Handle::current(),
            stop: stop.clone(),
        };
        let from = feeder.beginning.places.clone();
        tail::spawn(link, entry.config.name.as_str(), from, stop.clone(), feeder)?;
        let (link, catalog, _stop) = (link.clone(), catalog.clone(), stop.drop_guard());
        Ok(Self { link, catalog, entry, batches, ready: VecDeque::new(), _stop })
    }

    /// A stream that was removed, or made anew, is not the one that was opened.
    fn check_stream(&self) -> Result<()> {
        let StreamEntry { config, generation, .. } = &*self.entry;
        let same = match self.catalog.stream(&config.name) {
            // A foreign topic may have got an entry since, without having changed; but one that
            // was just being made for a stream is read in another way.
            Some(entry) if *generation == 0 => entry.keyed.is_empty(),
            Some(entry) => entry.generation == *generation,
            None => *generation == 0,
        };
        if same { Ok(()) } else { Err(missing(&config.name)) }
    }
}

#[async_trait]
impl ReaderDriver for Reader {
    async fn next(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>> {
        self.check_stream()?;
        self.link.shapes.check(&self.link, &self.entry).await?;
        if self.ready.is_empty() {
            match tokio::time::timeout(wait, self.batches.recv()).await {
                Ok(Some(batch)) => self.ready.extend(batch?),
                Ok(None) => return Err(closed()),
                Err(_) => return Ok(Vec::new()),
            }
        }
        let mut held: usize = self.ready.iter().map(StoredMessage::size).sum();
        while self.ready.len() < max && held < max_bytes {
            // News of an outage is old when messages came: who asks next learns how it stands.
            let Ok(Ok(batch)) = self.batches.try_recv() else { break };
            held += batch.iter().map(StoredMessage::size).sum::<usize>();
            self.ready.extend(batch);
        }
        let (mut count, mut bytes) = (0, 0);
        for message in self.ready.iter().take(max) {
            if count > 0 && bytes >= max_bytes {
                break;
            }
            (count, bytes) = (count + 1, bytes + message.size());
        }
        Ok(self.ready.drain(..count).collect())
    }
}

/// Decodes and filters, in the tail's thread.
struct Feeder {
    partitions: u32,
    decoder: Decoder,
    filters: Vec<SubjectFilter>,
    beginning: Beginning,
    batch: Vec<StoredMessage>,
    bytes: usize,
    sender: mpsc::Sender<Batch>,
    runtime: Handle,
    stop: CancellationToken,
}

impl Sink for Feeder {
    fn record(&mut self, record: &BorrowedMessage<'_>) -> bool {
        let place = Place { partition: record.partition(), offset: record.offset() };
        if !self.beginning.wants(place, place.sequence(self.partitions)) {
            return false;
        }
        let filters = &self.filters;
        let wanted = self.decoder.message_if(record, |subject| matches_any(filters, subject));
        if let Some(message) = wanted {
            self.bytes += record.key_len() + record.payload_len();
            self.batch.push(message);
        }
        self.bytes >= BATCH_BYTES
    }

    fn end(&mut self, _partition: i32, _next: i64) {}

    fn step(&mut self) -> ControlFlow<()> {
        if self.batch.is_empty() {
            return ControlFlow::Continue(());
        }
        let (batch, sender, stop) = (std::mem::take(&mut self.batch), &self.sender, &self.stop);
        self.bytes = 0;
        let sent = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = stop.cancelled() => false,
                sent = sender.send(Ok(batch)) => sent.is_ok(),
            }
        });
        if sent { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn away(&mut self, error: Error) -> ControlFlow<()> {
        // News for who waits; whoever has messages left learns it from the next call.
        let _ = self.sender.try_send(Err(error));
        ControlFlow::Continue(())
    }

    fn over(&mut self, error: Error) {
        let (sender, stop) = (&self.sender, &self.stop);
        let (kind, text) = (error.kind(), error.to_string());
        self.runtime.block_on(async {
            // Told again and again, because a reader that has ended stays ended.
            loop {
                let again = Err(Error::new(kind, text.clone()));
                tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    sent = sender.send(again) => if sent.is_err() { break },
                }
            }
        });
    }
}
