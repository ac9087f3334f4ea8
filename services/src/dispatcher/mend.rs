//! Doing it: every action may be done twice.

use bus::{Error, ErrorKind};

use super::plan::Action;
use crate::model::names;
use crate::registration::final_queue;
use crate::store::{Store, missing_is_fine};
use crate::work::{Report, request_prefill, send_report};

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
            missing_is_fine(store.bus().delete_consumer(names::log_stream(&realm)?, queue).await)
        }
        Action::RemovePrefillQueue { queue } => {
            missing_is_fine(store.bus().delete_consumer(names::PREFILL_STREAM, queue).await)
        }
        Action::RemovePrefill { of } => {
            tracing::info!(prefill = %of, "removing a prefill without a record");
            store.remove_prefill(&of).await
        }
        Action::RemoveSettled { of } => {
            tracing::info!(incarnation = %of, "removing what is settled of queues without a record");
            store.remove_settled(&of).await
        }
        Action::RequestPrefill { of } => request_prefill(store, &of).await,
    }
}
