//! The flows on every backend that carries them: in memory, on NATS, on Kafka.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod medicine;
mod profile;
mod support;
