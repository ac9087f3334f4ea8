//! Logging: keeps what the others did, each entry once, and prints it.

use bus::{ErrorKind, HandlerError, KeyValue, Outcome};

use super::Setup;
use crate::flow::Failure;
use crate::orders::event::Event;
use crate::orders::follow::follow;
use crate::orders::topic::Topic;
use crate::orders::topology::Bucket;

/// Runs logging. Any number of processes may run it at once.
pub async fn logging(setup: Setup) -> Result<(), Failure> {
    let Setup { context, settings, .. } = &setup;
    let log = Bucket::Log.open(&context.state).await?;
    let shutdown = context.shutdown.clone();
    let topic = (Topic::LoggingEvents, "logging");
    let keep = move |event| keep(log.clone(), event);
    follow(context.clone(), topic, settings.ack_wait, shutdown, keep).await
}

/// The bucket is the log; the line is a view of it, and is not printed again when an entry comes
/// twice.
async fn keep(log: KeyValue, event: Event) -> Result<Outcome, HandlerError> {
    let entry = serde_json::to_vec(&event)?;
    match log.create(&event.id, entry).await {
        Ok(_) => {
            let Event { source, order, .. } = &event;
            let payment = event.data.payment_id.as_deref();
            tracing::info!(source, %order, payment, "order is {}", event.data.status);
            Ok(Outcome::Ack)
        }
        Err(known) if known.is_conflict() => Ok(Outcome::Ack),
        Err(error) if error.kind() == ErrorKind::Invalid => Ok(Outcome::Reject(error.to_string())),
        Err(error) => Err(error.into()),
    }
}
