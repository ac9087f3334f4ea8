//! Publish three orders, one of them twice, and consume them; one takes a second attempt.
//!
//! `cargo run -p lockgate-examples --bin 1_publish_and_consume [-- --bus nats://127.0.0.1:4222]`
//!
//! Kafka recognises no message by its id: there it is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bus::{Backoff, Bus, Capability, Message, Outcome, Received, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

const STREAM: &str = "example-orders";

#[derive(Serialize, Deserialize)]
struct Order {
    id: u32,
    cents: u32,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let orders = fresh(&bus, &StreamConfig::parse(STREAM, &["example.orders.*"])?).await?;

    for id in [41, 42, 42, 43] {
        let order = Order { id, cents: id * 100 };
        // The id makes a repeat harmless: after a time-out, publish again with the same one.
        let message = Message::json("example.orders.created", &order)?.id(format!("order-{id}"));
        let receipt = orders.publish(message).await?;
        let what = if receipt.duplicate { "is there already" } else { "is published" };
        println!("order {id} {what}");
    }

    let (done, enough) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let stop = enough.clone();
    bus.consumer(STREAM, "billing")
        .filter("example.orders.created")
        .requires(Capability::LeaseExtension) // refused here if the backend cannot
        .max_in_flight(1)
        .retry(Backoff::fixed(Duration::from_secs(1)))
        .run(stop, move |received: Received| bill(received, done.clone(), enough.clone()))
        .await?;

    remove(&bus, STREAM).await?;
    Ok(bus.close().await?)
}

/// The handler returns an outcome; the loop settles, extends the lease of slow work, and delivers
/// again what failed.
async fn bill(
    received: Received,
    done: Arc<AtomicU32>,
    enough: CancellationToken,
) -> Result<Outcome, Failure> {
    let Order { id, cents } = received.message.json()?;
    if id == 41 && received.attempt == 1 {
        println!("order {id} fails at its first attempt");
        return Err("the bank did not answer".into());
    }
    println!("order {id} is billed: {cents} cents, attempt {}", received.attempt);
    if done.fetch_add(1, Ordering::Relaxed) == 2 {
        enough.cancel();
    }
    Ok(Outcome::Ack)
}
