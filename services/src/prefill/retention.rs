//! Lets the rows of complete prefills go that are too old.

use std::time::Duration;

use bus::Error;
use tokio_util::sync::CancellationToken;

use crate::model::names;
use crate::store::Store;
use crate::store::prefill::{Cursor, Why, let_rows_go};

/// Between two looks for rows that are too old.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);

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
