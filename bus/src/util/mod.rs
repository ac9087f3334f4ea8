//! Small things that know nothing of messages.

#[cfg(any(feature = "nats", feature = "kafka"))]
pub(crate) mod arena;
pub(crate) mod door;
pub(crate) mod due;
pub(crate) mod random;
pub(crate) mod text;
