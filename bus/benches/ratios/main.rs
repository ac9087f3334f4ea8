//! The bus against the raw client, on the same server, in the same run, interleaved.
//!
//! `make bench`, or `cargo bench -p lockgate-bus --all-features --bench ratios [-- SECTION... ROUNDS]`
//! with sections `nats`, `kv`, `fan-out`, `kafka`, `embedded`, `disk`. Who goes first changes from round to round.

#![allow(missing_docs, clippy::expect_used)]

mod embedded;
mod kafka;
mod measure;
mod nats;
mod raw;
mod work;

use bus::testkit::{KafkaBroker, NatsServer};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(5);
    let sections: Vec<_> = arguments.iter().filter(|a| a.parse::<u32>().is_err()).collect();
    let wanted =
        |name: &str| sections.is_empty() || sections.iter().any(|section| *section == name);
    let mut table = Vec::new();
    if ["nats", "kv", "fan-out"].iter().any(|section| wanted(section)) {
        let server = NatsServer::start().await.expect("a NATS server");
        let sides = nats::Sides::connect(&server.url()).await;
        if wanted("nats") {
            table.extend(sides.publish_and_consume(rounds).await);
        }
        if wanted("fan-out") {
            table.push(sides.fan_out(rounds).await);
        }
        if wanted("kv") {
            table.extend(sides.key_value(rounds).await);
        }
    }
    if wanted("kafka") {
        let broker = KafkaBroker::start().await.expect("a Kafka broker");
        table.extend(kafka::publish_and_consume(&broker.url(), rounds).await);
    }
    if wanted("embedded") {
        table.push(embedded::in_memory(rounds).await);
    }
    if wanted("disk") {
        table.push(embedded::on_disk(rounds).await);
    }
    measure::print(&table);
    println!(
        "embedded is held against one million messages a second, disk against a hundred thousand,\n\
         not against a raw client; `cargo bench -p lockgate-bus --features disk --bench disk` says more"
    );
}
