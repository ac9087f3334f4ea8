//! Removing what is kept for one incarnation. What is gone already is no error, so that every
//! removal may be repeated.

use bus::{Error, ErrorKind};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Store;
use crate::limits::BUS_WINDOW;
use crate::model::{Incarnation, Realm, names};

impl Store {
    /// Removes the final queue on a realm's log, and its position.
    pub(crate) async fn remove_final_queue(
        &self,
        of: &Incarnation,
        realm: &Realm,
    ) -> Result<(), Error> {
        let (log, queue) = (names::log_stream(realm)?, names::final_queue(of)?);
        missing_is_fine(self.bus().delete_consumer(log, queue).await)
    }

    /// Removes the prefill queue: its consumer, its rows, what of it is settled, and last the
    /// cursor, because as long as that is there the dispatcher tries again.
    pub(crate) async fn remove_prefill(&self, of: &Incarnation) -> Result<(), Error> {
        let queue = names::prefill_queue(of)?;
        missing_is_fine(self.bus().delete_consumer(names::PREFILL_STREAM, queue).await)?;
        self.prefill.purge(&names::prefill_filter(of)?).await?;
        self.settled.delete(names::settled_prefill_key(of), None).await?;
        self.cursors.delete(names::cursor_key(of), None).await
    }

    /// Forgets what is settled of all queues; they must be gone.
    pub(crate) async fn remove_settled(&self, of: &Incarnation) -> Result<(), Error> {
        let keys = self.settled.keys(&names::settled_filter(of)).await?;
        let delete = |key| async move { self.settled.delete(&key, None).await };
        stream::iter(keys).map(Ok).try_for_each_concurrent(BUS_WINDOW, delete).await
    }
}

/// `Ok` for what was gone already.
pub(crate) fn missing_is_fine(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
