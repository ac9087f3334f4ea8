//! From the log to Kafka.
//!
//! ```text
//! lease of the route -> producer: who came before is fenced -> position read from its topic
//!     -> reader of the log behind it
//! reader: next events        at the same time        producer: one transaction
//!                                                    (records, position), committed
//! ```
//!
//! The lease spares two processes from fencing each other for ever; what keeps a record from being
//! there twice is the transaction, or its absence.

mod attempt;
mod position;
mod producer;

pub(crate) use attempt::{run, send_once};
