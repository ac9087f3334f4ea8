//! Dead letters: what fails for good is kept with its reason, and redriven once that is mended.
//!
//! `cargo run -p lockgate-examples --bin 10_dead_letters [-- --bus URL]`, where URL is
//! `nats://127.0.0.1:4222` or `kafka://127.0.0.1:9092`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bus::{Backoff, Bus, DeadLetters, Json, Message, Outcome, StreamConfig, StreamName};
use lockgate_examples::{Failure, bus_url, fresh, remove};
use tokio_util::sync::CancellationToken;

const STREAM: &str = "example-payments";
const DEAD: &str = "example-dead";

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let payments = fresh(&bus, &StreamConfig::parse(STREAM, &["example.payment"])?).await?;
    fresh(&bus, &StreamConfig::dead_letters(StreamName::new(DEAD)?)).await?;
    for body in ["700", "\"seven hundred\"", "-1", "900"] {
        payments.publish(Message::new("example.payment", body)?).await?;
    }

    let dead = bus.dead_letters(DEAD).await?;

    println!("today:");
    pay(&bus, &dead, Bank { refunds: false, paid: 2, dead: 2 }).await?;
    for letter in dead.list(None, 10).await? {
        println!("dead: number {} after {} attempts", letter.sequence, letter.attempts);
    }

    println!("tomorrow, with refunds:");
    let redriven: u64 = dead.redrive(None).await?.iter().map(|done| done.redriven).sum();
    println!("{redriven} are handed out again");
    pay(&bus, &dead, Bank { refunds: true, paid: 1, dead: 1 }).await?;

    remove(&bus, STREAM).await?;
    remove(&bus, DEAD).await?;
    Ok(bus.close().await?)
}

/// What the bank can do, and after how much of it the day ends.
#[derive(Clone, Copy)]
struct Bank {
    refunds: bool,
    paid: u32,
    dead: usize,
}

/// Malformed input is rejected at once; a failure is tried twice.
async fn pay(bus: &Bus, dead: &DeadLetters, bank: Bank) -> Result<(), Failure> {
    let (paid, closing) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let count = paid.clone();
    let run = bus
        .consumer(STREAM, "bank")
        .max_in_flight(1)
        .max_attempts(2)
        .retry(Backoff::fixed(Duration::from_millis(50)))
        .dead_letters(DEAD)
        .run(closing.clone(), move |Json(cents): Json<i64>| {
            let count = count.clone();
            async move {
                if cents < 0 && !bank.refunds {
                    return Err::<_, Failure>("refunds are not possible yet".into());
                }
                println!("{cents} cents are paid");
                count.fetch_add(1, Ordering::Relaxed);
                Ok(Outcome::Ack)
            }
        });
    let until_closing = async {
        while paid.load(Ordering::Relaxed) < bank.paid
            || dead.list(None, 10).await?.len() < bank.dead
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        closing.cancel();
        Ok::<_, Failure>(())
    };
    let (ran, closed) = tokio::join!(run, until_closing);
    closed?;
    Ok(ran?)
}
