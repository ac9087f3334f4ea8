//! The work queue of reports, applied to the records they are about.

use std::time::Duration;

use bus::{Backoff, Error, ErrorKind, FromMessage, HandlerError, Json, Outcome, Received};
use tokio_util::sync::CancellationToken;

use super::core::{Registration, RegistrationError};
use crate::model::{Mark, Prefill, Subscription, names};
use crate::store::Kept;
use crate::work::Report;

const CONSUMER: &str = "registration";
const ACK_WAIT: Duration = Duration::from_secs(10);
/// A report that fails this often is dropped, after about a minute and a half. What it says is so
/// all the same: who found it finds it again, the dispatcher with its next pass, a worker by the
/// task that the dispatcher requests then.
const MAX_ATTEMPTS: u32 = 20;

/// Applies reports until `shutdown`.
pub(super) async fn run_reports(
    registration: Registration,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let bus = registration.store.bus().clone();
    bus.consumer(names::TASKS_STREAM, CONSUMER)
        .filter(names::REPORT_SUBJECT)
        .ack_wait(ACK_WAIT)
        .max_in_flight(8)
        .retry(Backoff::exponential(Duration::from_millis(200)).cap(Duration::from_secs(5)))
        .run(shutdown, move |received: Received| {
            let registration = registration.clone();
            async move {
                let attempt = received.attempt;
                let report = match Json::<Report>::from_message(received) {
                    Ok(Json(report)) => report,
                    Err(malformed) => return Ok(Outcome::Reject(malformed.to_string())),
                };
                match registration.apply(&report).await {
                    Ok(()) => Ok(Outcome::Ack),
                    Err(error) if attempt >= MAX_ATTEMPTS || is_final(&error) => {
                        let of = report.of();
                        tracing::error!(%of, %error, "report dropped: {}", report.news());
                        Ok(Outcome::Reject(error.to_string()))
                    }
                    Err(error) => Err(HandlerError::from(error)),
                }
            }
        })
        .await
}

/// True when the next attempt would fail in the same way: the record cannot be read.
fn is_final(error: &RegistrationError) -> bool {
    matches!(error, RegistrationError::Bus(error) if error.kind() == ErrorKind::Corrupt)
}

impl Registration {
    /// Applies a report to the record it is about. One about an earlier incarnation, or about
    /// what is so already, changes nothing.
    async fn apply(&self, report: &Report) -> Result<(), RegistrationError> {
        let Some(kept) = self.store.subscription(&report.of().name).await? else {
            return Ok(());
        };
        if kept.subscription.incarnation != *report.of() {
            return Ok(());
        }
        if let Report::HistoryChanged { realm, mark, .. } = report {
            tracing::warn!(incarnation = %report.of(), "{}, beginning again", report.news());
            self.history_changed(kept, realm, mark.as_ref()).await?;
            return Ok(());
        }
        if matches!(report, Report::RowsGone { .. }) {
            if matches!(kept.subscription.prefill, Prefill::Done { .. }) {
                let of = report.of();
                tracing::info!(incarnation = %of, "begun anew without rows, prefilling again");
                self.prefill_again(kept).await?;
            }
            return Ok(());
        }
        let Some(mut changed) = changed_by(report, &kept) else { return Ok(()) };
        if let Report::RealmJoined { realm, .. } = report {
            match self.store.life(realm).await {
                Err(_) if self.store.log_is_missing(realm).await? => {}
                life => drop(changed.marks.insert(realm.clone(), Mark::start(life?))),
            }
        }
        self.store.keep_subscription(&changed, kept.revision).await?;
        tracing::info!(subscription = %changed.incarnation, "{}", report.news());
        Ok(())
    }
}

fn changed_by(report: &Report, kept: &Kept) -> Option<Subscription> {
    let mut changed = kept.subscription.clone();
    match report {
        Report::PrefillDone { manifest, .. } if changed.prefill == Prefill::Pending => {
            changed.prefill = Prefill::Done { manifest: manifest.clone() };
        }
        Report::PrefillFailed { reason, .. } if changed.prefill == Prefill::Pending => {
            changed.prefill = Prefill::Failed { reason: reason.clone() };
        }
        Report::RealmJoined { realm, .. } if !changed.fence.contains_key(realm) => {
            changed.fence.insert(realm.clone(), 0);
        }
        _ => return None,
    }
    Some(changed)
}
