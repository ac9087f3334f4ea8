//! Medicine on demand: patients order tabs, and as many makers as it takes make them.
//!
//! | Stream | Subject | What |
//! |---|---|---|
//! | `tabs-orders` | `tabs.orders` | a [`TabsOrder`], keyed by its id |
//! | `tabs-deliveries` | `tabs.deliveries` | a [`TabItem`], keyed by its order |
//! | `tabs-parked` | `tabs-parked.tabs-orders.makers` | orders that cannot be made, each with its reason |
//!
//! A stream's name holds no dot, so that on Kafka the topics are `tabs-orders` and so on.

mod maker;
mod makers;
mod order;
mod patient;
mod plan;
mod plot;
mod scaling;

use std::time::Duration;

use bus::{Bus, Capability, ConsumerBuilder, Message, StreamConfig, StreamName, Support};
use futures_util::FutureExt;

pub use maker::Ended;
pub use order::{BadOrder, MOST_TABS, TabItem, TabsOrder};
pub use scaling::{History, Phase, Sample, to_start};

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
/// A maker that is gone for this long was killed: its order comes to another.
const LEASE: Duration = Duration::from_secs(15);
/// An order whose makers die that often kills makers.
const ATTEMPTS: u32 = 5;
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

/// How long a tab takes.
pub static TAB_TIME: Setting = Setting {
    name: "tab-time",
    env: "LOCKGATE_MEDICINE_TAB_TIME",
    kind: Kind::Time,
    default: "2s",
    about: "How long a tab takes: never less than 2s",
};
/// How long a maker waits for an order.
pub static WAIT: Setting = Setting {
    name: "wait",
    env: "LOCKGATE_MEDICINE_WAIT",
    kind: Kind::Time,
    default: "0s",
    about: "How long a maker waits for an order before it ends without one",
};
/// How many makers there may be.
pub static SCALE: Setting = Setting {
    name: "scale",
    env: "LOCKGATE_MEDICINE_SCALE",
    kind: Kind::Count,
    default: "",
    about: "Start up to N makers, each a process of its own where the bus is a server; without it \
            up to 32 in this process",
};
/// How often the backlog is looked at.
pub static POLL: Setting = Setting {
    name: "poll",
    env: "LOCKGATE_MEDICINE_POLL",
    kind: Kind::Time,
    default: "1s",
    about: "How often the backlog is looked at, to start makers",
};
/// Where the plot goes.
pub static PLOT: Setting = Setting {
    name: "plot",
    env: "LOCKGATE_MEDICINE_PLOT",
    kind: Kind::Text,
    default: "",
    about: "Write makers, backlog and delay over time to this file, as SVG, at the end",
};

/// What can be set.
pub(crate) const SETTINGS: &[&Setting] =
    &[&EVERY, &PATIENTS, &PHASE, &ORDER_COUNT, &SCALE, &POLL, &PLOT, &WAIT, &TAB_TIME];

/// The flow.
pub static FLOW: Flow = Flow {
    name: "medicine",
    about: "Tabs on demand: patients order, makers are started as the orders come",
    roles: ROLES,
    prepare: |context| prepare(context).boxed(),
};

const ROLES: &[Role] = &[
    Role {
        name: "patient",
        about: "Orders 1 to 30 tabs, again and again",
        run: |context| patient::run(context).boxed(),
    },
    Role {
        name: "makers",
        about: "Starts a maker for each order that waits, as KEDA starts Jobs",
        run: |context| makers::run(context).boxed(),
    },
    Role {
        name: "maker",
        about: "Takes one order, makes its tabs, and ends; beside `makers` it has nothing to do",
        run: |context| maker::run(context).boxed(),
    },
];

async fn prepare(context: Context) -> Result<(), Failure> {
    for stream in streams()? {
        context.bus.create_stream_if_missing(&stream).await?;
    }
    // Whoever scales by the backlog asks for the makers' consumer before there is one. On Kafka to
    // open it is to join the group, which is not for those who take nothing.
    if context.bus.support(Capability::KeyAffinity) == Support::Unsupported {
        consumer(&context.bus).open().await?;
    }
    Ok(())
}

/// What makers share.
fn consumer(bus: &Bus) -> ConsumerBuilder {
    let makers = bus.consumer(ORDERS, MAKERS).ack_wait(LEASE);
    makers.max_attempts(ATTEMPTS).dead_letters(PARKED)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What deploys makers names what they take, as it is named here.
    #[test]
    fn the_scaled_jobs_watch_what_makers_take() {
        let jetstream = include_str!("../../../../deploy/keda/medicine-jetstream.yaml");
        let kafka = include_str!("../../../../deploy/keda/medicine-kafka.yaml");
        let lines = |text: &str| {
            let trimmed = text.lines().map(|line| line.trim().to_owned());
            trimmed.collect::<std::collections::BTreeSet<_>>()
        };
        let (jetstream, kafka) = (lines(jetstream), lines(kafka));
        for line in [format!("stream: {ORDERS}"), format!("consumer: {MAKERS}")] {
            assert!(jetstream.contains(&line), "{line}");
        }
        for line in [
            format!("topic: {ORDERS}"),
            format!("consumerGroup: {ORDERS}.{MAKERS}"),
            format!("maxReplicaCount: {PARTITIONS}"),
        ] {
            assert!(kafka.contains(&line), "{line}");
        }
    }
}
