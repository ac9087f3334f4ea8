//! Bridges against a real Kafka broker and a real nats-server, with producers and consumers on the
//! other side that know nothing of Lockgate.

// The lint knows test functions, but not the functions that these share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod examined;
mod foreign;
mod into;
mod killed;
mod out;
mod programs;
mod world;
