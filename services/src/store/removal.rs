//! Removing what is kept for one incarnation. What is gone already is no error, so that every
//! removal may be repeated.

use bus::Error;

use super::Store;
use crate::model::{Incarnation, names};

impl Store {
    /// Removes the prefill queue: its rows and, last, the cursor, because as long as that is there
    /// the dispatcher tries again.
    pub(crate) async fn remove_prefill(&self, of: &Incarnation) -> Result<(), Error> {
        self.prefill.purge(&names::prefill_filter(of)?).await?;
        self.cursors.delete(names::cursor_key(of), None).await
    }

    /// Removes the hand-out journals of an incarnation whose record is gone. A session that still
    /// serves it may write one more; that one has no record, and the dispatcher removes it.
    pub(crate) async fn remove_journals(&self, of: &Incarnation) -> Result<(), Error> {
        for key in self.journal.keys(&names::journal_filter(of)).await? {
            self.journal.delete(&key, None).await?;
        }
        Ok(())
    }
}
