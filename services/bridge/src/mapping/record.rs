//! A record of Kafka, owned.

use bytes::Bytes;
use rdkafka::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// What a record carries. Null and empty are different everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` deletes the key.
    pub value: Option<Bytes>,
    /// Its headers, in their order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970, whoever gave them; `None` where there are none.
    pub timestamp: Option<i64>,
}

/// Where a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// Its id, which tells it from one of the same name that was deleted; `-` where a broker has none.
    pub topic_id: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl Record {
    /// Copies what the client lends.
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> Self {
        let owned = |bytes: Option<&[u8]>| bytes.map(Bytes::copy_from_slice);
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), owned(header.value))
        };
        Self {
            key: owned(message.key()),
            value: owned(message.payload()),
            headers: message
                .headers()
                .map_or_else(Vec::new, |all| all.iter().map(header).collect()),
            timestamp: match message.timestamp() {
                Timestamp::NotAvailable => None,
                Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => Some(ms),
            },
        }
    }

    /// The bytes of key, value and headers.
    pub fn size(&self) -> usize {
        let of = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + of(value));
        of(&self.key) + of(&self.value) + headers.sum::<usize>()
    }

    /// The first value of a header that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut named = self.headers.iter().filter(|(n, _)| n == name);
        named.find_map(|(_, value)| std::str::from_utf8(value.as_deref()?).ok())
    }
}
