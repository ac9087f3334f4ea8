//! Who carries prefills out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::invalid::Invalid;
use super::names;

/// Who carries the prefills of an installation, or of one subscription, out. Each has a subject of
/// its own in the work queue, so that neither takes the other's tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Executor {
    /// A process with the prefill role.
    #[default]
    Worker,
    /// The operator, which makes a Kubernetes Job for each.
    Kubernetes,
}

impl Executor {
    /// Where its tasks stand in the work queue.
    pub fn task_subject(self) -> &'static str {
        match self {
            Self::Worker => names::TASK_SUBJECT,
            Self::Kubernetes => names::KUBERNETES_TASK_SUBJECT,
        }
    }
}

impl fmt::Display for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Kubernetes => "kubernetes",
        })
    }
}

impl FromStr for Executor {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "worker" => Ok(Self::Worker),
            "kubernetes" => Ok(Self::Kubernetes),
            other => Err(Invalid::new(format!(
                "executor is {other:?}: write \"worker\" or \"kubernetes\""
            ))),
        }
    }
}
