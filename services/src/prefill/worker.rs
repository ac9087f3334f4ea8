//! The worker: takes tasks, claims their prefills, fills them, reports.

use std::sync::Arc;
use std::time::Duration;

use bus::{Backoff, Error, ErrorKind, HandlerError, Json, Outcome};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::fill::{FillError, Filled, fill};
use super::log_source::Logs;
use super::retention::let_old_rows_go;
use super::source::{Open, SourceError};
use crate::model::{Incarnation, Manifest, Prefill, Realm, Subscription, names};
use crate::store::{History, Store};
use crate::work::{Report, Task, send_report};

const CONSUMER: &str = "prefill-workers";
/// A killed worker's task comes again after this long.
const ACK_WAIT: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_secs(5);
const TASKS_AT_ONCE: usize = 4;
/// A prefill that workers began this often in a row without one page of progress is given up.
pub(super) const MAX_ATTEMPTS: u32 = 25;

/// Takes prefill tasks until `shutdown`, and lets rows go that are too old. Any number of workers
/// may run. On shutdown a prefill is left after the page that it is at, for another worker to go
/// on with.
pub async fn run(store: Store, shutdown: CancellationToken) -> Result<(), Error> {
    let worker =
        Arc::new(Worker { store: store.clone(), source: Box::new(Logs), stop: shutdown.clone() });
    let tasks = store
        .bus()
        .consumer(names::TASKS_STREAM, CONSUMER)
        .filter(names::TASK_SUBJECT)
        .ack_wait(ACK_WAIT)
        .max_in_flight(TASKS_AT_ONCE)
        .retry(Backoff::exponential(Duration::from_millis(500)).cap(Duration::from_secs(10)))
        .run(shutdown.clone(), move |Json(task): Json<Task>| {
            let worker = worker.clone();
            async move { worker.handle(task.of).await.map_err(HandlerError::from) }
        });
    let upkeep = async {
        let_old_rows_go(&store, shutdown).await;
        Ok(())
    };
    tokio::try_join!(tasks, upkeep).map(drop)
}

/// What tasks are handled with.
pub(super) struct Worker {
    pub(super) store: Store,
    pub(super) source: Box<dyn Open>,
    pub(super) stop: CancellationToken,
}

/// What a worker did about a task. An error instead means that it may be tried again.
#[derive(Debug)]
pub(super) enum Handled {
    /// The prefill has ended, and this says how; it is durable.
    Reported(Report),
    /// Nobody waits for it.
    Unneeded,
    /// The record cannot be read: it would be so the next time.
    Unreadable(String),
    /// Another worker is at it: to be tried again after this.
    Busy(Duration),
    /// This process was told to stop; the cursor says how far it came.
    Stopped,
}

impl From<Handled> for Outcome {
    fn from(handled: Handled) -> Self {
        match handled {
            Handled::Reported(_) | Handled::Unneeded => Self::Ack,
            // When it is mended the dispatcher asks again.
            Handled::Unreadable(why) => Self::Reject(why),
            Handled::Busy(pause) => Self::Retry(pause),
            Handled::Stopped => Self::Retry(Duration::ZERO),
        }
    }
}

/// What came of a try.
enum Done {
    Complete(Manifest),
    Failed(String),
    /// What was read is not what the fence was taken on.
    HistoryChanged(Realm, String),
}

impl Worker {
    /// A task that does not parse was rejected before: it would be none the next time either, and
    /// the dispatcher requests what is really pending.
    pub(super) async fn handle(&self, of: Incarnation) -> Result<Outcome, FillError> {
        self.attempt(&of).await.map(Outcome::from)
    }

    /// One try at a prefill, from where the last one stopped.
    pub(super) async fn attempt(&self, of: &Incarnation) -> Result<Handled, FillError> {
        let subscription = match self.pending(of).await {
            Ok(Some(subscription)) => subscription,
            Ok(None) => return Ok(Handled::Unneeded),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Ok(Handled::Unreadable(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let Some(claim) = Claim::take(&self.store, of).await? else {
            return Ok(Handled::Busy(BUSY_PAUSE));
        };
        self.work(&subscription, claim).await
    }

    /// The record, if it still waits for this very prefill.
    async fn pending(&self, of: &Incarnation) -> Result<Option<Subscription>, Error> {
        let kept = self.store.subscription(&of.name).await?;
        let waits = |s: &Subscription| s.incarnation == *of && s.prefill == Prefill::Pending;
        Ok(kept.map(|kept| kept.subscription).filter(waits))
    }

    async fn work(
        &self,
        subscription: &Subscription,
        mut claim: Claim,
    ) -> Result<Handled, FillError> {
        let of = &subscription.incarnation;
        if claim.cursor.attempts > MAX_ATTEMPTS {
            // None of them lived to say why.
            let reason =
                format!("attempts-exhausted: {MAX_ATTEMPTS} workers began it and came no further");
            return self.report(of, Done::Failed(reason), claim).await;
        }
        let (status, began) = (claim.status(), Instant::now());
        let filled = tokio::select! { biased;
            () = status.lost() => None,
            filled = self.fill(subscription, &mut claim) => Some(filled),
        };
        match filled {
            None => Ok(Handled::Busy(BUSY_PAUSE)),
            Some(Ok(Filled::Complete(manifest))) => {
                let ended = self.end(subscription, Done::Complete(manifest), claim).await;
                self.store.platform.metrics.prefill_took(began.elapsed());
                ended
            }
            Some(Ok(Filled::Stopped)) => {
                claim.hand_over().await;
                Ok(Handled::Stopped)
            }
            Some(Err(FillError::Bus(error))) if error.is_conflict() => {
                claim.release().await;
                self.forget_if_deleted(of).await?;
                Ok(Handled::Busy(BUSY_PAUSE))
            }
            Some(Err(error)) => match final_reason(&error, claim.cursor.attempts) {
                Some(reason) => self.end(subscription, Done::Failed(reason), claim).await,
                None => {
                    claim.release().await;
                    Err(error)
                }
            },
        }
    }

    async fn fill(
        &self,
        subscription: &Subscription,
        claim: &mut Claim,
    ) -> Result<Filled, FillError> {
        let mut source = self.source.open(&self.store, subscription).await?;
        fill(&self.store, subscription, source.as_mut(), claim, &self.stop).await
    }

    /// Reports how it went, unless a log was put back or made anew meanwhile: then neither is true.
    async fn end(
        &self,
        subscription: &Subscription,
        done: Done,
        claim: Claim,
    ) -> Result<Handled, FillError> {
        let changed = self.changed_history(subscription).await;
        match changed {
            Ok(changed) => {
                self.report(&subscription.incarnation, changed.unwrap_or(done), claim).await
            }
            Err(error) => {
                claim.release().await;
                Err(error.into())
            }
        }
    }

    async fn changed_history(&self, subscription: &Subscription) -> Result<Option<Done>, Error> {
        for realm in subscription.fence.keys() {
            let mark = subscription.mark(realm);
            if let History::Changed { why } = self.store.check_mark(realm, &mark).await? {
                return Ok(Some(Done::HistoryChanged(realm.clone(), why)));
            }
        }
        Ok(None)
    }

    /// The claim ends when the report is durable: until then nobody else needs to be at it.
    async fn report(
        &self,
        of: &Incarnation,
        done: Done,
        claim: Claim,
    ) -> Result<Handled, FillError> {
        let report = match done {
            Done::Complete(manifest) => {
                tracing::info!(prefill = %of, rows = manifest.rows, "prefill complete");
                Report::PrefillDone { of: of.clone(), manifest }
            }
            Done::Failed(reason) => {
                tracing::error!(prefill = %of, reason, "prefill failed");
                Report::PrefillFailed { of: of.clone(), reason }
            }
            Done::HistoryChanged(realm, why) => {
                tracing::warn!(prefill = %of, %realm, why, "the log's history has changed");
                Report::HistoryChanged { of: of.clone(), realm, why, mark: None }
            }
        };
        let outcome = match &report {
            Report::PrefillDone { .. } => "done",
            Report::PrefillFailed { .. } => "failed",
            _ => "history-changed",
        };
        if let Err(error) = send_report(&self.store, &report).await {
            claim.release().await;
            return Err(error.into());
        }
        claim.finish().await;
        self.store.platform.metrics.prefill_ended(outcome);
        Ok(Handled::Reported(report))
    }

    /// The cursor moved under us. If it is gone because the subscription is, rows written since
    /// then have no owner: remove them.
    async fn forget_if_deleted(&self, of: &Incarnation) -> Result<(), Error> {
        let kept = self.store.subscription(&of.name).await?;
        if kept.is_none_or(|kept| kept.subscription.incarnation != *of) {
            self.store.remove_prefill(of).await?;
        }
        Ok(())
    }
}

/// The reason to give the prefill up for, if it is time to.
fn final_reason(error: &FillError, attempts: u32) -> Option<String> {
    match error {
        FillError::Source(SourceError::Impossible(reason)) => Some(reason.clone()),
        FillError::Bus(error) if error.kind() == ErrorKind::Full => Some(format!(
            "prefill-queue-full: {error}: delete subscriptions that are not needed or raise the \
             limit, then prefill again"
        )),
        _ if attempts >= MAX_ATTEMPTS => {
            Some(format!("attempts-exhausted: {attempts} tries failed, the last with: {error}"))
        }
        _ => None,
    }
}
