//! Order per key, different keys in parallel: a patient's readings one after another, although
//! one of them fails at first, while other patients do not wait.
//!
//! `cargo run -p lockgate-examples --bin 9_order_per_key [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::{Backoff, Bus, Message, Outcome, Received, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};
use tokio_util::sync::CancellationToken;

const STREAM: &str = "example-vitals";
const PATIENTS: [&str; 3] = ["anna", "ben", "cleo"];
const READINGS: usize = 4;

/// What was done, by patient, in the order in which it was done.
type Done = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let vitals = fresh(&bus, &StreamConfig::parse(STREAM, &["example.vitals"])?).await?;
    for reading in 1..=READINGS {
        for patient in PATIENTS {
            let message = Message::new("example.vitals", format!("{reading}"))?.key(patient);
            vitals.publish(message).await?;
        }
    }

    let (done, enough) = (Done::default(), CancellationToken::new());
    let (seen, stop) = (done.clone(), enough.clone());
    bus.consumer(STREAM, "chart")
        .ordered_by_key() // the next of a key begins when the one before it is settled for good
        .max_in_flight(8)
        .retry(Backoff::fixed(Duration::from_millis(300)))
        .run(enough, move |received: Received| chart(received, seen.clone(), stop.clone()))
        .await?;

    for (patient, readings) in done.lock().map_err(|_| "a handler panicked")?.iter() {
        println!("{patient}: {}", readings.join(" "));
    }
    remove(&bus, STREAM).await?;
    Ok(bus.close().await?)
}

async fn chart(
    received: Received,
    done: Done,
    enough: CancellationToken,
) -> Result<Outcome, Failure> {
    let patient = String::from_utf8_lossy(received.message.order_key()).into_owned();
    let reading = String::from_utf8(received.message.payload.unwrap_or_default().to_vec())?;
    if patient == "ben" && reading == "2" && received.attempt == 1 {
        return Err("the chart was locked".into());
    }
    let mut done = done.lock().map_err(|_| "a handler panicked")?;
    done.entry(patient).or_default().push(reading);
    if done.values().map(Vec::len).sum::<usize>() == PATIENTS.len() * READINGS {
        enough.cancel();
    }
    Ok(Outcome::Ack)
}
