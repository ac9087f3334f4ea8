//! Bridges: Kafka topics into the log and back, each record once.
//!
//! A [`Route`] carries one Kafka topic to one `realm.topic` of the log, or back. A file declares
//! routes ([`Bridges`]), [`run`] keeps them at work until it is told to stop.
//!
//! **Kafka to log.** Records and the next offset of their partition are stored in one atomic batch of
//! the log, and the offset's message is conditional on its own last sequence. So a position and what
//! it stands for cannot be apart, whoever is killed when, and a process that was thought dead and
//! comes back is refused whole. Kafka's group only says who reads which partition; what is committed
//! to Kafka is for people who look at lag there.
//!
//! **Log to Kafka.** Events and the log's sequence go to Kafka in one transaction under an id that
//! belongs to the route: whoever begins fences who came before. Readers with
//! `isolation.level=read_committed` see each event once. [`Mode::Idempotent`] writes without
//! transactions, where somebody measures the topic's lag, and repeats the last batch after a crash.
//!
//! **What a bridge writes besides events** is below `bridge.<realm>.` in the log itself
//! ([`names`]): a log can be filled by a bridge only if it captures that.
//!
//! The Kafka side is librdkafka itself and not the `bus` crate's Kafka backend: a bridge meets topics
//! of others, whose keys and headers may be null, and needs partitions, offsets and transactions by
//! name, all of which the bus keeps from its users on purpose. The log side is the bus.

mod bridge;
mod config;
pub mod examine;
mod failure;
mod inbound;
mod kafka;
mod logs;
pub mod mapping;
pub mod names;
mod outbound;
mod parked;
mod status;

pub use bridge::{Bridge, run};
pub use config::{
    Bad, Bridges, ConfigError, Direction, KafkaCluster, Mode, NullKey, Route, SaslName, Start,
};
pub use failure::Failure;
pub use logs::{Declared, Logs};
pub use parked::{Parked, ParkedRecord, discard, list, redrive};
pub use status::{Figures, PartitionStatus, RouteStatus, statuses};
