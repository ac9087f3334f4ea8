//! What a backend can do.

use std::fmt;

/// A feature that not every backend has.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{Capability, ErrorKind, Support};
///
/// assert_eq!(bus.support(Capability::Deduplication), Support::Native);
/// # let orders = bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// // What is required and cannot be had is refused here, and not in the middle of the work.
/// let refused = bus.consumer("orders", "c").requires(Capability::KeyAffinity).open().await;
/// assert!(matches!(refused.err().map(|e| e.kind()), Some(ErrorKind::Unsupported { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// Each delivery is settled on its own, in any order, and stays settled after a crash.
    MessageSettle,
    /// A delivery can be settled by another process than the one that fetched it.
    RemoteSettle,
    /// A delivery's lease can be extended while the work goes on.
    LeaseExtension,
    /// Attempts are counted over crashes too; emulated, a crash may start the count anew.
    AttemptCount,
    /// A retry can be delayed, and the delay survives a crash.
    RetryDelay,
    /// A message can be published now and delivered later.
    DelayedDelivery,
    /// A second publish with the same message id inside the window is recognised.
    Deduplication,
    /// A publish can demand the last sequence of its subject.
    ConditionalPublish,
    /// A message can take the place of everything that its subject holds.
    Rollup,
    /// Several messages for one stream can be stored in one step, or none of them.
    AtomicPublish,
    /// A consumer's filter is applied by the backend.
    SubjectFilter,
    /// All messages of one key go to one process at a time.
    KeyAffinity,
    /// The last message of a subject at or before a sequence can be read.
    StateAtSequence,
    /// The messages behind a sequence that match filters can be counted without reading them.
    Counting,
    /// A stream can give up a message as soon as it is settled.
    WorkQueue,
    /// A stream's limits on messages and bytes hold at every moment, and it can refuse when full.
    ExactLimits,
    /// Messages of chosen subjects can be purged.
    SelectivePurge,
    /// A question can be sent to whoever answers on a subject.
    RequestReply,
    /// Create and update by revision.
    KvCompareAndSet,
    /// A watch that says when it is in step and resumes by itself.
    KvWatch,
}

impl Capability {
    /// Every capability, in the order of the documentation's table.
    pub const ALL: [Self; 20] = [
        Self::MessageSettle,
        Self::RemoteSettle,
        Self::LeaseExtension,
        Self::AttemptCount,
        Self::RetryDelay,
        Self::DelayedDelivery,
        Self::Deduplication,
        Self::ConditionalPublish,
        Self::Rollup,
        Self::AtomicPublish,
        Self::SubjectFilter,
        Self::KeyAffinity,
        Self::StateAtSequence,
        Self::Counting,
        Self::WorkQueue,
        Self::ExactLimits,
        Self::SelectivePurge,
        Self::RequestReply,
        Self::KvCompareAndSet,
        Self::KvWatch,
    ];
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MessageSettle => "per-message settling",
            Self::RemoteSettle => "settling from another process",
            Self::LeaseExtension => "lease extension",
            Self::AttemptCount => "counting attempts over crashes",
            Self::RetryDelay => "delayed retry",
            Self::DelayedDelivery => "delayed delivery",
            Self::Deduplication => "de-duplication by id",
            Self::ConditionalPublish => "conditional publish",
            Self::Rollup => "replacing what a subject holds",
            Self::AtomicPublish => "publishing several messages in one step",
            Self::SubjectFilter => "subject filters in the backend",
            Self::KeyAffinity => "one process per key",
            Self::StateAtSequence => "state at a sequence",
            Self::Counting => "counting what matches",
            Self::WorkQueue => "work queues",
            Self::ExactLimits => "exact stream limits",
            Self::SelectivePurge => "purging by subject",
            Self::RequestReply => "request and reply",
            Self::KvCompareAndSet => "compare-and-set on keys",
            Self::KvWatch => "watching keys",
        })
    }
}

/// How a backend provides a [`Capability`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{Capability, Support};
///
/// for capability in Capability::ALL {
///     if bus.support(capability) == Support::Unsupported {
///         println!("{} has no {capability}", bus.backend());
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// The backend does it.
    Native,
    /// This crate does it on top, with the documented limits.
    Emulated,
    /// It cannot be had; asking for it is an error.
    Unsupported,
}
