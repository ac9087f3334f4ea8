//! What a handler takes and what it says.

mod argument;
mod outcome;

pub use argument::{FromMessage, Json, Received};
pub use outcome::{HandlerError, Outcome, ack, retry};
