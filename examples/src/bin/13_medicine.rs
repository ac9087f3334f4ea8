//! The medicine flow: one-shot makers, each of which takes one order, makes all its tabs at the same
//! time, delivers them, and ends. An order that cannot be made is parked.
//!
//! `cargo run -p lockgate-examples --bin 13_medicine [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`. With patients, and as many makers as it
//! takes: `cargo run -- flow medicine`.

use bus::{Bus, Message};
use lockgate_examples::{Failure, bus_url, remove};
use lockgate_flows::medicine::{DELIVERIES, FLOW, ORDERS, ORDERS_SUBJECT, PARKED, TabsOrder, WAIT};
use lockgate_flows::{Context, run};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    for stream in [ORDERS, DELIVERIES, PARKED] {
        remove(&bus, stream).await?; // of an earlier run
    }
    let mut context = Context::new(bus.clone(), Bus::connect("embedded:").await?);
    context.settings.set(&WAIT, "30s")?; // a maker that is new in a Kafka group waits for its share
    (FLOW.prepare)(context.clone()).await?;

    let orders = bus.stream(ORDERS).await?;
    for (id, tabs) in [("order-1", 3), ("order-2", 30), ("order-3", 31)] {
        let order = TabsOrder { id: id.to_owned(), patient: String::from("anna"), tabs };
        orders.publish(Message::json(ORDERS_SUBJECT, &order)?.key(id)).await?;
    }
    let maker = FLOW.role("maker").ok_or("medicine has makers")?;
    for _ in 0..3 {
        run(&FLOW, &[maker], context.clone()).await?;
    }
    let count = |name| context.counter(name).get();
    println!(
        "{} orders are made, {} tabs delivered",
        count("orders made"),
        count("tabs delivered")
    );
    for letter in bus.dead_letters(PARKED).await?.list(None, 10).await? {
        println!("parked: {}", letter.reason);
    }

    for stream in [ORDERS, DELIVERIES, PARKED] {
        remove(&bus, stream).await?;
    }
    Ok(bus.close().await?)
}
