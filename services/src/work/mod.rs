//! What the roles hand each other over the durable work queue.

use bus::Error;

use crate::model::Incarnation;
pub(crate) use crate::model::{Report, Task};
use crate::store::Store;

/// Puts a task into the work queue, for who carries out the prefills of this installation; on
/// return it is durable. It may be repeated ([`Task::message`]).
pub(crate) async fn request_prefill(store: &Store, of: &Incarnation) -> Result<(), Error> {
    let task = Task { of: of.clone() };
    store.tasks.publish(task.message(store.options().prefill_executor)?).await?;
    Ok(())
}

/// Hands a report over; on return it is durable and will be applied.
pub(crate) async fn send_report(store: &Store, report: &Report) -> Result<(), Error> {
    store.tasks.publish(report.message()?).await?;
    Ok(())
}

/// Asks for another generation because the rows of this one are gone. It is durable on return;
/// asking twice changes nothing.
pub(crate) async fn rows_are_missed(store: &Store, of: &Incarnation) -> Result<(), Error> {
    send_report(store, &Report::RowsGone { of: of.clone() }).await
}
