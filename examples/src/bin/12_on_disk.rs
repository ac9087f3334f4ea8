//! The embedded backend in a folder: no server, and nothing is lost when the process ends.
//!
//! `cargo run -p lockgate-examples --bin 12_on_disk`

use std::time::Duration;

use bus::{Bus, Message, StreamConfig};
use lockgate_examples::Failure;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("example-bus-{}", std::process::id()));
    let url = format!("embedded://{}", folder.display());

    // Each receipt comes after its fsync; those that arrive together share one.
    let bus = Bus::connect(&url).await?;
    let notes = bus.ensure_stream(&StreamConfig::parse("notes", &["notes.*"])?).await?;
    for body in ["one", "two"] {
        notes.publish(Message::new("notes.a", body)?).await?;
    }
    let reader = bus.consumer("notes", "reader").open().await?;
    let first = reader.fetch(1, Duration::from_secs(5)).await?.remove(0);
    first.ack_confirmed().await?;
    println!("wrote 2, read 1");
    drop((reader, notes));
    bus.close().await?;

    // Another process, another day.
    let bus = Bus::connect(&url).await?;
    let reader = bus.bind("notes", "reader").await?;
    for note in reader.fetch(10, Duration::from_secs(5)).await? {
        let body = note.message().payload.clone().unwrap_or_default();
        println!("went on with {}", String::from_utf8_lossy(&body));
        note.ack_confirmed().await?;
    }
    bus.close().await?;
    Ok(std::fs::remove_dir_all(&folder)?)
}
