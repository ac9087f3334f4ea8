//! What a backend can do, checked when a consumer or a bucket is bound and never later.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// A feature that not every backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Each delivery is settled on its own, in any order.
    MessageSettle,
    /// A delivery's lease can be extended while the work goes on.
    LeaseExtension,
    /// A retry can be delayed, and the delay survives a crash.
    RetryDelay,
    /// A second publish with the same message id inside the window is recognised.
    Deduplication,
    /// A publish can demand the last sequence of its subject.
    ConditionalPublish,
    /// A consumer's filter is applied by the backend.
    SubjectFilter,
    /// The last message of a subject at or before a sequence can be read.
    StateAtSequence,
    /// Create and update by revision.
    KvCompareAndSet,
    /// A watch that says when it is in step and resumes by itself.
    KvWatch,
}

impl Capability {
    /// Every capability, in the order of the documentation's table.
    pub const ALL: [Self; 9] = [
        Self::MessageSettle,
        Self::LeaseExtension,
        Self::RetryDelay,
        Self::Deduplication,
        Self::ConditionalPublish,
        Self::SubjectFilter,
        Self::StateAtSequence,
        Self::KvCompareAndSet,
        Self::KvWatch,
    ];
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MessageSettle => "per-message settling",
            Self::LeaseExtension => "lease extension",
            Self::RetryDelay => "delayed retry",
            Self::Deduplication => "de-duplication by id",
            Self::ConditionalPublish => "conditional publish",
            Self::SubjectFilter => "subject filters in the backend",
            Self::StateAtSequence => "state at a sequence",
            Self::KvCompareAndSet => "compare-and-set on keys",
            Self::KvWatch => "watching keys",
        })
    }
}

/// How a backend provides a [`Capability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The backend does it.
    Native,
    /// This crate does it on top, with the documented limits.
    Emulated,
    /// It cannot be had; asking for it is an error.
    Unsupported,
}

/// Fails with [`ErrorKind::Unsupported`] unless `support` is native or emulated.
pub(crate) fn require(
    backend: &'static str,
    capability: Capability,
    support: Support,
    asked_by: impl fmt::Display,
) -> Result<()> {
    if support != Support::Unsupported {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported { capability, backend },
        format!(
            "{asked_by} asks for {capability}, which {backend} cannot give: \
             use another backend or drop the requirement"
        ),
    ))
}
