//! The request for a prefill, as it stands in the work queue.

use bus::{Error, Message};
use serde::{Deserialize, Serialize};

use super::{Executor, Incarnation, names};

/// A prefill to be done. It holds no more than whose it is: topics and fence are in the record,
/// so that a task can be requested again at any time and by anyone. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Whose.
    pub of: Incarnation,
}

impl Task {
    /// The task as a message to those who carry it out. Requested again within the stream's
    /// duplicate window it is the same task; one that comes later is a second task, which whoever
    /// takes it finds done.
    pub fn message(&self, executor: Executor) -> Result<Message, Error> {
        let id = format!("{} prefill {executor}", names::cursor_key(&self.of));
        Ok(Message::json(executor.task_subject(), self)?.id(id))
    }
}
