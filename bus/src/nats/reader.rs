//! The reader of a stream.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::convert::stored;
use super::feed::{Feed, Item};
use crate::driver::{READ_BYTES, ReaderDriver};
use crate::error::Result;
use crate::message::StoredMessage;
use crate::name::Subject;

/// Reads through a [`Feed`].
pub(super) struct Reader(pub(super) Feed);

#[async_trait]
impl ReaderDriver for Reader {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<StoredMessage>> {
        let mut found = Vec::new();
        if max == 0 {
            return Ok(found);
        }
        let mut item = self.0.next(Instant::now() + wait).await?;
        let mut bytes = 0;
        while let Some(next) = item {
            let message = next.into_stored();
            bytes += message.bytes();
            found.push(message);
            if found.len() >= max || bytes >= READ_BYTES {
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
