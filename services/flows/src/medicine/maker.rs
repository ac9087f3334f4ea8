//! A medicine maker: takes one order, makes all its tabs at the same time, delivers them, and ends.

use std::fmt;
use std::time::{Duration, SystemTime};

use bus::{Consumer, Delivery, Error, ErrorKind, Message};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::order::{TabItem, TabsOrder};
use super::{DELIVERIES, DELIVERIES_SUBJECT, TAB_TIME, WAIT, consumer, recognised};
use crate::flow::{Context, Failure};

/// No tab is made faster.
const FASTEST: Duration = Duration::from_secs(2);
/// How long an order that is there may take to reach this maker: a new member of a Kafka group is
/// given its partitions only after the others have let go of them.
const REACHES_WITHIN: Duration = Duration::from_secs(20);
/// How long one request for an order waits.
const FETCH: Duration = Duration::from_secs(1);
/// How often an order may be taken away by another maker before this one ends without.
const ORDERS_TRIED: u32 = 5;
/// How often a delivery is tried, and the pause between.
const COMMITS_TRIED: u32 = 10;
const COMMIT_PAUSE: Duration = Duration::from_millis(300);

/// How a maker ended: its summary. As JSON it is one object whose `ended` says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub enum Ended {
    /// It made an order.
    Made {
        /// Which.
        order: String,
        /// How many tabs.
        tabs: u32,
        /// 1, or more where makers before it did not finish.
        attempt: u32,
        /// From the order's arrival at this maker to its delivery, in milliseconds.
        took_ms: u64,
        /// From the patient's order to its delivery, in milliseconds, by two processes' clocks.
        delay_ms: u64,
    },
    /// It found an order that cannot be made.
    Parked {
        /// Its place among the orders.
        sequence: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// There was none.
    NoOrder,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made { order, tabs, attempt, took_ms, .. } => {
                let seconds = Duration::from_millis(*took_ms).as_secs_f64();
                write!(f, "order {order}: {tabs} tabs made and delivered in {seconds:.1} s")?;
                if *attempt > 1 { write!(f, ", attempt {attempt}") } else { Ok(()) }
            }
            Self::Parked { sequence, reason } => {
                write!(f, "the order at {sequence} cannot be made and is parked: {reason}")
            }
            Self::NoOrder => f.write_str("no order to make"),
        }
    }
}

/// The role: takes one order at most. Where makers are started as orders come there is nothing to
/// do beside them.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    if context.runs("makers") {
        return Ok(());
    }
    let taken = |order: &TabsOrder| {
        let TabsOrder { id, patient, tabs } = order;
        let text = format!("order {id} of {patient}: {tabs} tabs in the making");
        context.tell(&text, &json!({ "taken": id, "tabs": tabs }));
    };
    let ended = one_order(&context, taken).await?;
    context.tell(&ended.to_string(), &serde_json::to_value(&ended).unwrap_or(Value::Null));
    Ok(())
}

/// Takes one order, at most, and makes it. An order that this process does not finish, whatever
/// becomes of it, comes again and has the same tabs then. `taken` is told of it before it is made.
pub(super) async fn one_order(
    context: &Context,
    taken: impl Fn(&TabsOrder) + Send,
) -> Result<Ended, Failure> {
    let tab_time = context.settings.time(&TAB_TIME)?;
    if tab_time < FASTEST {
        return Err("--tab-time: no tab can be made in less than 2 s".into());
    }
    let orders = consumer(&context.bus).open().await?;
    for _ in 0..ORDERS_TRIED {
        let Some(delivery) = take(context, &orders).await? else { break };
        let arrived = Instant::now();
        let sequence = delivery.message().sequence;
        let order = match TabsOrder::read(delivery.message()) {
            Ok(order) => order,
            Err(bad) => {
                let reason = bad.to_string();
                delivery.dead_letter(&reason).await.map_err(Error::from)?;
                context.counter("orders parked").add(1);
                return Ok(Ended::Parked { sequence, reason });
            }
        };
        taken(&order);
        let (ordered, attempt) = (delivery.message().timestamp, delivery.attempt());
        let made =
            async { deliver(context, work(delivery, arrived + tab_time).await?, &order).await };
        match made.await {
            Ok(()) => {}
            // The order was taken away, to another maker: it is that one's, and nothing of it is
            // delivered from here.
            Err(error) if error.kind() == ErrorKind::Stale => continue,
            Err(error) => return Err(error.into()),
        }
        context.counter("orders made").add(1);
        context.counter("tabs delivered").add(order.tabs.into());
        let delay = SystemTime::now().duration_since(ordered).unwrap_or_default();
        return Ok(Ended::Made {
            order: order.id,
            tabs: order.tabs,
            attempt,
            took_ms: millis(arrived.elapsed()),
            delay_ms: millis(delay),
        });
    }
    Ok(Ended::NoOrder)
}

/// An order, as soon as there is one; `None` when there is none for as long as this maker waits, or
/// at the shutdown.
async fn take(context: &Context, orders: &Consumer) -> Result<Option<Delivery>, Failure> {
    let (began, wait) = (Instant::now(), context.settings.time(&WAIT)?);
    loop {
        // Asked before the fetch: what is there then reaches this maker or another one.
        let is_there = orders.info().await?.pending > 0;
        let left = wait.saturating_sub(began.elapsed());
        let patience = if is_there { FETCH } else { left.min(FETCH) };
        if !patience.is_zero() {
            let taken = tokio::select! { biased;
                () = context.shutdown.cancelled() => return Ok(None),
                taken = orders.fetch(1, patience) => taken?,
            };
            if let Some(order) = taken.into_iter().next() {
                return Ok(Some(order));
            }
        }
        let waited = began.elapsed();
        if waited >= wait && (!is_there || waited >= REACHES_WITHIN) {
            return Ok(None);
        }
    }
}

/// Every tab is begun when the order arrives and done when they all are: the time is one, and what
/// waits for it does not grow with the tabs. The order stays this maker's meanwhile.
async fn work(mut delivery: Delivery, done: Instant) -> bus::Result<Delivery> {
    loop {
        let now = Instant::now();
        let halfway = now + delivery.expires().saturating_duration_since(now) / 2;
        if done <= halfway {
            sleep_until(done).await;
            return Ok(delivery);
        }
        sleep_until(halfway).await;
        delivery.extend().await?;
    }
}

/// Publishes the tabs and settles the order as one unit. An order has 30 tabs at most, so that this
/// is all that is ever in memory. Where the bus has transactions, it happens as a whole; elsewhere
/// what a maker before this one delivered is recognised by its ids.
async fn deliver(context: &Context, order: Delivery, what: &TabsOrder) -> bus::Result<()> {
    let (bus, mut order, mut tried) = (&context.bus, order, 1);
    let deliveries = bus.stream(DELIVERIES).await?;
    loop {
        let mut unit = bus.unit().settle(order);
        for item in what.items() {
            unit = unit.publish(&deliveries, recognised(bus, message(&item)?, item.id));
        }
        let failed = match unit.commit().await {
            Ok(_) => return Ok(()),
            Err(failed) => failed,
        };
        let Some(unsettled) = failed.deliveries.into_iter().next() else {
            return Err(failed.error);
        };
        if !failed.error.is_retryable() || tried == COMMITS_TRIED {
            return Err(failed.error);
        }
        tracing::warn!(error = %failed.error, order = what.id, "not delivered, trying again");
        tokio::time::sleep(COMMIT_PAUSE).await;
        (order, tried) = (unsettled, tried + 1);
    }
}

fn message(item: &TabItem) -> bus::Result<Message> {
    Ok(Message::json(DELIVERIES_SUBJECT, item)?.key(&item.order))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_back_as_it_was_written() {
        let made = Ended::Made {
            order: String::from("a1"),
            tabs: 12,
            attempt: 2,
            took_ms: 2040,
            delay_ms: 3000,
        };
        assert_eq!(made.to_string(), "order a1: 12 tabs made and delivered in 2.0 s, attempt 2");
        let parked = Ended::Parked { sequence: 7, reason: String::from("no body") };
        for ended in [made, parked, Ended::NoOrder] {
            let json = serde_json::to_string(&ended).unwrap();
            assert!(json.contains("\"ended\":"), "{json}");
            assert_eq!(serde_json::from_str::<Ended>(&json).unwrap(), ended);
        }
    }
}
