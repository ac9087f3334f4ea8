//! What a client is told about a subscription. Never its secret, nor the hash of it.

use bus::Error;
use serde::Serialize;

use super::core::Registration;
use crate::model::{Fence, Prefill, Subscription, TopicSet};
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
    /// The status of a subscription.
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
