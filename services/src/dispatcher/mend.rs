//! Doing it: every action may be done twice.

use bus::{Error, ErrorKind};

use super::plan::Action;
use crate::model::names;
use crate::prefill::request_prefill;
use crate::registration::{Report, final_queue, remove_prefill, remove_settled, send_report};
use crate::store::Store;

/// Carries out one action. An error leaves the rest to the next pass.
pub(super) async fn mend(store: &Store, action: Action) -> Result<(), Error> {
    match action {
        Action::Join { subscription, realm } => {
            let config = final_queue(&subscription, &realm, 0)?;
            store.bus().ensure_consumer(names::log_stream(&realm)?, &config).await?;
            send_report(store, &Report::RealmJoined { of: subscription.incarnation, realm }).await
        }
        Action::Lost { of, realm } => {
            // The list may be older than the record: ask for this one queue.
            let (log, queue) = (names::log_stream(&realm)?, names::final_queue(&of)?);
            match store.bus().consumer_info(log, queue).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    send_report(store, &Report::QueueLost { of, realm }).await
                }
                other => other.map(drop),
            }
        }
        Action::RemoveFinalQueue { realm, queue } => {
            tracing::info!(%realm, queue, "removing a final queue without a record");
            gone(store.bus().delete_consumer(names::log_stream(&realm)?, queue).await)
        }
        Action::RemovePrefillQueue { queue } => {
            gone(store.bus().delete_consumer(names::PREFILL_STREAM, queue).await)
        }
        Action::RemovePrefill { of } => {
            tracing::info!(prefill = %of, "removing a prefill without a record");
            remove_prefill(store, &of).await
        }
        Action::RemoveSettled { of } => {
            tracing::info!(incarnation = %of, "removing what is settled of queues without a record");
            remove_settled(store, &of).await
        }
        Action::RequestPrefill { of } => request_prefill(store, &of).await,
    }
}

fn gone(deleted: Result<(), Error>) -> Result<(), Error> {
    match deleted {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
