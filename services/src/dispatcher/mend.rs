//! Doing it: every action may be done twice.

use bus::Error;

use super::plan::Action;
use crate::store::Store;
use crate::work::{Report, request_prefill, send_report};

/// Carries out one action. An error leaves the rest to the next pass.
pub(super) async fn mend(store: &Store, action: Action) -> Result<(), Error> {
    match action {
        Action::Join { of, realm } => send_report(store, &Report::RealmJoined { of, realm }).await,
        Action::RemovePrefill { of } => {
            tracing::info!(prefill = %of, "removing a prefill without a record");
            store.remove_prefill(&of).await
        }
        Action::RemoveJournals { of } => {
            tracing::info!(incarnation = %of, "removing hand-out journals without a record");
            store.remove_journals(&of).await
        }
        Action::RequestPrefill { of } => request_prefill(store, &of).await,
    }
}
