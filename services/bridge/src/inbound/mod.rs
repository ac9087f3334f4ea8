//! From Kafka into the log.
//!
//! ```text
//! group says: partition 3 is yours (poll thread)
//!     -> position of partition 3, read from the log -> assigned from there -> a task for it
//! poll thread:  records -> the task's queue, bounded in bytes; a full one is paused
//! task:         queue -> one batch (events, parked records, position) -> next batch
//! ```
//!
//! A batch is refused whole when the position in the log is not the one the task stands on: somebody
//! else carries the partition. Whatever goes wrong beside the log being away ends the attempt, and
//! the next one begins from the positions in the log.

mod attempt;
mod batch;
mod context;
mod partition;
mod position;

pub(crate) use attempt::run;
