//! Units: deliveries are settled and messages published together, once.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Target;
use super::bench::{Case, PATIENCE, SHORT_LEASE, collect, eventually, read};
use super::lives::made_anew;
use crate::config::Start;
use crate::driver::{ConsumerDriver, LeaseToken, RawDelivery, Settlement, Unit};
use crate::engine::delivery::Delivery;
use crate::error::{Error, ErrorKind, Result};
use crate::unit::{Committed, Guarantee, UnitError};

/// A unit settles its inputs and stores its outputs in their order; one that is repeated because
/// its acks were lost stores nothing again, unless it says that it may.
pub async fn unit_commit(target: &dyn Target) {
    let (inputs, outputs) = (Case::new(target).await, Case::new(target).await);
    inputs.publish_many("a", 4).await;
    let consumer = inputs.consumer("c").open().await.unwrap();
    let mut out = collect(&consumer, 4).await;
    let done = inputs.bus.unit().settle(out.remove(0)).settle(out.remove(0));
    let message = |n: usize| outputs.message("x", n.to_string());
    let done = (0..3).fold(done, |unit, n| unit.publish(&outputs.stream, message(n)));
    let done = done.commit().await.unwrap();
    assert_eq!(done.receipts.len(), 3);
    assert!(done.receipts.iter().is_sorted_by(|a, b| a.sequence < b.sequence), "{done:?}");
    inputs.wait_unsettled("c", 2).await;
    assert_eq!(bodies(&outputs, 3).await, ["0", "1", "2"]);

    // Two streams at once, then the same again without a word of the first time.
    let unit = Unit {
        inputs: vec![out[0].unit_input().unwrap()],
        outputs: vec![
            (outputs.stream.name().clone(), message(3)),
            (outputs.stream.name().clone(), message(4)),
            (inputs.stream.name().clone(), inputs.message("b", "5")),
        ],
        atomic: false,
    };
    let committed = commit_twice(&inputs, unit).await;
    let once = committed.guarantee != Guarantee::AtLeastOnce;
    let stored = all_bodies(&outputs).await.len();
    assert!(stored == 5 || !once && stored > 5, "{stored} outputs are stored");
    inputs.wait_unsettled("c", 1).await;
    // The output that went to the inputs' own stream is the consumer's next.
    let next = collect(&consumer, 1).await.remove(0);
    assert_eq!(next.message().payload.as_deref(), Some(&b"5"[..]));

    let again = inputs.bus.unit().settle(out.remove(1)).publish(&outputs.stream, message(6));
    let unit = again.publish(&outputs.stream, inputs.message("foreign", "no"));
    let failed = unit.commit().await.expect_err("the stream does not capture the second output");
    assert_eq!(failed.error.kind(), ErrorKind::Invalid, "{}", failed.error);
    assert_eq!(failed.deliveries.len(), 1, "the inputs come back");
    assert!(inputs.info("c").await.unsettled >= 1, "an input of a failed unit was settled");
}

/// Commits with acks that are lost, and again where that fails.
async fn commit_twice(case: &Case, unit: Unit) -> Committed {
    let mut losing = unit.clone();
    for input in &mut losing.inputs {
        input.via = Arc::new(LosesAcks(input.via.clone()));
    }
    let driver = case.bus.driver();
    match driver.commit(&losing).await {
        // The backend acks in its own way: there is nothing to lose.
        Ok(done) => done,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            driver.commit(&unit).await.unwrap()
        }
    }
}

/// A bound consumer whose acks are lost.
struct LosesAcks(Arc<dyn ConsumerDriver>);

#[async_trait]
impl ConsumerDriver for LosesAcks {
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<RawDelivery>> {
        self.0.fetch(max, wait).await
    }

    fn ack_now(&self, _token: &LeaseToken) -> Option<Result<()>> {
        None
    }

    async fn settle(&self, _token: &LeaseToken, _how: &Settlement, _confirm: bool) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "the ack was lost"))
    }
}

async fn bodies(case: &Case, count: usize) -> Vec<String> {
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let text = |message: &crate::StoredMessage| {
        String::from_utf8(message.payload.clone().unwrap_or_default().to_vec()).unwrap()
    };
    read(&mut reader, count).await.iter().map(text).collect()
}

/// The bodies of all that is there now. Counting it would not do: where a transaction takes a place
/// in the stream, a backend may count that too.
async fn all_bodies(case: &Case) -> Vec<String> {
    let end = case.publish("end").await;
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let mut bodies = Vec::new();
    loop {
        let message = read(&mut reader, 1).await.remove(0);
        let body = String::from_utf8(message.payload.unwrap_or_default().to_vec()).unwrap();
        if message.subject.as_str() != case.subject("end") {
            bodies.push(body);
        } else if message.sequence == end {
            return bodies;
        }
    }
}

/// What an input brings in another life of its consumer or stream is no repetition: the outputs are
/// stored again.
pub async fn unit_outputs_of_every_life(target: &dyn Target) {
    const LIVES: usize = 4;
    let (inputs, outputs) = (Case::new(target).await, Case::new(target).await);
    for life in 1..=LIVES {
        // One life made the stream, one moved the consumer, one made it anew, one the stream.
        if life == 2 {
            inputs.bus.seek(&inputs.name, "c", Start::Beginning).await.unwrap();
        } else if life == 3 {
            inputs.bus.delete_consumer(&inputs.name, "c").await.unwrap();
        } else {
            if life > 1 {
                made_anew(&inputs).await;
            }
            eventually("publish", || inputs.stream.publish(inputs.message("a", "in"))).await;
        }
        let consumer = eventually("open", || inputs.consumer("c").open()).await;
        let input = collect(&consumer, 1).await.remove(0);
        let unit = inputs.bus.unit().settle(input);
        let unit = unit.publish(&outputs.stream, outputs.message("x", "one"));
        let done = unit.publish(&outputs.stream, outputs.message("x", "two")).commit().await;
        let done = done.unwrap();
        let stored = done.receipts.iter().all(|receipt| !receipt.duplicate);
        assert!(stored, "life {life}: {done:?}");
    }
    assert_eq!(all_bodies(&outputs).await.len(), 2 * LIVES);
}

/// A unit that stops at any point, as in a crash, is done once in the end: every input is settled,
/// and its outputs are stored, once unless the unit said that it may be more often.
pub async fn unit_commit_crash_points(target: &dyn Target) {
    const INPUTS: usize = 16;
    let (inputs, outputs) = (Case::new(target).await, Case::new(target).await);
    inputs.publish_many("a", INPUTS).await;
    let consumer = inputs.consumer("c").ack_wait(SHORT_LEASE).open().await.unwrap();
    let (mut worst, deadline) = (Guarantee::Exactly, Instant::now() + 2 * PATIENCE);
    let mut crashes = 0;
    loop {
        let info = inputs.info("c").await;
        if info.pending + info.unsettled == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "units are not done: {info:?}");
        let fetch = || consumer.fetch(1, Duration::from_millis(500));
        for delivery in eventually("fetch", fetch).await {
            let steps = (delivery.attempt() == 1).then_some(crashes);
            crashes += usize::from(steps.is_some());
            if let Some(Ok(done)) = commit_some(&inputs, &outputs, delivery, steps).await {
                worst = worst.min(done.guarantee);
            }
        }
    }
    let stored = all_bodies(&outputs).await;
    let mut counts = BTreeMap::<_, usize>::new();
    for body in stored {
        *counts.entry(body).or_default() += 1;
    }
    assert_eq!(counts.len(), 2 * INPUTS, "an output is missing");
    let repeated = counts.values().filter(|count| **count > 1).count();
    assert!(repeated == 0 || worst == Guarantee::AtLeastOnce, "{counts:?} under {worst:?}");
}

/// Commits the unit of a delivery, or `steps` of it.
async fn commit_some(
    inputs: &Case,
    outputs: &Case,
    delivery: Delivery,
    steps: Option<usize>,
) -> Option<Result<Committed, UnitError>> {
    let body = delivery.message().payload.clone().unwrap_or_default();
    let output = |half: &str| {
        let body = [&body[..], half.as_bytes()].concat();
        outputs.message("x", body)
    };
    let unit = inputs.bus.unit().settle(delivery);
    let unit = unit.publish(&outputs.stream, output("-a")).publish(&outputs.stream, output("-b"));
    let (mut commit, mut left) = (pin!(unit.commit()), steps);
    poll_fn(|cx| match (commit.as_mut().poll(cx), &mut left) {
        (Poll::Ready(done), _) => Poll::Ready(Some(done)),
        (Poll::Pending, None) => Poll::Pending,
        (Poll::Pending, Some(0)) => Poll::Ready(None),
        (Poll::Pending, Some(left)) => {
            *left -= 1;
            Poll::Pending
        }
    })
    .await
}
