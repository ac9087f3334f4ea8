//! Open-loop load: orders leave when they are due, and their time counts from then, so that a
//! service that stalls cannot hide it by holding up the clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::timeline::Shot;
use super::{Plan, Progress};
use crate::flow::Failure;
use crate::medisupply::NewOrder;
use crate::medisupply::http::client;

/// How many orders may be unanswered; the next waits, and its time runs.
const UNANSWERED: usize = 1024;
/// Longer than the gateway takes.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The order with this number: most are valid, some are to be rejected, a few to be refused.
pub(super) fn order(number: u32) -> NewOrder {
    let quantity = match number % 50 {
        49 => 0,
        9 | 19 | 29 | 39 => 5000,
        few => few + 1,
    };
    NewOrder {
        order_id: format!("order-{number:06}"),
        product: String::from("Medicine A"),
        quantity,
    }
}

/// When the order with this number is due.
pub(super) fn due(plan: &Plan, number: u32) -> Duration {
    Duration::from_secs_f64(f64::from(number) / f64::from(plan.rate.max(1)))
}

/// Sends all orders and returns how each went, in their order.
pub(super) async fn send(
    plan: &Plan,
    url: &str,
    begin: Instant,
    progress: &watch::Sender<Progress>,
) -> Result<Vec<Shot>, Failure> {
    let (client, places) = (client()?, Arc::new(Semaphore::new(UNANSWERED)));
    let (mut sent, mut shots) = (JoinSet::new(), Vec::new());
    for number in 0..plan.orders {
        let at = due(plan, number);
        sleep_until(begin + at).await;
        let place = places.clone().acquire_owned().await?;
        let post = client.post(url).timeout(GIVE_UP).json(&order(number));
        sent.spawn(async move {
            let status = post.send().await.map(|answer| answer.status().as_u16());
            let took = begin.elapsed().saturating_sub(at);
            drop(place);
            Shot { number, at, took, accepted: matches!(status, Ok(200)) }
        });
        progress.send_modify(|progress| progress.sent = number + 1);
        while let Some(ended) = sent.try_join_next() {
            shots.push(ended?);
        }
    }
    while let Some(ended) = sent.join_next().await {
        shots.push(ended?);
    }
    shots.sort_by_key(|shot| shot.number);
    Ok(shots)
}
