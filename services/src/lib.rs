//! Lockgate's roles: registration, events, messages, dispatcher and prefill.

pub mod cli;
pub mod client;
mod limits;
pub mod model;
pub mod platform;
pub mod store;
