//! A bound consumer and an open reader: what waits on a stream.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;

use super::connection::Connection;
use super::position::Position;
use super::stream::StreamCell;
use crate::driver::{ConsumerDriver, LeaseToken, RawDelivery, ReaderDriver, Settlement};
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::ConsumerName;

/// A consumer bound through one connection.
pub(super) struct BoundConsumer {
    pub(super) connection: Connection,
    pub(super) cell: Arc<StreamCell>,
    pub(super) name: ConsumerName,
}

/// What one look at the stream gave.
enum Look<T> {
    Found(Vec<T>),
    /// Nothing: look again when woken, or at this moment.
    Nothing(OwnedNotified, Option<Instant>),
}

#[async_trait]
impl ConsumerDriver for BoundConsumer {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        wait_for(&self.connection, wait, || self.look(max)).await
    }

    fn ack_now(&self, token: &LeaseToken) -> Option<Result<()>> {
        Some(self.settle_at_once(token, &Settlement::Ack))
    }

    async fn settle(&self, token: &LeaseToken, how: &Settlement, _confirm: bool) -> Result<()> {
        self.settle_at_once(token, how)
    }
}

impl BoundConsumer {
    fn settle_at_once(&self, token: &LeaseToken, how: &Settlement) -> Result<()> {
        let now = self.connection.enter()?;
        self.cell.enter(now)?.settle(&self.name, token, how, now)
    }

    fn look(&self, max: usize) -> Result<Look<RawDelivery>> {
        let now = self.connection.enter()?;
        let mut state = self.cell.enter(now)?;
        let (cursor, log) = state.cursor(&self.name)?;
        let taken = cursor.take(log, max, now)?;
        if !taken.is_empty() || max == 0 {
            return Ok(Look::Found(taken));
        }
        // Made under the lock, so that no change between this look and the wait is missed.
        let (woken, again) = (cursor.woken.clone().notified_owned(), cursor.look_again(now));
        Ok(Look::Nothing(woken, earlier(again, state.next_delayed(now))))
    }
}

#[cfg(feature = "disk")]
impl BoundConsumer {
    /// Takes back deliveries that never left the backend.
    pub(super) fn take_back(&self, deliveries: &[RawDelivery]) {
        let now = self.connection.now();
        if let Ok(mut state) = self.cell.enter(now)
            && let Ok((cursor, _)) = state.cursor(&self.name)
        {
            deliveries.iter().for_each(|delivery| cursor.take_back(delivery, now));
        }
    }
}

/// A reader opened through one connection.
pub(super) struct OpenReader {
    pub(super) connection: Connection,
    pub(super) cell: Arc<StreamCell>,
    pub(super) position: Position,
}

#[async_trait]
impl ReaderDriver for OpenReader {
    async fn next(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>> {
        let Self { connection, cell, position } = self;
        wait_for(connection, wait, || {
            let now = connection.enter()?;
            let state = cell.enter(now)?;
            let (mut read, mut bytes) = (Vec::new(), 0);
            while read.len() < max
                && (read.is_empty() || bytes < max_bytes)
                && let Some(sequence) = position.advance(&state.log)
            {
                let message = state.log.read(sequence)?;
                bytes += message.as_ref().map_or(0, StoredMessage::size);
                read.extend(message);
            }
            if !read.is_empty() || max == 0 {
                return Ok(Look::Found(read));
            }
            Ok(Look::Nothing(state.arrived.clone().notified_owned(), state.next_delayed(now)))
        })
        .await
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// Looks until something is found or `wait` is over. Each look is one synchronous step, so a
/// dropped future has taken nothing.
async fn wait_for<T>(
    connection: &Connection,
    wait: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<Vec<T>> {
    let deadline = connection.now().after(wait);
    loop {
        let (woken, again) = match look()? {
            Look::Found(found) => return Ok(found),
            Look::Nothing(woken, again) => (woken, again),
        };
        if Instant::now() >= deadline {
            return Ok(Vec::new());
        }
        let until = again.map_or(deadline, |again| again.min(deadline));
        tokio::select! { biased;
            () = connection.closed() => {}
            () = woken => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}
