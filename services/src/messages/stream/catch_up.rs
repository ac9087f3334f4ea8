//! Reading old history from the log, for one client.

use std::time::Duration;

use bus::{Error, Reader, Start, StoredMessage, Stream};
use tokio::sync::Semaphore;

use super::feed::PAGE;
use crate::limits::STREAM_PAGE_BYTES;
use crate::model::{History, Mark, Realm};
use crate::store::Store;

/// How long one read waits for what is known to be there.
const WAIT: Duration = Duration::from_secs(1);

/// A reader of its own from a place on, until the shared ring is reached.
pub(in crate::messages) struct CatchUp {
    store: Store,
    realm: Realm,
    log: Stream,
    reader: Reader,
    /// The place from which it reads, until it was held against the log.
    unchecked: Option<Mark>,
    position: u64,
}

/// A part of the history.
pub(in crate::messages) enum Page {
    /// What comes next, everything, matching or not. Empty if the bus was slow.
    Messages(Vec<StoredMessage>),
    /// The log does not hold what comes next any more.
    Lost {
        /// Where it begins now.
        first_sequence: u64,
    },
    /// The log is not the one that the place was taken on.
    Changed {
        /// What was found.
        why: String,
    },
}

impl CatchUp {
    /// Opens a reader behind a place.
    pub(in crate::messages) async fn open(
        store: &Store,
        realm: &Realm,
        place: Mark,
    ) -> Result<Self, Error> {
        let (store, realm) = (store.clone(), realm.clone());
        let log = store.log(&realm).await?;
        let reader = log.reader(&[], Start::Sequence(place.sequence + 1)).await?;
        let (unchecked, position) = (Some(place), place.sequence);
        Ok(Self { store, realm, log, reader, unchecked, position })
    }

    /// The next page. Whoever is slow to take it does not keep others from theirs: the permit is
    /// held for the read alone.
    pub(in crate::messages) async fn next(&mut self, permits: &Semaphore) -> Result<Page, Error> {
        let _permit = permits.acquire().await.map_err(|_| {
            Error::new(bus::ErrorKind::Closed, "this process stops: connect to another")
        })?;
        // After the reader was opened: what changes from now on fails the reader.
        if let Some(place) = &self.unchecked {
            match self.store.check_mark(&self.realm, place).await? {
                History::Same => self.unchecked = None,
                History::Changed { why } => return Ok(Page::Changed { why }),
                History::Purged { first_sequence } => return Ok(Page::Lost { first_sequence }),
            }
        }
        let messages = self.reader.next_within(PAGE, STREAM_PAGE_BYTES, WAIT).await?;
        let follows = messages.first().is_some_and(|m| m.sequence == self.position + 1);
        if !follows {
            // A hole, or nothing: the log tells whether its beginning has moved past us.
            let first_sequence = self.log.info().await?.first_sequence;
            if first_sequence > self.position + 1 {
                return Ok(Page::Lost { first_sequence });
            }
        }
        self.position = messages.last().map_or(self.position, |message| message.sequence);
        Ok(Page::Messages(messages))
    }
}
