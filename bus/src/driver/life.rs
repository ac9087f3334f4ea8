//! Which life of a stream and of a consumer something belongs to.
//!
//! A sequence names a message as long as its stream lives, and a consumer gives it out once, and
//! again after a crash, as long as it is not moved or made anew. So ids that are made of a sequence
//! have the life in them: what a later life brings is never taken for a repetition of an earlier
//! one.

use std::time::{Duration, SystemTime};

use crate::config::ConsumerInfo;
use crate::driver::Driver;
use crate::error::Result;
use crate::name::{ConsumerName, StreamName};
use crate::random::hash;

/// A life of a consumer on a life of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life(u64);

impl Life {
    /// Asks the backend for the life of now.
    pub(crate) async fn ask(
        driver: &dyn Driver,
        stream: &StreamName,
        consumer: &ConsumerName,
    ) -> Result<Self> {
        let on = driver.stream_info(stream).await?;
        Ok(Self::new(on.created, &driver.consumer_info(stream, consumer).await?))
    }

    /// The life that a stream made at this time gives to a consumer.
    pub(crate) fn new(stream_created: Option<SystemTime>, consumer: &ConsumerInfo) -> Self {
        let parts =
            [stream_created.map_or(0, nanos), nanos(consumer.created), consumer.moves.into()];
        let [stream, consumer, moves] = parts.map(u128::to_be_bytes);
        Self(hash(&[&stream, &consumer, &moves]))
    }

    /// What names one message in this life: a stream that was put back from a copy has the same
    /// life and other messages under the sequences that follow, taken at other times.
    pub(crate) fn of(self, published: SystemTime) -> String {
        let message = hash(&[&self.0.to_be_bytes(), &nanos(published).to_be_bytes()]);
        format!("{message:016x}")
    }
}

fn nanos(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConsumerConfig;

    #[test]
    fn every_part_of_a_life_tells() {
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        let named = |stream: u64, consumer: u64, moves: u64, message: u64| {
            let info = ConsumerInfo {
                config: ConsumerConfig::new(ConsumerName::new("c").unwrap()),
                created: at(consumer),
                moves,
                pending: 0,
                unsettled: 0,
                delivered_sequence: 0,
                settled_sequence: 0,
                paused_until: None,
            };
            Life::new(Some(at(stream)), &info).of(at(message))
        };
        let first = named(1, 2, 0, 3);
        assert_eq!((first.len(), &first), (16, &named(1, 2, 0, 3)));
        for other in [named(2, 2, 0, 3), named(1, 3, 0, 3), named(1, 2, 1, 3), named(1, 2, 0, 4)] {
            assert_ne!(first, other);
        }
    }
}
