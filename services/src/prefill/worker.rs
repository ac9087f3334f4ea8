//! The worker: claims a task's cursor, writes rows page by page, closes with a manifest, reports.

use std::time::Duration;

use bus::{Backoff, Error, HandlerError, Json, Message, Outcome};
use tokio_util::sync::CancellationToken;

use super::cursor::Claim;
use super::log_source::LogSource;
use super::source::{Page, Source, SourceError};
use crate::model::{Incarnation, Manifest, Prefill, Subscription, names};
use crate::store::Store;
use crate::work::{Report, Task, send_report};

const CONSUMER: &str = "prefill-workers";
/// A killed worker's task comes again after this long.
const ACK_WAIT: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_secs(5);
const TASKS_AT_ONCE: usize = 4;
/// A prefill that workers began this often without an end is given up.
const MAX_CLAIMS: u32 = 25;

/// Takes prefill tasks until `shutdown`. Any number of workers may run.
pub async fn run(store: Store, shutdown: CancellationToken) -> Result<(), Error> {
    let bus = store.bus().clone();
    bus.consumer(names::TASKS_STREAM, CONSUMER)
        .filter(names::TASK_SUBJECT)
        .ack_wait(ACK_WAIT)
        .max_in_flight(TASKS_AT_ONCE)
        .retry(Backoff::exponential(Duration::from_millis(500)).cap(Duration::from_secs(10)))
        .run(shutdown, move |Json(task): Json<Task>| {
            let store = store.clone();
            async move { handle(&store, task.of).await.map_err(HandlerError::from) }
        })
        .await
}

/// A task that does not parse was rejected before: it would be none the next time either, and the
/// dispatcher requests what is really pending.
async fn handle(store: &Store, of: Incarnation) -> Result<Outcome, WorkError> {
    let Some(subscription) = pending(store, &of).await? else {
        return Ok(Outcome::Ack);
    };
    match prefill(store, &subscription).await? {
        Done::Complete(manifest) => {
            tracing::info!(prefill = %of, rows = manifest.rows, "prefill complete");
            send_report(store, &Report::PrefillDone { of, manifest }).await?;
            Ok(Outcome::Ack)
        }
        Done::Failed(reason) => {
            tracing::error!(prefill = %of, reason, "prefill failed");
            send_report(store, &Report::PrefillFailed { of, reason }).await?;
            Ok(Outcome::Ack)
        }
        Done::Busy => Ok(Outcome::Retry(BUSY_PAUSE)),
    }
}

/// The record, if it still waits for this very prefill.
async fn pending(store: &Store, of: &Incarnation) -> Result<Option<Subscription>, Error> {
    let kept = store.subscription(&of.name).await?;
    let waits = |s: &Subscription| s.incarnation == *of && s.prefill == Prefill::Pending;
    Ok(kept.map(|kept| kept.subscription).filter(waits))
}

/// What came of a try. An error instead means that it may be tried again.
enum Done {
    Complete(Manifest),
    Failed(String),
    /// Another worker is at it, or has taken over.
    Busy,
}

async fn prefill(store: &Store, subscription: &Subscription) -> Result<Done, WorkError> {
    let of = &subscription.incarnation;
    let Some(mut claim) = Claim::take(store, of).await? else {
        return Ok(Done::Busy);
    };
    let claims = claim.cursor.claims;
    if claims > MAX_CLAIMS {
        // None of them lived to say why.
        let reason = format!("attempts-exhausted: {MAX_CLAIMS} workers began it, none finished");
        return Ok(Done::Failed(reason));
    }
    match fill(store, subscription, &mut claim).await {
        Ok(manifest) => Ok(Done::Complete(manifest)),
        Err(WorkError::Bus(error)) if error.is_conflict() => {
            forget_if_deleted(store, of).await?;
            Ok(Done::Busy)
        }
        Err(error) => match error.final_reason(claims) {
            Some(reason) => Ok(Done::Failed(reason)),
            None => {
                claim.release().await;
                Err(error)
            }
        },
    }
}

async fn fill(
    store: &Store,
    subscription: &Subscription,
    claim: &mut Claim,
) -> Result<Manifest, WorkError> {
    let mut source = LogSource::open(store, &subscription.topics, &subscription.fence).await?;
    loop {
        let position = claim.cursor.position.clone();
        let Page { rows, scanned, total, next } = source.page(position.as_ref()).await?;
        let mut digest = claim.digest()?;
        let mut messages = Vec::with_capacity(rows.len());
        for row in &rows {
            digest.add(&row.topic.realm, row.sequence);
            messages.push(row.row_message(&subscription.incarnation)?);
        }
        for written in store.prefill.publish_all(messages).await {
            already_there_is_fine(written.map(drop))?;
        }
        claim.cursor.total = total;
        let Some(next) = next else { break };
        claim.advance(next, scanned, rows.len() as u64, digest).await?;
    }
    let manifest = Manifest {
        generation: subscription.incarnation.generation,
        fence: subscription.fence.clone(),
        rows: claim.cursor.rows,
        digest: claim.cursor.digest.clone(),
    };
    let subject = names::manifest_subject(&subscription.incarnation)?;
    let closing = Message::json(subject, &manifest)?.expect_last(0);
    already_there_is_fine(store.prefill.publish(closing).await.map(drop))?;
    Ok(manifest)
}

/// A row or manifest whose subject has a message already was written before by this prefill, from
/// the same fence, and so is the same.
fn already_there_is_fine(written: Result<(), Error>) -> Result<(), Error> {
    match written {
        Err(error) if error.is_conflict() => Ok(()),
        other => other,
    }
}

/// The cursor moved under us. If it is gone because the subscription is, rows written since then
/// have no owner: remove them.
async fn forget_if_deleted(store: &Store, of: &Incarnation) -> Result<(), Error> {
    let kept = store.subscription(&of.name).await?;
    if kept.is_none_or(|kept| kept.subscription.incarnation != *of) {
        store.remove_prefill(of).await?;
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Bus(#[from] Error),
}

impl WorkError {
    /// The reason to give the prefill up for, if it is time to.
    fn final_reason(&self, claims: u32) -> Option<String> {
        match self {
            Self::Source(SourceError::Impossible(reason)) => Some(reason.clone()),
            Self::Bus(error) if error.kind() == bus::ErrorKind::Full => Some(format!(
                "prefill-queue-full: {error}: delete subscriptions that are not needed or raise \
                 the limit, then prefill again"
            )),
            _ if claims >= MAX_CLAIMS => {
                Some(format!("attempts-exhausted: {claims} tries failed, the last with: {self}"))
            }
            _ => None,
        }
    }
}
