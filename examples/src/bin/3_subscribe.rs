//! Subscribe over HTTP: first the current state, then every change, and nothing twice.
//!
//! `cargo run -p lockgate-examples --bin 3_subscribe [-- --bus nats://127.0.0.1:4222]`
//!
//! Kafka has no compare-and-set: there it is refused.

use std::time::{SystemTime, UNIX_EPOCH};

use lockgate::client::sse::SseEvent;
use lockgate::client::wire::NewSubscription;
use lockgate::client::{Client, StreamItem};
use lockgate::model::SubscriptionName;
use lockgate_examples::{Failure, LocalLockgate, bus_url};
use serde_json::{Value, json};

const NAME: &str = "example-people";
// A real consumer draws its secret once and keeps it: 32 random bytes or more.
const SECRET: &str = "an-example-secret-that-everyone-knows";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let lockgate = LocalLockgate::start(&bus_url()?).await?;
    let client = Client::new(lockgate.url(), None)?;
    let events = Events::new()?;

    let before = [
        events.user(1, "anna", json!({ "city": "Berlin" })),
        events.user(2, "ben", json!({ "city": "Oslo" })),
        events.user(3, "anna", json!({ "city": "Paris" })),
        events.deleted(4, "ben"),
    ];
    client.publish(&before).await?; // a batch keeps the order of each key

    let name = SubscriptionName::new(NAME)?;
    let new = NewSubscription {
        name: NAME.into(),
        topics: vec!["example.*".into()],
        prefill: true,
        secret: SECRET.into(),
        ..NewSubscription::default()
    };
    client.register(&new).await?;

    let after = [
        events.user(5, "cleo", json!({ "city": "Rome" })),
        events.user(6, "anna", json!({ "city": "Vienna" })),
        events.deleted(7, "cleo"),
    ];
    for event in &after {
        client.publish(std::slice::from_ref(event)).await?;
    }
    client.publish(&after).await?; // known ids: nothing is stored, nothing is delivered twice

    let mut stream = client.subscriber(name.clone(), SECRET.into()).events(None);
    let (mut prefilled, mut missing) = (false, after.len());
    while missing > 0 {
        let event = match stream.next().await? {
            Some(StreamItem::Event(event)) => event,
            // It goes on by itself, after the last event that was given.
            Some(StreamItem::Reconnecting { .. }) => continue,
            None => return Err("the stream ended".into()),
        };
        match event.event.as_str() {
            "prefill-start" => println!("the state:"),
            "message" => {
                show(&event)?;
                missing -= usize::from(prefilled);
            }
            "prefill-end" => {
                println!("from here on, every change:");
                prefilled = true;
            }
            _ => {}
        }
    }

    client.delete(&name, Some(SECRET)).await?;
    drop(stream);
    lockgate.stop().await
}

fn show(event: &SseEvent) -> Result<(), Failure> {
    let change: Value = serde_json::from_str(&event.data)?;
    let key = change["subject"].as_str().unwrap_or_default();
    match change.get("data") {
        Some(data) => println!("  {key} {data}"),
        None => println!("  {key} is deleted"),
    }
    Ok(())
}

/// Makes CloudEvents. A source of its own lets each run be new to a log that remembers.
struct Events {
    source: String,
}

impl Events {
    fn new() -> Result<Self, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        Ok(Self { source: format!("/examples/3/{now}") })
    }

    fn user(&self, id: u32, key: &str, data: Value) -> Value {
        let mut event = self.deleted(id, key);
        event["data"] = data;
        event
    }

    /// An event without data deletes its key.
    fn deleted(&self, id: u32, key: &str) -> Value {
        json!({
            "specversion": "1.0",
            "id": id.to_string(),
            "source": self.source,
            "type": "example.user",
            "subject": key,
        })
    }
}
