//! Streams, consumers and key-value over one contract, on every backend.
//!
//! Five nouns carry through the crate: [`Bus`], [`Stream`], [`Consumer`], [`KeyValue`] and
//! [`Message`].

pub mod backoff;
mod bus;
pub mod capability;
pub mod config;
mod consume;
mod consumer;
mod delivery;
pub mod driver;
mod error;
mod headers;
mod kv;
mod message;
mod name;
mod publish;
mod stream;

pub mod embedded;
#[cfg(feature = "nats")]
pub mod nats;

pub use backoff::Backoff;
pub use bus::{Bus, ConnectOptions};
pub use capability::{Capability, Support};
pub use config::{
    BucketConfig, ConsumerConfig, ConsumerInfo, Entry, Retention, Start, Storage, StreamConfig,
    StreamInfo, WhenFull,
};
pub use consume::{FromMessage, HandlerError, Json, Outcome, Received};
pub use consumer::{Consumer, ConsumerBuilder};
pub use delivery::{Delivery, SettleError};
pub use driver::{KvChange, LeaseToken, Settlement};
pub use error::{Error, ErrorKind, Result};
pub use headers::Headers;
pub use kv::{KeyValue, Watch};
pub use message::{Expect, Message, Receipt, StoredMessage};
pub use name::{BucketName, ConsumerName, StreamName, Subject, SubjectFilter};
pub use publish::PendingReceipt;
pub use stream::{Reader, Stream};
