//! The request for a prefill.

use bus::{Error, Message};
use serde::{Deserialize, Serialize};

use crate::model::{Incarnation, names};
use crate::store::Store;

/// A prefill to be done. It holds no more than whose it is: topics and fence are in the record,
/// so that a task can be requested again at any time and by anyone. Keep stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Whose.
    pub(crate) of: Incarnation,
}

/// Puts a task into the work queue; on return it is durable. A request that is repeated within
/// the stream's duplicate window is the same task, one that comes later is a second task, which
/// its worker finds done.
pub(crate) async fn request_prefill(store: &Store, of: &Incarnation) -> Result<(), Error> {
    let task = Task { of: of.clone() };
    let id = format!("{} prefill", names::cursor_key(of));
    store.tasks.publish(Message::json(names::TASK_SUBJECT, &task)?.id(id)).await?;
    Ok(())
}
