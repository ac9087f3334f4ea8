//! Lockgate's roles: registration, events, messages, dispatcher and prefill.

mod limits;
pub mod messages;
pub mod model;
pub mod platform;
pub mod store;
