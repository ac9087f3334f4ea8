//! The messages role in process: streams and queues over HTTP on the embedded bus, with virtual
//! time.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod access;
mod entrance;
mod queue;
mod realms;
mod runs;
mod slow;
mod socket;
mod socket_support;
mod stream;
mod support;
mod takeover;
mod topics;
