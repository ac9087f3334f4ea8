//! The reader of a stream.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::convert::stored;
use super::feed::{Feed, Item};
use crate::driver::ReaderDriver;
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::Subject;

/// Reads through a [`Feed`].
pub(super) struct Reader(pub(super) Feed);

#[async_trait]
impl ReaderDriver for Reader {
    async fn next(
        &mut self,
        max: usize,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<StoredMessage>> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        if max == 0 {
            return Ok(found);
        }
        self.0.read_ahead(max_bytes);
        let mut item = self.0.next(Instant::now() + wait).await?;
        while let Some(next) = item {
            let message = next.into_stored();
            bytes += message.size();
            found.push(message);
            if found.len() >= max || bytes >= max_bytes {
                break;
            }
            item = self.0.ready();
        }
        Ok(found)
    }
}

impl Item {
    pub(super) fn into_stored(self) -> StoredMessage {
        let Self { message, sequence, timestamp } = self;
        let headers = message.headers.as_ref();
        stored(Subject::received(&message.subject), sequence, timestamp, headers, message.payload)
    }
}
