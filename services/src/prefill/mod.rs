//! The prefill worker: takes tasks from a durable queue, fills prefill queues, and lets old rows go.

mod claim;
mod fill;
mod log_reader;
mod log_source;
mod one;
mod retention;
mod source;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use log_source::LogSource;
pub use one::run_one;
pub(crate) use source::{Page, Source, SourceError};
pub use worker::run;
