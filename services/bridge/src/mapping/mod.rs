//! Between a record of Kafka and an event of the log, without a loss in either direction.
//!
//! | Kafka | Log |
//! |---|---|
//! | key | the message's key, byte for byte, and the last token of its subject; null is no key |
//! | value, empty, null | payload, empty payload, tombstone |
//! | header `ce_x` of a record in binary mode | header `ce-x`, percent-encoded |
//! | other headers, in their order per name | the same |
//! | what no header of the log can carry: null, bytes, names of others' | header `kafka-header` |
//! | timestamp, topic, partition, offset | header `kafka-origin` |
//!
//! CloudEvents are those of the Kafka protocol binding 1.0: `content-type:
//! application/cloudevents+json` is structured mode and passes as it is; `ce_specversion` is binary
//! mode. A record that is neither gets `ce-time` from its timestamp, which is taken off again.
//!
//! **Loops.** What went through a place carries it (`lockgate-origin`, and `kafka-origin` for the
//! last one), and is not carried there again. A header of a record that means something to NATS or
//! to this crate (`Nats-...`, `Lg-...`, `ce-...`, `kafka-...`, `lockgate-...`) never becomes a header
//! of the log.

mod headers;
mod key;
mod origin;
mod record;
#[cfg(test)]
mod tests;
mod to_kafka;
mod to_log;

pub use key::MAX_KEY_BYTES;
pub use origin::{Origin, kafka_place, log_place};
pub use record::{Place, Record};
pub use to_kafka::to_record;
pub use to_log::{ToLog, to_event};

/// What a record cannot be an event for, or the other way round, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);
