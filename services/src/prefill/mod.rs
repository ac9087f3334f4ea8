//! The prefill worker: takes tasks from a durable queue and fills prefill queues; and what is kept
//! of them.

mod claim;
mod cursor;
mod fill;
mod log_reader;
mod log_source;
pub(crate) mod rows;
mod source;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use cursor::Cursor;
pub use worker::run;
