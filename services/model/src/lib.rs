//! The words of Lockgate, each parsed once into a type that cannot be wrong: topics, keys, events,
//! subscriptions, the tasks and reports that its parts hand each other, and the [`names`] of all
//! that is kept on the bus.
//!
//! Every part of Lockgate that meets another one over the bus uses these words, in whatever process
//! it runs. The crate speaks to nobody: it has no runtime, no connection and no state.

mod digest;
mod duration;
mod event;
mod executor;
mod invalid;
mod job_outcome;
mod key;
pub mod limits;
mod mark;
mod media_type;
pub mod names;
mod realm_list;
mod report;
pub mod strict_json;
mod subscription;
mod task;
mod topic;

pub use digest::RowsDigest;
pub use duration::HumanDuration;
pub use event::{CloudEvent, EventFault, FaultKind, LogEvent, Row};
pub use executor::Executor;
pub use invalid::{BadField, Invalid};
pub use job_outcome::{EXIT_FINAL, JobOutcome, MAX_OUTCOME_BYTES};
pub use key::Key;
pub use mark::{History, Life, Mark};
pub use media_type::MediaType;
pub use realm_list::RealmList;
pub use report::Report;
pub use subscription::{
    Fence, Incarnation, Manifest, Marks, Prefill, Subscription, SubscriptionName,
};
pub use task::Task;
pub use topic::{Realm, Topic, TopicSet};
