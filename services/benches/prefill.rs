//! A prefill, from its request to the report that it is done: rows per second, and the memory that
//! the process took for it beyond what it had before.
//!
//! `cargo bench -p lockgate --bench prefill [-- ROWS [BACKEND]]`; ROWS is 1,000,000 and BACKEND
//! `embedded`, `nats` or both by default. On the embedded bus the log and the prefill queue are in
//! this process too: what they keep is in "after", and the worker's own share is "peak" less that.

use std::error::Error;
use std::time::{Duration, Instant};

use bus::Bus;
use bus::testkit::NatsServer;
use lockgate::model::{CloudEvent, Prefill, SubscriptionName, TopicSet};
use lockgate::platform::Platform;
use lockgate::registration::{Registration, Request, run};
use lockgate::store::{Store, StoreOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOOK: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut given = std::env::args().skip(1).filter(|argument| !argument.starts_with('-'));
    let rows: u64 = given.next().map_or(Ok(1_000_000), |rows| rows.parse())?;
    let backend = given.next();
    let wanted = |name: &str| backend.as_ref().is_none_or(|backend| backend == name);
    println!(
        "{:10} {:>10} {:>8} {:>10} {:>12} {:>12} {:>12}",
        "", "rows", "s", "rows/s", "before MiB", "peak MiB", "after MiB"
    );
    if wanted("embedded") {
        measure("embedded", &Bus::connect("embedded:").await?, rows).await?;
    }
    if wanted("nats") {
        let server = NatsServer::start().await?;
        measure("nats", &Bus::connect(&server.url()).await?, rows).await?;
    }
    Ok(())
}

async fn measure(name: &str, bus: &Bus, rows: u64) -> Result<(), Box<dyn Error>> {
    let store = Store::open(Platform::new(bus.clone()), StoreOptions::default()).await?;
    fill_log(&store, rows).await?;
    let stop = CancellationToken::new();
    let mut roles = JoinSet::new();
    let registration = Registration::new(store.clone());
    roles.spawn(run(registration.clone(), stop.clone()));
    roles.spawn(lockgate::prefill::run(store.clone(), stop.clone()));
    let who = SubscriptionName::new("bench")?;
    let request = Request {
        name: who.clone(),
        topics: TopicSet::parse(&["dir.*"])?,
        prefill: true,
        secret: None,
        ack_wait: Duration::from_secs(30),
        max_attempts: None,
        dead_letters: None,
    };
    reset_peak();
    let (before, began) = (memory("VmRSS"), Instant::now());
    registration.register(request).await?;
    let written = loop {
        match store.subscription(&who).await?.map(|kept| kept.subscription.prefill) {
            Some(Prefill::Done { manifest }) => break manifest.rows,
            Some(Prefill::Failed { reason }) => return Err(reason.into()),
            _ => tokio::time::sleep(LOOK).await,
        }
    };
    let (took, peak) = (began.elapsed().as_secs_f64(), memory("VmHWM"));
    assert_eq!(written, rows);
    println!(
        "{name:10} {rows:>10} {took:>8.1} {:>10.0} {before:>12.0} {peak:>12.0} {:>12.0}",
        rows as f64 / took,
        memory("VmRSS")
    );
    stop.cancel();
    while let Some(ended) = roles.join_next().await {
        ended??;
    }
    bus.close().await?;
    Ok(())
}

async fn fill_log(store: &Store, rows: u64) -> Result<(), Box<dyn Error>> {
    let mut batch = Vec::new();
    for n in 0..rows {
        let json = format!(
            r#"{{"specversion":"1.0","id":"{n}","source":"/bench","type":"dir.users","subject":"user-{n:07}","data":{{"name":"user {n}","mail":"user{n}@example.org"}}}}"#
        );
        let event = CloudEvent::from_json(json.as_bytes())?;
        batch.push(event.to_message()?);
        if batch.len() >= 4096 || n + 1 == rows {
            let log = store.ensure_realm(&event.topic().realm).await?;
            for published in log.publish_all(std::mem::take(&mut batch)).await {
                published?;
            }
        }
    }
    Ok(())
}

/// A line of `/proc/self/status`, in MiB; 0 where there is none.
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Lets the peak begin anew (proc(5), `clear_refs`).
fn reset_peak() {
    if let Err(error) = std::fs::write("/proc/self/clear_refs", "5") {
        eprintln!("the peak includes the filling of the log: {error}");
    }
}
