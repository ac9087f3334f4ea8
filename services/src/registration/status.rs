//! What a client is told about a subscription. Never its secret, nor the hash of it.

use std::time::Duration;

use bus::{Error, Subject};
use futures_util::future::try_join;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::core::Registration;
use super::figures::{Figures, Queue};
use crate::model::{Fence, Prefill, Subscription, TopicSet};
use crate::store::prefill::Cursor;

/// A page of subscriptions waits this long for figures of queues, and does without the others.
const FIGURES_WITHIN: Duration = Duration::from_millis(30);
/// Subscriptions that are looked at at once.
const AT_ONCE: usize = 32;

/// A subscription as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    name: String,
    topics: TopicSet,
    uid: String,
    generation: u32,
    created: String,
    ack_wait: String,
    fence: Fence,
    prefill: Progress,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Vec<Queue>>,
    /// Events of the log that queue mode has not handed out yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    /// Events that queue mode has handed out and that are not settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsettled: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
struct Progress {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    /// Keys looked at so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    scanned: Option<u64>,
    /// Keys in all, deleted ones included.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Registration {
    /// The status of a subscription with the figures of its queues, which cost requests for each
    /// realm.
    pub(super) async fn detailed(&self, subscription: &Subscription) -> Result<Status, Error> {
        let (status, queues) =
            try_join(self.brief(subscription), Figures::new(&self.store).of(subscription)).await?;
        Ok(status.with(queues))
    }

    /// A page of statuses behind a name, and the last name looked at if there are more. The
    /// figures of the queues are those that could be had in [`FIGURES_WITHIN`].
    pub(super) async fn page(
        &self,
        after: Option<&Subject>,
        size: usize,
    ) -> Result<(Vec<Status>, Option<Subject>), Error> {
        let until = Instant::now() + FIGURES_WITHIN;
        let (page, last) = self.store.subscriptions_page(after, size).await?;
        let briefs: Vec<_> = page.iter().map(|kept| self.brief(&kept.subscription)).collect();
        let mut statuses: Vec<Status> =
            stream::iter(briefs).buffered(AT_ONCE).try_collect().await?;
        let figures = Figures::new(&self.store);
        let figures: Vec<_> = page.iter().map(|kept| figures.of(&kept.subscription)).collect();
        let mut figures = stream::iter(figures).buffered(AT_ONCE);
        for status in &mut statuses {
            // Figures that need no waiting would never be late.
            if Instant::now() >= until {
                break;
            }
            let Ok(Some(queues)) = timeout_at(until, figures.next()).await else { break };
            *status = status.clone().with(queues?);
        }
        Ok((statuses, last))
    }

    /// The status of a subscription without the figures of its queues.
    pub(super) async fn brief(&self, subscription: &Subscription) -> Result<Status, Error> {
        let of = &subscription.incarnation;
        let cursor = match subscription.prefill {
            Prefill::Pending | Prefill::Failed { .. } => Cursor::read(&self.store, of).await?,
            _ => None,
        };
        Ok(Status {
            name: of.name.to_string(),
            topics: subscription.topics.clone(),
            uid: of.uid.clone(),
            generation: of.generation,
            created: rfc3339(subscription.created_ms),
            ack_wait: humantime::format_duration(subscription.ack_wait).to_string(),
            fence: subscription.fence.clone(),
            prefill: progress(&subscription.prefill, cursor),
            queues: None,
            lag: None,
            unsettled: None,
        })
    }
}

impl Status {
    fn with(self, queues: Vec<Queue>) -> Self {
        let lag = Some(queues.iter().map(|queue| queue.pending).sum());
        let unsettled = Some(queues.iter().map(|queue| queue.unsettled).sum());
        Self { queues: Some(queues), lag, unsettled, ..self }
    }
}

fn progress(prefill: &Prefill, cursor: Option<Cursor>) -> Progress {
    let status = match (prefill, &cursor) {
        (Prefill::None, _) => "none",
        (Prefill::Pending, None) => "pending",
        (Prefill::Pending, Some(_)) => "running",
        (Prefill::Done { .. }, _) => "done",
        (Prefill::Failed { .. }, _) => "failed",
        (Prefill::Cancelled, _) => "cancelled",
    };
    let mut progress = Progress {
        status,
        rows: cursor.as_ref().map(|cursor| cursor.rows),
        scanned: cursor.as_ref().map(|cursor| cursor.scanned),
        total: cursor.as_ref().map(|cursor| cursor.total),
        digest: None,
        reason: None,
    };
    match prefill {
        Prefill::Done { manifest } => {
            progress.rows = Some(manifest.rows);
            progress.digest = Some(manifest.digest.clone());
        }
        Prefill::Failed { reason } => progress.reason = Some(reason.clone()),
        _ => {}
    }
    progress
}

fn rfc3339(ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
    humantime::format_rfc3339_millis(time).to_string()
}
