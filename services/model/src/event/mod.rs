//! Events: what a publisher sends, what a log holds, and the JSON a consumer receives.

mod attribute;
mod binary;
mod cloud_event;
mod fault;
mod in_log;
mod json;
mod log_event;
mod members;
mod row;
mod structured;
mod timestamp;

#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod tests;

pub use cloud_event::CloudEvent;
pub use fault::{EventFault, FaultKind};
pub use log_event::LogEvent;
pub use row::Row;

/// The prefix of a CloudEvents attribute carried as a header.
const PREFIX: &str = "ce-";
/// The header that carries the attribute `datacontenttype`.
const CONTENT_TYPE: &str = "content-type";
