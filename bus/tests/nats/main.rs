//! What is particular to `nats://`: its traps, its limits, a server that dies.

// The lint knows test functions, but not the functions that these share.
#![allow(clippy::unwrap_used)]

mod connections;
mod consume;
mod create;
mod extras;
mod publish;
mod restored;
mod state;
mod values;

use std::time::Duration;

use bus::testkit::NatsServer;
use bus::{Bus, Message, Stream, StreamConfig};

/// Long enough for anything on a busy machine; never waited for when things work.
const PATIENCE: Duration = Duration::from_secs(30);

async fn server() -> (NatsServer, Bus) {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(&server.url()).await.unwrap();
    (server, bus)
}

/// A raw client beside the bus, to see what is on the wire.
async fn raw(server: &NatsServer) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

async fn stream(bus: &Bus, name: &str, subject: &str) -> Stream {
    bus.ensure_stream(&StreamConfig::parse(name, &[subject]).unwrap()).await.unwrap()
}

fn message(subject: &str, payload: impl ToString) -> Message {
    Message::new(subject, payload.to_string()).unwrap()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_reason() {
    let started = tokio::time::Instant::now();
    let error = Bus::connect("nats://127.0.0.1:1").await.err().unwrap();
    assert_eq!(error.kind(), bus::ErrorKind::Unavailable);
    assert_eq!(
        error.to_string(),
        "nats://127.0.0.1:1 did not answer within 5 s: connection refused"
    );
    assert!(started.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn one_server_of_several_is_enough() {
    let server = NatsServer::start().await.unwrap();
    let alive = server.url().replace("nats://", "");
    let bus = Bus::connect(&format!("nats://127.0.0.1:1,{alive}")).await.unwrap();
    stream(&bus, "S", "s.>").await;
}

#[tokio::test]
async fn a_closed_bus_says_so() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let receipt = stream.submit(message("s.a", 1)).await.unwrap();
    bus.close().await.unwrap();
    assert_eq!(receipt.await.unwrap().sequence, 1);
    let error = stream.publish(message("s.a", 2)).await.unwrap_err();
    assert_eq!(error.kind(), bus::ErrorKind::Closed);
    assert_eq!(stream.info().await.unwrap_err().kind(), bus::ErrorKind::Closed);
    bus.close().await.unwrap();
}
