//! The words of the domain, each parsed once into a type that cannot be wrong.

mod digest;
mod duration;
mod event;
mod invalid;
mod key;
mod mark;
mod media_type;
pub(crate) mod names;
mod realm_list;
pub(crate) mod strict_json;
mod subscription;
mod topic;

pub use digest::RowsDigest;
pub(crate) use duration::HumanDuration;
pub(crate) use event::Row;
pub use event::{CloudEvent, EventFault, FaultKind, LogEvent};
pub(crate) use invalid::BadField;
pub use invalid::Invalid;
pub use key::Key;
pub use mark::{History, Life, Mark};
pub(crate) use media_type::MediaType;
pub use realm_list::RealmList;
pub use subscription::{
    Fence, Incarnation, Manifest, Marks, Prefill, Subscription, SubscriptionName,
};
pub use topic::{Realm, Topic, TopicSet};
