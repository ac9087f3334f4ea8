//! What workers and the dispatcher tell the registration API, over a durable queue: it survives
//! the death of either side, and a report that comes twice changes nothing.

use bus::{Error, Message};
use serde::{Deserialize, Serialize};

use super::{Incarnation, Manifest, Mark, Realm, names};

/// A report to the registration API. Keep stable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
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
    /// A realm's log is not the one that the subscription's place in it was taken on: what its
    /// consumers have read may be gone, and what is there they may not have read.
    #[serde(alias = "queue-lost")]
    HistoryChanged {
        /// Whose.
        of: Incarnation,
        /// Of which realm.
        realm: Realm,
        /// What was found.
        #[serde(default)]
        why: String,
        /// Up to where its consumer has read, if whoever reports it knows.
        #[serde(default)]
        mark: Option<Mark>,
    },
    /// Somebody begins with the rows of a prefill, and they were let go: another generation is
    /// needed.
    RowsGone {
        /// Whose.
        of: Incarnation,
    },
}

impl Report {
    /// Whose it is.
    pub fn of(&self) -> &Incarnation {
        match self {
            Self::PrefillDone { of, .. }
            | Self::PrefillFailed { of, .. }
            | Self::RealmJoined { of, .. }
            | Self::HistoryChanged { of, .. }
            | Self::RowsGone { of } => of,
        }
    }

    /// What it says, for the log.
    pub fn news(&self) -> String {
        match self {
            Self::PrefillDone { manifest, .. } => format!("prefill done, {} rows", manifest.rows),
            Self::PrefillFailed { reason, .. } => format!("prefill failed: {reason}"),
            Self::RealmJoined { realm, .. } => format!("realm {realm} joined"),
            Self::HistoryChanged { realm, why, .. } => {
                format!("the history of realm {realm} has changed: {why}")
            }
            Self::RowsGone { .. } => String::from("the rows of the prefill are gone"),
        }
    }

    /// The report as a message to the registration API. One that is sent twice within the stream's
    /// duplicate window is one report, and applying one twice changes nothing.
    pub fn message(&self) -> Result<Message, Error> {
        Ok(Message::json(names::REPORT_SUBJECT, self)?.id(self.id()))
    }

    fn id(&self) -> String {
        match self {
            Self::PrefillDone { of, .. } => id(of, "done"),
            Self::PrefillFailed { of, .. } => id(of, "failed"),
            Self::RealmJoined { of, realm } => id(of, &format!("joined {realm}")),
            Self::HistoryChanged { of, realm, .. } => id(of, &format!("history {realm}")),
            Self::RowsGone { of } => id(of, "rows gone"),
        }
    }
}

/// The name under which a report is recognised when it is sent twice.
fn id(of: &Incarnation, what: &str) -> String {
    format!("{} {what}", names::cursor_key(of))
}
