//! Keys and values: compare-and-set, and a watch that says when it is in step.
//!
//! `cargo run -p lockgate-examples --bin 2_kv_watch [-- --bus nats://127.0.0.1:4222]`
//!
//! Kafka has no compare-and-set: there it is refused.

use bus::{BucketConfig, BucketName, Bus, KvChange};
use lockgate_examples::{Failure, bus_url};

const BUCKET: &str = "example-profiles";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    remove(&bus).await?; // what an earlier run may have left on a server
    let profiles = bus.ensure_kv(&BucketConfig::new(BucketName::new(BUCKET)?)).await?;

    let revision = profiles.create("patient.7", "Anna, Berlin").await?;
    profiles.create("patient.8", "Ben, Oslo").await?;

    // First what is there, then a mark, then every change: no gap in between.
    let mut changes = profiles.watch("patient.*").await?;
    loop {
        let change = changes.next().await?;
        show(&change);
        if change == KvChange::Synced {
            break;
        }
    }

    profiles.update("patient.7", "Anna, Paris", revision).await?;
    // Someone who read the older revision loses, and is told so.
    let late = profiles.update("patient.7", "Anna, Rome", revision).await;
    match late {
        Err(error) if error.is_conflict() => println!("someone was faster: nothing was written"),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("two writers won the same revision".into()),
    }
    profiles.delete("patient.8", None).await?;
    for _ in 0..2 {
        show(&changes.next().await?);
    }

    remove(&bus).await?;
    Ok(bus.close().await?)
}

fn show(change: &KvChange) {
    match change {
        KvChange::Put(entry) => {
            println!("{} = {}", entry.key, String::from_utf8_lossy(&entry.value));
        }
        KvChange::Delete { key, .. } => println!("{key} is deleted"),
        KvChange::Synced => println!("in step"),
    }
}

async fn remove(bus: &Bus) -> Result<(), bus::Error> {
    match bus.delete_kv(BUCKET).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
