//! What is kept of complete prefills: bounded in time.
//!
//! Rows that were all settled, or that are older than `prefill_max_age`, go. The cursor says so
//! first, then the manifest is removed, without which no reader takes what it has for complete, and
//! then the rows. Who begins with them after that asks for another generation.

use bus::{Error, SubjectFilter};

use super::cursor::{Cursor, Gone, Why};
use crate::model::{Incarnation, names};
use crate::store::Store;

/// Lets the rows of a complete prefill go; nothing happens to one that is not complete. On return
/// they are removed and whoever begins with them is told ([`rows_gone`]). Safe to repeat, by
/// anyone, at any time.
pub(crate) async fn let_rows_go(store: &Store, of: &Incarnation, why: Why) -> Result<(), Error> {
    if mark(store, of, Gone { why, removed: false }).await? {
        store.prefill.purge(&SubjectFilter::from(&names::manifest_subject(of)?)).await?;
        store.prefill.purge(&names::prefill_filter(of)?).await?;
        mark(store, of, Gone { why, removed: true }).await?;
        tracing::info!(prefill = %of, ?why, "the rows were let go");
    }
    Ok(())
}

/// Notes that every row of a prefill is settled: nobody reads them on, and they are removed within
/// some minutes. Safe to repeat.
pub(crate) async fn rows_are_settled(store: &Store, of: &Incarnation) -> Result<(), Error> {
    mark(store, of, Gone { why: Why::Settled, removed: false }).await.map(drop)
}

/// Notes it in the cursor; false when there is nothing to do.
async fn mark(store: &Store, of: &Incarnation, gone: Gone) -> Result<bool, Error> {
    let mut is_marked = false;
    let note = |cursor: Option<Cursor>| {
        is_marked = false;
        let mut cursor = cursor?;
        if cursor.ended_ms.is_none() || cursor.gone.is_some_and(|gone| gone.removed) {
            return None;
        }
        is_marked = true;
        let why = cursor.gone.map_or(gone.why, |gone| gone.why);
        let before = cursor.gone.replace(Gone { why, ..gone });
        (cursor.gone != before).then_some(cursor)
    };
    store.cursors.modify(names::cursor_key(of), note).await?;
    Ok(is_marked)
}

/// Why the rows of a prefill are not there any more, if they are not: a sentence for the consumer.
/// To be asked before the first row is read, and whenever a row that must come does not.
pub(crate) async fn rows_gone(
    store: &Store,
    of: &Incarnation,
) -> Result<Option<&'static str>, Error> {
    let gone = Cursor::read(store, of).await?.and_then(|cursor| cursor.gone);
    Ok(gone.map(|gone| match gone.why {
        Why::Settled => "the rows of this prefill were settled and are not kept any more",
        Why::Age => "the rows of this prefill were too old and are not kept any more",
    }))
}
