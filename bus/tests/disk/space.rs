//! What is dropped, settled or deleted does not stay on disk.

use std::path::Path;
use std::time::Duration;

use bus::{Bus, Message, Retention, Stream, StreamConfig, WhenFull};

use super::url;

const BODY: usize = 64 << 10;
const MIB: u64 = 1 << 20;

/// What a folder takes on disk: a journal is made with more than it holds.
fn taken(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // A file may go while this looks.
    let sizes = entries.filter_map(|path| {
        let metadata = path.metadata().ok()?;
        Some(if metadata.is_dir() { taken(&path) } else { metadata.blocks() * 512 })
    });
    sizes.sum()
}

/// Bodies that do not compress, all different.
fn body(n: u64) -> Vec<u8> {
    n.to_be_bytes().into_iter().cycle().take(BODY).collect()
}

async fn publish(stream: &Stream, mebibytes: u64) {
    let messages =
        (0..mebibytes * MIB / BODY as u64).map(|n| Message::new("s.a", body(n)).unwrap());
    for result in stream.publish_all(messages).await {
        result.unwrap();
    }
}

async fn open(folder: &Path, change: impl FnOnce(&mut StreamConfig)) -> (Bus, Stream) {
    let bus = Bus::connect(&url(folder, "?sync=interval")).await.unwrap();
    let mut config = StreamConfig::parse("s", &["s.>"]).unwrap();
    change(&mut config);
    let stream = bus.ensure_stream(&config).await.unwrap();
    (bus, stream)
}

#[tokio::test]
async fn a_rolling_limit_bounds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (_bus, stream) = open(folder.path(), |config| {
        (config.max_bytes, config.when_full) = (Some(8 * MIB), WhenFull::DropOldest);
    })
    .await;
    let mut sizes = Vec::new();
    for _ in 0..3 {
        publish(&stream, 128).await;
        sizes.push(taken(folder.path()) / MIB);
    }
    println!("{sizes:?} MiB after each 128 MiB");
    assert!(stream.info().await.unwrap().bytes <= 8 * MIB);
    // The journals, and what waits for its compaction; not the 384 MiB that went through.
    assert!(sizes.iter().all(|size| *size < 256), "{sizes:?} MiB");
}

#[tokio::test]
async fn what_is_deleted_or_settled_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let work_queue = |config: &mut StreamConfig| config.retention = Retention::WorkQueue;
    let (bus, stream) = open(folder.path(), work_queue).await;
    publish(&stream, 128).await;
    let consumer = bus.consumer("s", "c").max_unsettled(10_000).open().await.unwrap();
    let mut left = 64 * MIB / BODY as u64;
    while left > 0 {
        for delivery in consumer.fetch(left as usize, Duration::from_secs(20)).await.unwrap() {
            delivery.ack().await.unwrap();
            left -= 1;
        }
    }
    assert_eq!(stream.info().await.unwrap().messages, 64 * MIB / BODY as u64);
    bus.delete_stream("s").await.unwrap();
    let before = taken(folder.path()) / MIB;
    // Compaction comes with writing.
    for _ in 0..4 {
        let (_, stream) = open(folder.path(), work_queue).await;
        publish(&stream, 64).await;
        bus.delete_stream("s").await.unwrap();
    }
    let after = taken(folder.path()) / MIB;
    println!("{before} MiB after the deletion, {after} MiB after 256 MiB more came and went");
    assert!(after < 320, "{before} MiB, then {after} MiB");
}
