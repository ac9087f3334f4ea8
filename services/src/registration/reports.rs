//! What workers and the dispatcher tell the registration API, over a durable queue: it survives
//! the death of either side, and a report that comes twice changes nothing.

use bus::{Backoff, Error, HandlerError, Json, Message, Outcome};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

use super::core::{Registration, RegistrationError, report_id};
use crate::model::{Incarnation, Manifest, Prefill, Realm, Subscription, names};
use crate::store::{Kept, Store};

const CONSUMER: &str = "registration";
const ACK_WAIT: Duration = Duration::from_secs(10);

/// A report. Keep stable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub(crate) enum Report {
    /// The prefill queue is complete and closed.
    PrefillDone {
        /// Whose.
        of: Incarnation,
        /// What it holds.
        manifest: Manifest,
    },
    /// The prefill was given up.
    PrefillFailed {
        /// Whose.
        of: Incarnation,
        /// Why, and what to do.
        reason: String,
    },
    /// A realm that the topics include was made after the fence; its final queue exists.
    RealmJoined {
        /// Whose.
        of: Incarnation,
        /// Which realm.
        realm: Realm,
    },
    /// The final queue on a realm is gone, and its position with it.
    QueueLost {
        /// Whose.
        of: Incarnation,
        /// On which realm.
        realm: Realm,
    },
}

impl Report {
    fn of(&self) -> &Incarnation {
        match self {
            Self::PrefillDone { of, .. }
            | Self::PrefillFailed { of, .. }
            | Self::RealmJoined { of, .. }
            | Self::QueueLost { of, .. } => of,
        }
    }

    fn id(&self) -> String {
        match self {
            Self::PrefillDone { of, .. } => report_id(of, "done"),
            Self::PrefillFailed { of, .. } => report_id(of, "failed"),
            Self::RealmJoined { of, realm } => report_id(of, &format!("joined {realm}")),
            Self::QueueLost { of, realm } => report_id(of, &format!("lost {realm}")),
        }
    }
}

/// Hands a report over; on return it is durable and will be applied.
pub(crate) async fn send_report(store: &Store, report: &Report) -> Result<(), Error> {
    let message = Message::json(names::REPORT_SUBJECT, report)?.id(report.id());
    store.tasks.publish(message).await?;
    Ok(())
}

/// Applies reports until `shutdown`.
pub async fn run_reports(
    registration: Registration,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let bus = registration.store.bus().clone();
    bus.consumer(names::TASKS_STREAM, CONSUMER)
        .filter(names::REPORT_SUBJECT)
        .ack_wait(ACK_WAIT)
        .max_in_flight(8)
        .retry(Backoff::exponential(Duration::from_millis(200)).cap(Duration::from_secs(5)))
        .run(shutdown, move |Json(report): Json<Report>| {
            let registration = registration.clone();
            async move {
                registration.apply(&report).await?;
                Ok::<_, HandlerError>(Outcome::Ack)
            }
        })
        .await
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
        if let Report::QueueLost { of, realm } = report {
            tracing::warn!(incarnation = %of, %realm, "final queue lost, prefilling again");
            self.prefill_again(kept).await?;
            return Ok(());
        }
        let Some(changed) = changed_by(report, &kept) else { return Ok(()) };
        self.store.keep_subscription(&changed, kept.revision).await?;
        tracing::info!(subscription = %changed.incarnation, prefill = ?changed.prefill, "record updated");
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
