//! Lockgate's roles: registration, events, messages, dispatcher and prefill.

pub mod cli;
pub mod client;
mod demo;
pub mod dispatcher;
pub mod events;
pub mod http;
mod limits;
pub mod messages;
pub mod metrics;
pub mod platform;
pub mod prefill;
pub mod registration;
pub mod roles;
pub mod store;
mod work;

pub use lockgate_model as model;
