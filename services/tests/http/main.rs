//! The HTTP side, in process on the embedded bus.

// Clippy allows it in test functions only; here the helpers are tests too.
#![allow(clippy::unwrap_used)]

mod bodies;
mod encoding;
mod events;
mod guard;
mod head;
mod health;
mod metrics;
mod realms;
mod registration;
mod server;
mod support;
