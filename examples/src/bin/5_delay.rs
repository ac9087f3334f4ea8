//! Delayed delivery: published now, delivered when it is due, whatever crashes in between.
//!
//! `cargo run -p lockgate-examples --bin 5_delay [-- --bus nats://127.0.0.1:4222]`

use std::time::{Duration, SystemTime};

use bus::{Bus, Message, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};

const STREAM: &str = "example-reminders";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    // The stream says that it takes such messages; a backend that cannot refuses it here.
    let config =
        StreamConfig { delayed: true, ..StreamConfig::parse(STREAM, &["example.remind"])? };
    let reminders = fresh(&bus, &config).await?;
    let due = SystemTime::now() + Duration::from_secs(2);
    reminders.publish(Message::new("example.remind", "take the pill")?.not_before(due)).await?;
    reminders.publish(Message::new("example.remind", "good morning")?).await?;

    let bell = bus.consumer(STREAM, "bell").open().await?;
    let mut rung = 0;
    while rung < 2 {
        for reminder in bell.fetch(10, Duration::from_secs(5)).await? {
            let body = reminder.message().payload.clone().unwrap_or_default();
            let when = if SystemTime::now() >= due { "two seconds later" } else { "at once" };
            println!("{when}: {}", String::from_utf8_lossy(&body));
            reminder.ack_confirmed().await?;
            rung += 1;
        }
    }

    remove(&bus, STREAM).await?;
    Ok(bus.close().await?)
}
