//! Stop a consumer for a while, and send it back to read again: what an operator does at night.
//!
//! `cargo run -p lockgate-examples --bin 6_pause_and_seek [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use std::time::{Duration, SystemTime};

use bus::{Bus, Consumer, Message, Start, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};

const STREAM: &str = "example-readings";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let readings = fresh(&bus, &StreamConfig::parse(STREAM, &["example.reading"])?).await?;
    for celsius in ["36.6", "37.1", "38.4"] {
        readings.publish(Message::new("example.reading", celsius)?).await?;
    }
    let monitor = bus.consumer(STREAM, "monitor").open().await?;

    bus.pause(STREAM, "monitor", SystemTime::now() + Duration::from_secs(3600)).await?;
    println!("paused: {} readings", read(&monitor, 3, Duration::from_secs(1)).await?.len());
    bus.resume(STREAM, "monitor").await?;
    println!("resumed: {}", read(&monitor, 3, Duration::from_secs(30)).await?.join(" "));

    // Whatever it has settled, it begins anew at the second reading.
    bus.seek(STREAM, "monitor", Start::Sequence(2)).await?;
    println!("from the second: {}", read(&monitor, 2, Duration::from_secs(30)).await?.join(" "));

    remove(&bus, STREAM).await?;
    Ok(bus.close().await?)
}

/// Up to `count` readings, for as long as `wait` gives one.
async fn read(consumer: &Consumer, count: usize, wait: Duration) -> Result<Vec<String>, Failure> {
    let mut read = Vec::new();
    while read.len() < count {
        let deliveries = consumer.fetch(count - read.len(), wait).await?;
        if deliveries.is_empty() {
            break;
        }
        for delivery in deliveries {
            let body = delivery.message().payload.clone().unwrap_or_default();
            read.push(String::from_utf8_lossy(&body).into_owned());
            delivery.ack_confirmed().await?;
        }
    }
    Ok(read)
}
