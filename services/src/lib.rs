//! Lockgate's roles: registration, events, messages, dispatcher and prefill.

pub mod dispatcher;
pub mod events;
pub mod http;
mod limits;
pub mod model;
pub mod platform;
pub mod prefill;
pub mod registration;
pub mod store;
