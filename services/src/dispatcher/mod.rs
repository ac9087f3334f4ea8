//! The dispatcher: holds what is on the bus against the records and mends the difference.
//!
//! Work goes by key: a change of a record or of a realm puts the subscriptions that it concerns on
//! an agenda, and nothing is done for the others. What no change tells of is found by going through
//! everything now and then.

mod agenda;
mod history;
mod known;
mod mend;

use std::time::Duration;

use bus::{Error, KvChange, Watch};
use futures_util::{FutureExt, StreamExt, stream};
use known::{Key, Known};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// How often everything is gone through.
const ROUND: Duration = Duration::from_secs(600);
/// Keys at work at once, and in one go.
const AT_ONCE: usize = 16;
const BATCH: usize = 256;
/// Changes taken in before the agenda is looked at again.
const DRAINED: usize = 4096;
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);
/// A watch that fails this often in a row is opened again.
const WATCH_TRIES: usize = 3;
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Reconciles until `shutdown`: everything at the start and every ten minutes, in between what a
/// change concerns. Any number of dispatchers may run: every step is idempotent.
pub async fn run(store: Store, shutdown: CancellationToken) -> Result<(), Error> {
    loop {
        let round = tokio::select! { biased;
            () = shutdown.cancelled() => return Ok(()),
            round = round(&store) => round,
        };
        if let Err(error) = round {
            tracing::warn!(%error, "reconciling failed, trying again");
            tokio::select! { biased;
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(PAUSE_AFTER_ERROR) => {}
            }
        }
    }
}

/// Goes through everything, and then follows the changes until it is time for the next round.
async fn round(store: &Store) -> Result<(), Error> {
    let ends = Instant::now() + ROUND;
    let lives = mend::lives(store).await?;
    let mut known = Known::new();
    let mut subscriptions = store.subscriptions.watch(">").await?;
    let mut realms = store.realms.watch(">").await?;
    while !known.realm(next(&mut realms).await?, Instant::now()) {}
    while !known.subscription(next(&mut subscriptions).await?, Instant::now()) {}
    known.sweep(lives, Instant::now());
    let mut look_at = Instant::now();
    loop {
        if Instant::now() >= look_at {
            look_at = known.histories.look(store).await;
        }
        let batch = known.due(Instant::now(), BATCH);
        if batch.is_empty() {
            let wake = known.next_at().map_or(ends, |at| at.min(ends)).min(look_at);
            tokio::select! { biased;
                change = next(&mut subscriptions) => {
                    known.subscription(change?, Instant::now());
                }
                change = next(&mut realms) => {
                    known.realm(change?, Instant::now());
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        work(store, &mut known, batch).await;
        if Instant::now() >= ends {
            return Ok(());
        }
        drain(&mut known, &mut subscriptions, Known::subscription)?;
        drain(&mut known, &mut realms, Known::realm)?;
    }
}

/// The next change; a failure that may pass ends the watch only when it comes again and again.
async fn next(watch: &mut Watch) -> Result<KvChange, Error> {
    for _ in 1..WATCH_TRIES {
        match watch.next().await {
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "the watch failed, asking it again");
                tokio::time::sleep(WATCH_PAUSE).await;
            }
            told => return told,
        }
    }
    watch.next().await
}

/// Takes in the changes that are there already. One that cannot be told is asked for again later.
fn drain(
    known: &mut Known,
    watch: &mut Watch,
    take_in: fn(&mut Known, KvChange, Instant) -> bool,
) -> Result<(), Error> {
    let now = Instant::now();
    for _ in 0..DRAINED {
        match watch.next().now_or_never() {
            Some(Ok(change)) => {
                take_in(known, change, now);
            }
            Some(Err(error)) if !error.is_retryable() => return Err(error),
            Some(Err(_)) | None => break,
        }
    }
    Ok(())
}

/// Tends to each key. One that fails is put off, and keeps no other from its turn.
async fn work(store: &Store, known: &mut Known, batch: Vec<Key>) {
    let tasks = batch.into_iter().map(|key| {
        let lack = match &key {
            Key::Subscription(name) => known.lack(name),
            Key::Gone(_) => None,
        };
        async move {
            let done = match (&key, lack) {
                (Key::Gone(of), _) => mend::remove(store, of).await.map(|()| None),
                (Key::Subscription(_), Some(lack)) => mend::give(store, lack).await.map(Some),
                (Key::Subscription(_), None) => Ok(None),
            };
            (key, done)
        }
    });
    let tasks: Vec<_> = tasks.collect();
    let mut done = stream::iter(tasks).buffered(AT_ONCE);
    while let Some((key, done)) = done.next().await {
        match (key, done) {
            (Key::Subscription(name), Ok(Some(cursor))) => {
                known.tended(&name, cursor, Instant::now());
            }
            (_, Ok(_)) => {}
            (key, Err(error)) => {
                tracing::warn!(?key, %error, "not mended, trying again");
                known.again(key, Instant::now() + PAUSE_AFTER_ERROR);
            }
        }
    }
}
