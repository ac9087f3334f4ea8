//! How fast a queue is emptied: the real binary on a real NATS server and in memory, over HTTP,
//! pulls of 1000 and one request of acks for each.
//!
//! `make bench-queue`, or `cargo bench -p lockgate --bench queue [-- BACKEND [ROUNDS]]`; BACKEND is
//! `embedded`, `nats` or both. `QUEUE_EVENTS` (100,000) says how many events there are: once all of
//! one key, once of 1000 keys, each pulled twice, as whole runs and with one event of a key at a
//! time (of one key that is done with a hundredth of them). `LOCKGATE_BENCH_BINARY` measures another
//! build.

#![allow(missing_docs, clippy::expect_used)]

#[path = "scale/server.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod server;

use std::fmt::Write;
use std::time::{Duration, Instant};

use bus::testkit::NatsServer;
use reqwest::Client;
use serde::Deserialize;
use serde_json::json;
use server::Lockgate;

const SECRET: &str = "a-secret-of-the-benchmark-that-is-long-enough";
const BATCH: usize = 1000;
/// Nothing takes longer than this.
const LONGEST: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
struct Pulled {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    ack: String,
}

#[tokio::main]
async fn main() {
    let events = std::env::var("QUEUE_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    println!("{events} events, pulled in batches of {BATCH}");
    println!("{:<12} {:<34} {:>10} {:>8}", "BUS", "WHAT", "EVENTS/S", "PULLS");
    let mut given = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let backend = given.next().unwrap_or_else(|| String::from("both"));
    let rounds: usize = given.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    for _ in 0..rounds {
        if backend != "nats" {
            measure("embedded:", "embedded:", events).await;
        }
        if backend != "embedded" {
            let server = NatsServer::start().await.expect("a NATS server");
            measure("nats://", &server.url(), events).await;
        }
    }
}

async fn measure(name: &str, bus: &str, events: usize) {
    let lockgate = Lockgate::start(bus).await;
    let client = Client::builder().no_proxy().build().expect("a client");
    let runs = [
        ("one key", "one", 1, events, BATCH),
        ("one key, one event at a time", "single", 1, events / 100, 1),
        ("1000 keys", "many", 1000, events, BATCH),
        ("1000 keys, one event of each", "each", 1000, events, 1),
    ];
    for (what, realm, keys, events, max_per_key) in runs {
        subscribe(&client, &lockgate, realm).await;
        publish(&client, &lockgate, realm, keys, events).await;
        let (rate, pulls) = drain(&client, &lockgate, realm, events, max_per_key).await;
        println!("{name:<12} {what:<34} {rate:>10.0} {pulls:>8}");
    }
    lockgate.stop().await;
}

async fn subscribe(client: &Client, lockgate: &Lockgate, realm: &str) {
    // The first event makes the realm.
    publish(client, lockgate, realm, 1, 1).await;
    let body = json!({
        "name": realm, "topics": [format!("{realm}.t")], "prefill": false, "secret": SECRET,
    });
    let url = format!("{}/v1/subscriptions", lockgate.url);
    let answer = client.post(url).json(&body).send().await.expect("an answer");
    assert_eq!(answer.status(), 201);
}

async fn publish(client: &Client, lockgate: &Lockgate, realm: &str, keys: usize, events: usize) {
    let url = format!("{}/v1/events", lockgate.url);
    for first in (0..events).step_by(BATCH) {
        let mut body = String::from("[");
        for at in first..(first + BATCH).min(events) {
            let comma = if at == first { "" } else { "," };
            let key = at % keys;
            let event = format!(
                r#"{comma}{{"specversion":"1.0","id":"{events}-{at}","source":"/b","type":"{realm}.t","subject":"k{key}","data":{at}}}"#
            );
            body.write_str(&event).expect("a string takes everything");
        }
        body.push(']');
        let sent = client.post(&url).header("content-type", "application/cloudevents-batch+json");
        let answer = sent.body(body).send().await.expect("an answer");
        assert_eq!(answer.status(), 202);
    }
}

async fn drain(
    client: &Client,
    lockgate: &Lockgate,
    name: &str,
    events: usize,
    max_per_key: usize,
) -> (f64, usize) {
    let url = format!("{}/v1/subscriptions/{name}", lockgate.url);
    let (began, mut got, mut pulls) = (Instant::now(), 0, 0);
    while got < events && began.elapsed() < LONGEST {
        let mut body = json!({ "max": BATCH, "wait": "5s" });
        if max_per_key < BATCH {
            body["max_per_key"] = json!(max_per_key);
        }
        let pull = client.post(format!("{url}/pull")).bearer_auth(SECRET).json(&body);
        let pulled: Pulled =
            pull.send().await.expect("an answer").json().await.expect("a pull's answer");
        let ids: Vec<String> = pulled.messages.into_iter().map(|message| message.ack).collect();
        pulls += 1;
        got += ids.len();
        let acks = client.post(format!("{url}/acks")).bearer_auth(SECRET);
        let answer = acks.json(&json!({ "ack": ids })).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(got, events, "within {LONGEST:?}");
    (got as f64 / began.elapsed().as_secs_f64(), pulls)
}
