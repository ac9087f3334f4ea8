//! Sharing a consumer: a process that joins in the middle of another one's work.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Target;
use super::bench::{Case, PATIENCE, ack_all, collect, sequences};
use crate::handler::Outcome;
use crate::message::StoredMessage;

const MESSAGES: usize = 60;

/// A process joins while another one's handlers are at work: it gets its share, everything is
/// done, and what is settled does not come again.
pub async fn rebalance_mid_handler(target: &dyn Target) {
    let case = Case::with(target, |config| config.partitions = 4).await;
    for n in 0..MESSAGES {
        let message = case.message("a", n.to_string()).key(format!("key-{}", n % 12));
        case.stream.publish(message).await.unwrap();
    }
    let (stop, gate) = (CancellationToken::new(), Arc::new(Semaphore::new(0)));
    let (begun, mut beginnings) = mpsc::unbounded_channel();
    let (done, mut ends) = mpsc::unbounded_channel();

    // The first process begins and waits in the middle of four handlers.
    let (open, told) = (gate.clone(), done.clone());
    let slow =
        case.consumer("c").max_in_flight(4).run(stop.clone(), move |message: StoredMessage| {
            let (begun, open, told) = (begun.clone(), open.clone(), told.clone());
            async move {
                begun.send(())?;
                open.acquire().await?.forget();
                told.send(("slow", message.sequence))?;
                Ok(Outcome::Ack)
            }
        });
    let slow = tokio::spawn(slow);
    for _ in 0..4 {
        timeout(PATIENCE, beginnings.recv()).await.expect("a handler begins").expect("at work");
    }

    // The second one joins, and gets something although the first holds what it holds.
    let joined = case.again(target).await;
    let quick = joined.consumer("c").run(stop.clone(), move |message: StoredMessage| {
        let done = done.clone();
        async move {
            done.send(("quick", message.sequence))?;
            Ok(Outcome::Ack)
        }
    });
    let quick = tokio::spawn(quick);
    let mut settled = BTreeSet::new();
    let first = timeout(PATIENCE, ends.recv()).await.expect("it gets its share").expect("at work");
    assert_eq!(first.0, "quick", "the other one's handlers are at work");
    settled.insert(first.1);

    gate.add_permits(4 * MESSAGES);
    while settled.len() < MESSAGES {
        let (_, sequence) = timeout(2 * PATIENCE, ends.recv())
            .await
            .unwrap_or_else(|_| panic!("only {} of {MESSAGES} are done", settled.len()))
            .expect("at work");
        settled.insert(sequence);
    }
    case.wait_unsettled("c", 0).await;
    stop.cancel();
    for running in [slow, quick] {
        timeout(2 * PATIENCE, running).await.expect("the drain ends").unwrap().unwrap();
    }
    let consumer = case.bus.bind(&case.name, "c").await.unwrap();
    // A loop that stopped may have left a request behind that takes the first delivery of this.
    let next = case.publish("a").await;
    let came = collect(&consumer, 1).await;
    assert_eq!(sequences(&came), [next], "a message that was settled came again");
    ack_all(came).await;
}
