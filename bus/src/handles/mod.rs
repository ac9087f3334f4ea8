//! What a program holds: a bus, and what hangs on it.

pub(crate) mod bus;
pub(crate) mod consumer;
pub(crate) mod create;
mod follow;
pub(crate) mod kv;
mod kv_json;
pub(crate) mod redrive;
pub(crate) mod request;
pub(crate) mod stream;
pub mod unit;
