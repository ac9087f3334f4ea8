//! What goes on behind a member's calls: commits, copies to the retry topic, and its upkeep.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::desk::Copy;
use super::shared::Shared;
use super::{retry, topics};
use crate::error::{Error, ErrorKind, Result};

/// How long a settlement waits for its commit, or for its copy.
const SETTLE_LIMIT: Duration = Duration::from_secs(40);
/// How soon an ack that nobody waits for is committed.
const SAVE_EVERY: Duration = Duration::from_millis(200);
/// How often positions are committed that have not changed: brokers that count their retention
/// from the last commit (KIP-848) forget them otherwise, at the earliest after a minute.
const KEEP_EVERY: Duration = Duration::from_secs(30);
/// How soon a commit that failed is tried again.
const SAVE_AGAIN: Duration = Duration::from_millis(50);
/// How often it is looked for what rests in the way.
const TIDY_EVERY: Duration = Duration::from_secs(1);
/// How many messages are moved then.
const TIDY_BATCH: usize = 256;
/// How often retries that are settled are removed, and from how many on that does not wait.
const TRIM_EVERY: Duration = Duration::from_secs(60);
const TRIM_FROM: i64 = 1000;

/// Copies a message to the retry topic, and settles it when the copy is durable.
pub(super) async fn retry_later(shared: Arc<Shared>, copy: Copy) -> Result<()> {
    let to = match retry::copy(&shared, &copy).await {
        Ok(to) => to,
        Err(error) => {
            if let Ok(mut state) = shared.lock() {
                state.desk.not_copied(&copy);
            }
            shared.arrived.notify_waiters();
            return Err(error);
        }
    };
    let waiting = {
        let mut state = shared.lock()?;
        if !state.desk.copied(&copy, to) {
            let what = "the partition of this message went to another member meanwhile: it may be \
                        delivered twice";
            return Err(Error::new(ErrorKind::Stale, what));
        }
        shared.arrived.notify_waiters();
        let part = (copy.slot.retry, copy.slot.partition);
        shared.confirm(&mut state, part, copy.generation)
    };
    confirmed(waiting).await
}

/// Commits when someone waits for it, and now and then for those who do not, in a thread of its
/// own. What is settled last is committed by who leaves the group.
pub(super) fn save_all(shared: &Shared) {
    let (mut pause, mut kept) = (SAVE_EVERY, Instant::now());
    while !shared.stop.is_cancelled() {
        shared.save_bell.wait(pause);
        let Some(client) = shared.state().client.clone() else { continue };
        let turn = shared.commits.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.elapsed() >= KEEP_EVERY {
            kept = Instant::now();
            shared.state().desk.unsave();
        }
        let saved = shared.save(&client);
        drop(turn);
        pause = if saved { SAVE_EVERY } else { SAVE_AGAIN };
    }
}

pub(super) async fn confirmed(waiting: oneshot::Receiver<Result<()>>) -> Result<()> {
    match tokio::time::timeout(SETTLE_LIMIT, waiting).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(super::threads::closed()),
        Err(_) => {
            let what = "the settlement was not committed in time: it is as soon as the broker is \
                        back, unless the message is delivered again";
            Err(Error::new(ErrorKind::Timeout, what))
        }
    }
}

/// Keeps the retry topic in order for as long as the member lives: what rests in the way goes to
/// its end, and what is settled goes away.
pub(super) async fn tidy(shared: Arc<Shared>) {
    let (mut trimmed, mut removed) = (Instant::now(), BTreeMap::new());
    loop {
        tokio::select! { biased;
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(TIDY_EVERY) => {}
        }
        let settled = shared.state().settled_since(&removed);
        if trimmed.elapsed() >= TRIM_EVERY || settled >= TRIM_FROM {
            trimmed = Instant::now();
            trim(&shared, &mut removed).await;
        }
        let copies = match shared.lock() {
            Ok(mut state) => state.desk.in_the_way(TIDY_BATCH, Instant::now()),
            Err(_) => return,
        };
        let moves = copies.into_iter().map(|copy| retry_later(shared.clone(), copy));
        for moved in futures_util::future::join_all(moves).await {
            if let Err(error) = moved {
                tracing::debug!(%error, "a message that rests was not moved");
            }
        }
        shared.bell.ring();
    }
}

/// Removes the retries that the group has passed, and notes how far. Those of a failure are removed
/// the next time.
async fn trim(shared: &Shared, removed: &mut BTreeMap<i32, i64>) {
    let saved = std::mem::take(&mut shared.state().saved);
    let is_news =
        |(partition, offset): &(i32, i64)| *offset > removed.get(partition).copied().unwrap_or(0);
    let passed: Vec<(i32, i64)> = saved.into_iter().filter(is_news).collect();
    if passed.is_empty() {
        return;
    }
    if let Err(error) = topics::empty(&shared.link, &shared.of.topics[1], &passed).await {
        tracing::debug!(%error, "retries that are settled are still there");
        let mut state = shared.state();
        for (partition, offset) in passed {
            state.saved.entry(partition).or_insert(offset);
        }
        return;
    }
    removed.extend(passed);
}
