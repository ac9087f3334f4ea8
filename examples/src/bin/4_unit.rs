//! An atomic unit: the order is settled and its bill published together, and the backend says how
//! surely that happens once.
//!
//! `cargo run -p lockgate-examples --bin 4_unit [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use std::time::Duration;

use bus::{Bus, Guarantee, Message, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let orders = fresh(&bus, &StreamConfig::parse("example-unit-in", &["example.in.*"])?).await?;
    let bills = fresh(&bus, &StreamConfig::parse("example-unit-out", &["example.out.*"])?).await?;
    orders.publish(Message::new("example.in.41", "two teas")?).await?;

    let billing = bus.consumer("example-unit-in", "billing").open().await?;
    for order in billing.fetch(1, Duration::from_secs(30)).await? {
        let unit = bus
            .unit()
            .publish(&bills, Message::new("example.out.41", "6.40")?)
            .publish(&bills, Message::new("example.out.vat", "1.02")?)
            .settle(order);
        // An error hands the order back unsettled: commit the same again, or let it come again.
        let done = unit.commit().await?;
        let once = match done.guarantee {
            Guarantee::Exactly => "one step: all of it or nothing",
            Guarantee::Effectively(_) => "a repeat after a crash is recognised by its ids",
            Guarantee::AtLeastOnce => "a crash may repeat it",
        };
        eprintln!("{}: {once}", bus.backend());
        println!("{} bills for 1 order", done.receipts.len());
    }
    println!("{} orders are unsettled", billing.info().await?.unsettled);

    remove(&bus, "example-unit-in").await?;
    remove(&bus, "example-unit-out").await?;
    Ok(bus.close().await?)
}
