//! Ask, and wait for the answer; two responders share the questions, and nothing is stored.
//!
//! `cargo run -p lockgate-examples --bin 7_request_reply [-- --bus nats://127.0.0.1:4222]`
//!
//! Kafka knows no requests: there it is refused.

use std::time::Duration;

use bus::{Bus, ErrorKind, Message, Responder};
use lockgate_examples::{Failure, bus_url};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let ask = |medicine: &str| {
        let question = Message::new(format!("example.stock.{medicine}"), "");
        async { bus.request(question?, Duration::from_secs(5)).await }
    };

    match ask("aspirin").await {
        Err(error) if error.kind() == ErrorKind::NotFound => println!("nobody answers yet"),
        Err(error) => return Err(error.into()),
        Ok(answer) => return Err(format!("an answer from nobody: {answer:?}").into()),
    }

    let mut answering = tokio::task::JoinSet::new();
    for _ in 0..2 {
        answering.spawn(answer(bus.responder("example.stock.*", "stock").await?));
    }
    for medicine in ["aspirin", "ibuprofen"] {
        let stock = ask(medicine).await?;
        let stock = stock.payload.unwrap_or_default();
        println!("{medicine}: {}", String::from_utf8_lossy(&stock));
    }

    answering.shutdown().await;
    Ok(bus.close().await?)
}

async fn answer(mut responder: Responder) -> Result<(), bus::Error> {
    loop {
        let question = responder.next().await?;
        let stock = match question.message().subject.as_str() {
            "example.stock.aspirin" => "7 packs",
            _ => "out of stock",
        };
        question.answer(Message::new("answer", stock)?).await?;
    }
}
