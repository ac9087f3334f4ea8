//! The embedded backend in memory and on disk, under each sync policy: messages per second.
//!
//! `cargo bench -p lockgate-bus --features disk --bench disk [-- FOLDER]`; the folder, by default
//! one in the system's temporary folder, decides which disk is measured.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bus::{BucketConfig, BucketName, Bus, Message, Result, Start, StreamConfig};

const BODY: [u8; 128] = [b'x'; 128];
const WAIT: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let given = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = given.map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("bus-bench-{}", std::process::id()));
    println!(
        "{:32} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "", "window 1000", "one by one", "consume+ack", "read", "KV put"
    );
    measure("embedded:", 300_000, 300_000).await?;
    for (policy, single) in [("each", 2_000), ("interval", 20_000)] {
        let name = folder.join(policy);
        measure(&format!("embedded://{}?sync={policy}", name.display()), 300_000, single).await?;
    }
    reopen(&folder.join("reopen"), 1_000_000).await?;
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

fn rate(count: u64, started: Instant) -> String {
    format!("{:.0}", count as f64 / started.elapsed().as_secs_f64())
}

fn message() -> Result<Message> {
    Message::new("log.a", &BODY[..])
}

async fn fill(bus: &Bus, count: u64) -> Result<bus::Stream> {
    let stream = bus.ensure_stream(&StreamConfig::parse("log", &["log.>"])?).await?;
    let mut window = VecDeque::with_capacity(1000);
    for _ in 0..count {
        if window.len() == 1000
            && let Some(receipt) = window.pop_front()
        {
            receipt.await?;
        }
        window.push_back(stream.submit(message()?).await?);
    }
    for receipt in window {
        receipt.await?;
    }
    Ok(stream)
}

async fn measure(url: &str, windowed: u64, single: u64) -> Result<()> {
    let bus = Bus::connect(url).await?;
    let started = Instant::now();
    let stream = fill(&bus, windowed).await?;
    let publish = rate(windowed, started);

    let started = Instant::now();
    for _ in 0..single {
        stream.publish(message()?).await?;
    }
    let publish_single = rate(single, started);

    let consumer = bus.consumer("log", "c").max_unsettled(2000).open().await?;
    let (started, mut taken) = (Instant::now(), 0);
    while taken < windowed {
        for delivery in consumer.fetch(500, WAIT).await? {
            delivery.ack().await.map_err(bus::Error::from)?;
            taken += 1;
        }
    }
    let consume = rate(taken, started);

    let (started, mut read) = (Instant::now(), 0);
    let mut reader = stream.reader(&[], Start::Beginning).await?;
    while read < windowed {
        read += reader.next(500, WAIT).await?.len() as u64;
    }
    let read = rate(read, started);

    let kv = bus.ensure_kv(&BucketConfig::new(BucketName::new("kv")?)).await?;
    let started = Instant::now();
    for n in 0..single {
        kv.put(format!("k.{}", n % 1000), &BODY[..]).await?;
    }
    let put = rate(single, started);
    let name = url.split_once('?').map_or(url, |(_, policy)| policy);
    println!("{name:32} {publish:>12} {publish_single:>12} {consume:>12} {read:>12} {put:>12}");
    Ok(())
}

/// How long a folder with so many messages takes to open.
async fn reopen(folder: &Path, messages: u64) -> Result<()> {
    let url = format!("embedded://{}?sync=interval", folder.display());
    let bus = Bus::connect(&url).await?;
    fill(&bus, messages).await?;
    let started = Instant::now();
    drop(bus);
    let closed = started.elapsed();
    let started = Instant::now();
    let bus = Bus::connect(&url).await?;
    let opened = started.elapsed();
    let held = bus.stream("log").await?.info().await?.messages;
    println!("closed in {closed:.2?}, opened again with {held} messages in {opened:.2?}");
    Ok(())
}
