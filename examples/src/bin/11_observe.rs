//! Metrics and traces: one trace id from the first publish through every handler, and numbers by
//! stream and consumer in the format that Prometheus scrapes.
//!
//! `cargo run -p lockgate-examples --bin 11_observe [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use bus::middleware::prometheus_client::encoding::text::encode;
use bus::middleware::prometheus_client::registry::Registry;
use bus::middleware::{Metrics, TraceContext, Tracing};
use bus::{Bus, Message, Outcome, StoredMessage, Stream, StreamConfig};
use lockgate_examples::{Failure, bus_url, fresh, remove};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut registry = Registry::default();
    let bus = Bus::connect(&bus_url()?).await?;
    let bus = bus.with_middleware(Tracing::new()).with_middleware(Metrics::register(&mut registry));
    let orders =
        fresh(&bus, &StreamConfig::parse("example-seen-in", &["example.seen.in"])?).await?;
    let bills =
        fresh(&bus, &StreamConfig::parse("example-seen-out", &["example.seen.out"])?).await?;
    orders.publish(Message::new("example.seen.in", "two teas")?).await?;

    let (enough, out) = (CancellationToken::new(), bills.clone());
    let stop = enough.clone();
    bus.consumer("example-seen-in", "billing")
        .run(enough, move |order: StoredMessage| bill(order, out.clone(), stop.clone()))
        .await?;

    let (order, bill) = (trace_of(&orders).await?, trace_of(&bills).await?);
    println!("the bill has the trace of its order: {}", order == bill);
    let mut page = String::new();
    encode(&mut page, &registry)?;
    let mut counters: Vec<&str> = page.lines().filter(|line| line.contains("_total{")).collect();
    counters.sort_unstable();
    for line in counters {
        if line.contains("published_total") || line.contains("acked") {
            println!("{line}");
        }
    }
    remove(&bus, "example-seen-in").await?;
    remove(&bus, "example-seen-out").await?;
    Ok(bus.close().await?)
}

/// Publishes inside the handler's trace without a word about it.
async fn bill(
    _order: StoredMessage,
    bills: Stream,
    enough: CancellationToken,
) -> Result<Outcome, Failure> {
    bills.publish(Message::new("example.seen.out", "6.40")?).await?;
    enough.cancel();
    Ok(Outcome::Ack)
}

async fn trace_of(stream: &Stream) -> Result<u128, Failure> {
    let first = stream.get(1).await?.ok_or("nothing was published")?;
    let context = TraceContext::from_headers(&first.headers).ok_or("no trace context")?;
    Ok(context.trace_id())
}
