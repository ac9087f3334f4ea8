//! Delayed delivery: published now, delivered when it is due, whatever crashes in between.
//!
//! `cargo run -p lockgate-examples --bin 5_delay [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use std::time::{Duration, SystemTime};

use bus::{Bus, Consumer, Message, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};

const STREAM: &str = "example-reminders";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    // The stream says that it takes such messages; a backend that cannot refuses it here.
    let config =
        StreamConfig { delayed: true, ..StreamConfig::parse(STREAM, &["example.remind"])? };
    let reminders = fresh(&bus, &config).await?;
    let bell = bus.consumer(STREAM, "bell").open().await?;

    reminders.publish(Message::new("example.remind", "good morning")?).await?;
    println!("{}", ring(&bell).await?);

    let due = SystemTime::now() + Duration::from_secs(2);
    reminders.publish(Message::new("example.remind", "take the pill")?.not_before(due)).await?;
    let reminder = ring(&bell).await?;
    let when = if SystemTime::now() >= due { "two seconds later" } else { "too early" };
    println!("{when}: {reminder}");

    remove(&bus, STREAM).await?;
    Ok(bus.close().await?)
}

/// The next reminder, settled.
async fn ring(bell: &Consumer) -> Result<String, Failure> {
    loop {
        if let Some(reminder) = bell.fetch(1, Duration::from_secs(5)).await?.pop() {
            let body = reminder.message().payload.clone().unwrap_or_default();
            reminder.ack_confirmed().await?;
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
    }
}
