//! What Lockgate costs with many subscriptions and many keys: the real binary, over HTTP, on the
//! embedded bus in memory, on the one in a folder, and on a NATS server.
//!
//! `make bench-scale`, or `cargo bench -p lockgate --bench scale [-- memory folder nats]`. Sizes by
//! environment: `SCALE_SUBSCRIPTIONS` (10,000), `SCALE_KEYS` (200,000), `SCALE_IDLE_SECONDS` (20).
//! With 500, 10,000 and 3 it takes less than a minute.

#![allow(missing_docs, clippy::expect_used)]

mod cpu;
mod figures;
mod load;
mod server;

use bus::testkit::NatsServer;
use figures::Figures;
use load::Sizes;
use server::Lockgate;

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|section| section == name);
    let sizes = Sizes::from_environment();
    println!("{sizes}");
    let mut table = Vec::new();
    if wanted("memory") {
        table.push(measure("embedded:", "embedded:", None, sizes).await);
    }
    if wanted("folder") {
        let folder = tempfile::tempdir().expect("a folder");
        let bus = format!("embedded://{}", folder.path().display());
        table.push(measure("embedded:///", &bus, None, sizes).await);
    }
    if wanted("nats") {
        let server = NatsServer::start().await.expect("a NATS server");
        let bus = server.url();
        table.push(measure("nats://", &bus, server.pid(), sizes).await);
    }
    figures::print(&table);
}

/// Everything on one bus; `beside` is the process of its server, whose load counts too.
async fn measure(name: &str, bus: &str, beside: Option<u32>, sizes: Sizes) -> Figures {
    let mut figures = Figures::new(name);
    let lockgate = Lockgate::start(bus).await;
    figures.keys_per_second = load::publish(&lockgate, sizes.keys).await;
    figures.registered = load::register(&lockgate, "s", sizes.subscriptions).await;
    figures.lists = load::list(&lockgate).await;
    figures.idle = cpu::idle(lockgate.pid(), beside, sizes.idle).await;
    figures.memory = cpu::resident(lockgate.pid());
    if bus != "embedded:" {
        lockgate.stop().await;
        let (again, ready) = Lockgate::start_again(bus).await;
        figures.ready_again = Some(ready);
        figures.registered_again =
            Some(load::register(&again, "again", sizes.subscriptions.min(500)).await.first);
        again.stop().await;
    } else {
        lockgate.stop().await;
    }
    figures
}
