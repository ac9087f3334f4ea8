//! The prefill worker: takes tasks from a durable queue and fills prefill queues.

mod cursor;
mod log_source;
mod source;
mod worker;

pub(crate) use cursor::Cursor;
pub use worker::run;
