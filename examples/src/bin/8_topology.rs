//! Streams, consumers and buckets from a file: what is missing is made, what cannot be changed is
//! refused with a diff, and a second time changes nothing.
//!
//! `cargo run -p lockgate-examples --bin 8_topology [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use bus::{Bus, Topology};
use lockgate_examples::{Failure, bus_url, remove};

const DECLARED: &str = r#"
[streams.example-orders-log]
subjects = ["example.log.>"]
when-full = "drop-oldest"
max-bytes = "16MiB"
max-age = "7d"

[streams.example-orders-log.consumers.billing]
filters = ["example.log.created"]
ack-wait = "1m"
"#;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    remove(&bus, "example-orders-log").await?; // what an earlier run may have left on a server

    let declared = Topology::parse(DECLARED)?;
    for change in bus.ensure_topology(&declared).await? {
        println!("{change}");
    }
    println!("a second time: {} changes", bus.ensure_topology(&declared).await?.len());

    let longer = Topology::parse(&DECLARED.replace("7d", "8d"))?;
    for change in bus.ensure_topology(&longer).await? {
        println!("{change}");
    }

    let narrower = Topology::parse(&DECLARED.replace("log.created", "log.paid"))?;
    match bus.ensure_topology(&narrower).await {
        Err(refused) => println!(
            "refused: {}",
            refused.to_string().lines().skip(1).collect::<Vec<_>>().join("\n")
        ),
        Ok(_) => return Err("a consumer's filter was changed under it".into()),
    }

    remove(&bus, "example-orders-log").await?;
    Ok(bus.close().await?)
}
