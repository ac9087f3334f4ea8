//! What a client is told about a subscription. Never its secret, nor the hash of it.

use bus::{Error, ErrorKind};
use serde::Serialize;

use super::core::Registration;
use crate::model::{Fence, Prefill, Realm, Subscription, TopicSet, names};
use crate::prefill::Cursor;

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
    queues: Option<Vec<QueueStatus>>,
    /// Events that the final queues have not handed out yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    /// Deliveries of the final queues that are out.
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

#[derive(Debug, Clone, Serialize)]
struct QueueStatus {
    realm: Realm,
    pending: u64,
    unsettled: u64,
    settled_sequence: u64,
}

impl Registration {
    /// The status of a subscription with the figures of its queues, which cost a request each.
    pub(super) async fn detailed(&self, subscription: &Subscription) -> Result<Status, Error> {
        let mut status = self.brief(subscription).await?;
        let mut queues = Vec::new();
        for realm in subscription.fence.keys() {
            let queue = names::final_queue(&subscription.incarnation)?;
            let info = match self.store.bus().consumer_info(names::log_stream(realm)?, queue).await
            {
                Ok(info) => info,
                // Being removed, or about to be reported lost by the dispatcher.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            queues.push(QueueStatus {
                realm: realm.clone(),
                pending: info.pending,
                unsettled: info.unsettled,
                settled_sequence: info.settled_sequence,
            });
        }
        status.lag = Some(queues.iter().map(|queue| queue.pending).sum());
        status.unsettled = Some(queues.iter().map(|queue| queue.unsettled).sum());
        status.queues = Some(queues);
        Ok(status)
    }

    /// The status without the figures of the queues.
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
