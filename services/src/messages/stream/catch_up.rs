//! Reading old history from the log, for one client.

use std::time::Duration;

use bus::{Error, Reader, Start, StoredMessage, Stream};
use tokio::sync::Semaphore;

use super::feed::PAGE;
use crate::model::Realm;
use crate::store::Store;

/// How long one read waits for what is known to be there.
const WAIT: Duration = Duration::from_secs(1);

/// A reader of its own from a position on, until the shared ring is reached.
pub(in crate::messages) struct CatchUp {
    log: Stream,
    reader: Reader,
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
}

impl CatchUp {
    pub(in crate::messages) async fn open(store: &Store, realm: &Realm, position: u64) -> Result<Self, Error> {
        let log = store.log(realm).await?;
        let reader = log.reader(&[], Start::Sequence(position + 1)).await?;
        Ok(Self { log, reader, position })
    }

    /// The next page. Whoever is slow to take it does not keep others from theirs: the permit is
    /// held for the read alone.
    pub(in crate::messages) async fn next(&mut self, permits: &Semaphore) -> Result<Page, Error> {
        let _permit = permits.acquire().await.map_err(|_| {
            Error::new(bus::ErrorKind::Closed, "this process stops: connect to another")
        })?;
        let messages = self.reader.next(PAGE, WAIT).await?;
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
