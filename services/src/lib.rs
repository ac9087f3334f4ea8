//! Lockgate's roles: registration, events, messages, dispatcher and prefill.

pub mod dispatcher;
mod limits;
pub mod model;
pub mod platform;
pub mod prefill;
pub mod registration;
pub mod store;
