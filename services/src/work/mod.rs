//! What the roles hand each other over the durable work queue.

mod report;
mod task;

pub(crate) use report::{Report, rows_are_missed, send_report};
pub(crate) use task::{Task, request_prefill};
