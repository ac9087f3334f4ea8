//! Where a configuration differs from the declared one, field by field.

use std::fmt::{self, Debug};
use std::time::Duration;

use crate::config::{
    BucketConfig, ConsumerConfig, Placement, Retention, Start, Storage, StreamConfig, WhenFull,
};
use crate::name::SubjectFilter;

/// A field that is not as declared.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// let declared = bus::Topology::parse("[streams.orders]\nsubjects = ['orders.>', 'refunds']")?;
/// let change = bus.compare_topology(&declared).await?.remove(0);
/// let difference = &change.differences[0];
/// assert_eq!((difference.field, difference.fixed), ("subjects", false));
/// assert_eq!(difference.to_string(), "subjects: [orders.>] -> [orders.>, refunds]");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The field as the file spells it.
    pub field: &'static str,
    /// What the backend has.
    pub has: String,
    /// What is declared.
    pub wants: String,
    /// True when the field is fixed at creation.
    pub fixed: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, has, wants, fixed } = self;
        let fixed = if *fixed { " (fixed at creation)" } else { "" };
        write!(f, "{field}: {has} -> {wants}{fixed}")
    }
}

/// Collects differences.
#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn field<T: PartialEq>(
        &mut self,
        (field, fixed): (&'static str, bool),
        has: &T,
        wants: &T,
        text: impl Fn(&T) -> String,
    ) {
        if has != wants {
            let (has, wants) = (text(has), text(wants));
            self.0.push(Difference { field, has, wants, fixed });
        }
    }
}

const FIXED: bool = true;
const FREE: bool = false;

/// How the stream differs. `splits` says whether the backend has partitions.
pub(crate) fn stream(has: &StreamConfig, wants: &StreamConfig, splits: bool) -> Vec<Difference> {
    let mut found = Differences::default();
    found
        .field(("subjects", FREE), &sorted(&has.subjects), &sorted(&wants.subjects), |f| listed(f));
    found.field(("retention", FIXED), &has.retention, &wants.retention, retention);
    found.field(("when-full", FREE), &has.when_full, &wants.when_full, when_full);
    found.field(("max-bytes", FREE), &has.max_bytes, &wants.max_bytes, limit);
    found.field(("max-messages", FREE), &has.max_messages, &wants.max_messages, limit);
    found.field(("max-age", FREE), &has.max_age, &wants.max_age, age);
    let (has_size, wants_size) = (&has.max_message_bytes, &wants.max_message_bytes);
    found.field(("max-message-bytes", FREE), has_size, wants_size, u32::to_string);
    // An id cannot be remembered for longer than its message is kept.
    let window =
        wants.max_age.map_or(wants.duplicate_window, |age| age.min(wants.duplicate_window));
    if has.duplicate_window != window {
        let (has, wants) = (&has.duplicate_window, &wants.duplicate_window);
        found.field(("duplicate-window", FREE), has, wants, span);
    }
    let (has_most, wants_most) = (&has.max_consumers, &wants.max_consumers);
    found.field(("max-consumers", FIXED), has_most, wants_most, u32::to_string);
    found.field(("replicas", FREE), &has.replicas, &wants.replicas, u8::to_string);
    found.field(("storage", FIXED), &has.storage, &wants.storage, storage);
    found.field(("placement", FREE), &has.placement, &wants.placement, placement);
    if splits {
        found.field(("partitions", FIXED), &has.partitions, &wants.partitions, u32::to_string);
    }
    found.field(("delayed", has.delayed), &has.delayed, &wants.delayed, bool::to_string);
    found.0
}

/// How the consumer differs.
pub(crate) fn consumer(has: &ConsumerConfig, wants: &ConsumerConfig) -> Vec<Difference> {
    let mut found = Differences::default();
    found.field(("filters", FIXED), &sorted(&has.filters), &sorted(&wants.filters), |f| listed(f));
    found.field(("start", FIXED), &has.start, &wants.start, start);
    found.field(("ack-wait", FREE), &has.ack_wait, &wants.ack_wait, span);
    let (has_most, wants_most) = (&has.max_unsettled, &wants.max_unsettled);
    found.field(("max-unsettled", FREE), has_most, wants_most, u32::to_string);
    found.field(("max-attempts", FREE), &has.max_attempts, &wants.max_attempts, limit);
    found.field(("metadata", FREE), &has.metadata, &wants.metadata, debug);
    found.0
}

/// How the bucket differs.
pub(crate) fn bucket(has: &BucketConfig, wants: &BucketConfig) -> Vec<Difference> {
    let mut found = Differences::default();
    found.field(("max-age", FREE), &has.max_age, &wants.max_age, age);
    found.field(("max-bytes", FREE), &has.max_bytes, &wants.max_bytes, limit);
    found.field(("replicas", FREE), &has.replicas, &wants.replicas, u8::to_string);
    found.field(("storage", FIXED), &has.storage, &wants.storage, storage);
    found.field(("placement", FREE), &has.placement, &wants.placement, placement);
    found.0
}

fn sorted(filters: &[SubjectFilter]) -> Vec<SubjectFilter> {
    let mut filters = filters.to_vec();
    filters.sort();
    filters
}

fn listed(filters: &[SubjectFilter]) -> String {
    let texts: Vec<_> = filters.iter().map(SubjectFilter::as_str).collect();
    format!("[{}]", texts.join(", "))
}

fn limit<T: Debug>(limit: &Option<T>) -> String {
    limit.as_ref().map_or_else(|| String::from("none"), debug)
}

fn span(span: &Duration) -> String {
    humantime::format_duration(*span).to_string()
}

fn age(age: &Option<Duration>) -> String {
    age.as_ref().map_or_else(|| String::from("none"), span)
}

fn debug<T: Debug>(value: &T) -> String {
    format!("{value:?}")
}

fn placement(placement: &Placement) -> String {
    let Placement { cluster, tags } = placement;
    let cluster = cluster.as_ref().map(|cluster| format!("cluster {cluster}"));
    let tags = (!tags.is_empty()).then(|| format!("tags {}", tags.join(", ")));
    match cluster.into_iter().chain(tags).collect::<Vec<_>>() {
        parts if parts.is_empty() => String::from("anywhere"),
        parts => parts.join(" and "),
    }
}

fn start(start: &Start) -> String {
    match start {
        Start::Time(time) => format!("time {}", humantime::format_rfc3339(*time)),
        other => debug(other),
    }
}

pub(crate) fn retention(retention: &Retention) -> String {
    String::from(match retention {
        Retention::Limits => "limits",
        Retention::WorkQueue => "work-queue",
    })
}

pub(crate) fn when_full(when_full: &WhenFull) -> String {
    String::from(match when_full {
        WhenFull::DropOldest => "drop-oldest",
        WhenFull::Refuse => "refuse",
    })
}

pub(crate) fn storage(storage: &Storage) -> String {
    String::from(match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    })
}
