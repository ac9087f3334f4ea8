//! Removing what is kept for one incarnation. What is gone already is no error, so that every
//! removal may be repeated.

use bus::{Error, SubjectFilter};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Store;
use crate::limits::BUS_WINDOW;
use crate::model::{Incarnation, names};

impl Store {
    /// Removes the prefill queue: its rows, the claim on it and, last, the cursor, because as long
    /// as that is there the dispatcher tries again. A worker that is still at it loses its claim
    /// and its next step.
    pub(crate) async fn remove_prefill(&self, of: &Incarnation) -> Result<(), Error> {
        self.leases.delete(names::claim_key(of), None).await?;
        self.prefill.purge(&names::prefill_filter(of)?).await?;
        self.cursors.delete(names::cursor_key(of), None).await
    }

    /// Removes the dead letters of an incarnation whose record is gone, and then its hand-out
    /// journals: as long as there is one of these the dispatcher tries again. A session that still
    /// serves it may write one more; that one has no record, and the dispatcher removes it.
    pub(crate) async fn remove_journals(&self, of: &Incarnation) -> Result<(), Error> {
        let letters = SubjectFilter::new(names::dead_letters_filter(of))?;
        self.dead_letters.purge(&letters).await?;
        let keys = self.journal.keys(&names::journal_filter(of)).await?;
        let delete = |key| async move { self.journal.delete(&key, None).await };
        stream::iter(keys).map(Ok).try_for_each_concurrent(BUS_WINDOW, delete).await
    }
}
