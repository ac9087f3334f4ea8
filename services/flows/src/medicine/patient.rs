//! Patients: each publishes an order, waits, and publishes the next.

use std::time::Duration;

use bus::Message;
use tokio::time::{Instant, sleep_until};

use super::order::{MOST_TABS, TabsOrder};
use super::plan::Plan;
use super::{ORDERS, ORDERS_SUBJECT, recognised};
use crate::flow::{Context, Failure};

/// How long the bus is given before an order is published again.
const AGAIN: Duration = Duration::from_secs(1);

/// Orders until the shutdown, or until the plan is over.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let plan = Plan::read(&context.settings)?;
    let (ordered, tabs) = (context.counter("orders"), context.counter("tabs ordered"));
    let shown = context.gauge("patients");
    let started = Instant::now();
    let mut next = started;
    while let Some(patients) = plan.patients(started.elapsed()) {
        if plan.orders.is_some_and(|all| ordered.get() >= all) {
            break;
        }
        shown.set(patients);
        let order = order(ordered.get() % patients)?;
        if !publish(&context, &order).await? {
            return Ok(());
        }
        ordered.add(1);
        tabs.add(order.tabs.into());
        // A bus that was away is not flooded with what was not ordered meanwhile.
        next = (next + plan.pause(patients)).max(Instant::now());
        tokio::select! { biased;
            () = context.shutdown.cancelled() => return Ok(()),
            () = sleep_until(next) => {}
        }
    }
    shown.set(0);
    Ok(())
}

/// An order of its own, of any number of tabs.
fn order(patient: u64) -> Result<TabsOrder, Failure> {
    let any = || getrandom::u64().map_err(|error| format!("no random bytes: {error}"));
    let tabs = 1 + u32::try_from(any()? % u64::from(MOST_TABS))?;
    Ok(TabsOrder { id: format!("{:016x}", any()?), patient: format!("patient-{patient}"), tabs })
}

/// Publishes an order once, however long the bus is away; false at the shutdown.
async fn publish(context: &Context, order: &TabsOrder) -> Result<bool, Failure> {
    let message = Message::json(ORDERS_SUBJECT, order)?.key(&order.id);
    let message = recognised(&context.bus, message, order.id.clone());
    loop {
        let stream = context.bus.stream(ORDERS).await;
        let published = match stream {
            Ok(stream) => stream.publish(message.clone()).await,
            Err(error) => Err(error),
        };
        match published {
            Ok(_) => return Ok(true),
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, order = order.id, "not published, trying again");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! { biased;
            () = context.shutdown.cancelled() => return Ok(false),
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}
