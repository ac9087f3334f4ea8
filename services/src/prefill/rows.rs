//! What is kept of complete prefills: bounded in time.
//!
//! Rows that were all settled, or that are older than `prefill_max_age`, go. The cursor says so
//! first, then the manifest is removed, without which no reader takes what it has for complete, and
//! then the rows. Who begins with them after that asks for another generation.

use std::time::Duration;

use bus::{Error, SubjectFilter};
use tokio_util::sync::CancellationToken;

use super::cursor::{Cursor, Gone, Why};
use crate::model::{Incarnation, names};
use crate::store::Store;
use crate::work::{Report, send_report};

/// Between two looks for rows that are too old.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
const TRIES: usize = 5;

/// Lets the rows of a complete prefill go; nothing happens to one that is not complete. On return
/// they are removed and whoever begins with them is told ([`rows_gone`]). Safe to repeat, by
/// anyone, at any time.
pub(super) async fn let_rows_go(store: &Store, of: &Incarnation, why: Why) -> Result<(), Error> {
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
    let key = names::cursor_key(of);
    for _ in 0..TRIES {
        let Some(entry) = store.cursors.get(&key).await? else { return Ok(false) };
        let mut cursor = Cursor::parse(&entry)?;
        if cursor.ended_ms.is_none() || cursor.gone.is_some_and(|gone| gone.removed) {
            return Ok(false);
        }
        let why = cursor.gone.map_or(gone.why, |gone| gone.why);
        let noted = Some(Gone { why, ..gone });
        if cursor.gone == noted {
            return Ok(true);
        }
        cursor.gone = noted;
        match store.cursors.update(&key, cursor.written()?, entry.revision).await {
            Err(error) if error.is_conflict() => {}
            written => return written.map(|_| true),
        }
    }
    let what = format!("the cursor {key} changes faster than it can be written");
    Err(Error::new(bus::ErrorKind::Unavailable, what))
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

/// Asks for another generation because the rows of this one are gone. It is durable on return;
/// asking twice changes nothing.
pub(crate) async fn begin_anew(store: &Store, of: &Incarnation) -> Result<(), Error> {
    send_report(store, &Report::RowsGone { of: of.clone() }).await
}

/// Lets rows go when they are too old, until `shutdown`. Any number of processes may do so.
pub(super) async fn let_old_rows_go(store: &Store, shutdown: CancellationToken) {
    let pause = (store.options().prefill_max_age / 24).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut wait = SHORTEST_PAUSE;
    loop {
        tokio::select! { biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = pause;
        tokio::select! { biased;
            () = shutdown.cancelled() => return,
            looked = look(store) => if let Err(error) = looked {
                tracing::warn!(%error, "old rows are kept until the next look");
                wait = SHORTEST_PAUSE;
            }
        }
    }
}

async fn look(store: &Store) -> Result<(), Error> {
    let now_ms = store.platform.clock.now_ms();
    let age_ms = u64::try_from(store.options().prefill_max_age.as_millis()).unwrap_or(u64::MAX);
    for entry in store.cursors.entries(">").await? {
        let (Some(of), Ok(cursor)) = (names::parse_cursor_key(&entry.key), Cursor::parse(&entry))
        else {
            continue;
        };
        let old = cursor.ended_ms.is_some_and(|ended| ended.saturating_add(age_ms) <= now_ms);
        // One that was interrupted is finished, whatever its age.
        let unfinished = cursor.gone.is_some_and(|gone| !gone.removed);
        if unfinished || (old && cursor.gone.is_none()) {
            let_rows_go(store, &of, Why::Age).await?;
        }
    }
    Ok(())
}
