//! Medicine on demand: patients order tabs, and as many makers as it takes make them.
//!
//! | Stream | Subject | What |
//! |---|---|---|
//! | `tabs-orders` | `tabs.orders` | a [`TabsOrder`], keyed by its id |
//! | `tabs-deliveries` | `tabs.deliveries` | a [`TabItem`], keyed by its order |
//! | `tabs-parked` | `tabs-parked.tabs-orders.makers` | orders that cannot be made, each with its reason |
//!
//! A stream's name holds no dot, so that on Kafka the topics are `tabs-orders` and so on.

mod order;
mod patient;
mod plan;

use std::time::Duration;

use bus::{Bus, Capability, Message, StreamConfig, StreamName, Support};
use futures_util::FutureExt;

pub use order::{BadOrder, MOST_TABS, TabItem, TabsOrder};

use crate::flow::{Context, Failure, Flow, Role};
use crate::settings::{Kind, Setting};

/// The stream of orders.
pub const ORDERS: &str = "tabs-orders";
/// Where orders are published.
pub const ORDERS_SUBJECT: &str = "tabs.orders";
/// The stream of tabs.
pub const DELIVERIES: &str = "tabs-deliveries";
/// Where tabs are published.
pub const DELIVERIES_SUBJECT: &str = "tabs.deliveries";
/// The stream of orders that cannot be made.
pub const PARKED: &str = "tabs-parked";
/// The consumer that makers share.
pub const MAKERS: &str = "makers";

/// As many makers can work at once where the backend gives each a partition of its own.
const PARTITIONS: u32 = 32;
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// How long a tab that is delivered twice is recognised: longer than an order waits for another
/// maker when the first one dies, restarts of the bus included.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How often a patient orders.
pub static EVERY: Setting = Setting {
    name: "every",
    env: "LOCKGATE_MEDICINE_EVERY",
    kind: Kind::Time,
    default: "1s",
    about: "How often each patient orders",
};
/// How many patients there are.
pub static PATIENTS: Setting = Setting {
    name: "patients",
    env: "LOCKGATE_MEDICINE_PATIENTS",
    kind: Kind::Counts,
    default: "1",
    about: "How many patients there are; with several numbers, as 1,3,10, each for one --phase, and \
            then no more",
};
/// How long each number of patients holds.
pub static PHASE: Setting = Setting {
    name: "phase",
    env: "LOCKGATE_MEDICINE_PHASE",
    kind: Kind::Time,
    default: "20s",
    about: "How long each of several numbers of patients holds",
};
/// How many orders there are in all.
pub static ORDER_COUNT: Setting = Setting {
    name: "orders",
    env: "LOCKGATE_MEDICINE_ORDERS",
    kind: Kind::Count,
    default: "0",
    about: "End after this many orders; 0 for no end",
};

/// What can be set.
pub(crate) const SETTINGS: &[&Setting] = &[&EVERY, &PATIENTS, &PHASE, &ORDER_COUNT];

/// The flow.
pub static FLOW: Flow = Flow {
    name: "medicine",
    about: "Tabs on demand: patients order, makers are started as the orders come",
    roles: ROLES,
    prepare: |context| prepare(context).boxed(),
};

const ROLES: &[Role] = &[Role {
    name: "patient",
    about: "Orders 1 to 30 tabs, again and again",
    run: |context| patient::run(context).boxed(),
}];

async fn prepare(context: Context) -> Result<(), Failure> {
    for stream in streams()? {
        context.bus.create_stream_if_missing(&stream).await?;
    }
    Ok(())
}

/// What the flow stands on.
fn streams() -> bus::Result<[StreamConfig; 3]> {
    let kept = |config| StreamConfig { max_age: Some(KEPT), ..config };
    Ok([
        kept(StreamConfig {
            partitions: PARTITIONS,
            ..StreamConfig::parse(ORDERS, &[ORDERS_SUBJECT])?
        }),
        kept(StreamConfig {
            duplicate_window: REMEMBERED,
            ..StreamConfig::parse(DELIVERIES, &[DELIVERIES_SUBJECT])?
        }),
        kept(StreamConfig::dead_letters(StreamName::new(PARKED)?)),
    ])
}

/// The message under this id, where the bus recognises one that it has. Elsewhere what is published
/// twice is told by what it says.
fn recognised(bus: &Bus, message: Message, id: String) -> Message {
    match bus.support(Capability::Deduplication) {
        Support::Unsupported => message,
        _ => message.id(id),
    }
}
