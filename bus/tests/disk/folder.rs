//! What a folder holds from one process to the next, who may open it, and what damage looks like.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bus::embedded::disk::{Disk, SyncPolicy};
use bus::{BucketConfig, BucketName, Bus, ErrorKind, Start, Storage, StreamConfig, SubjectFilter};

use super::{child, connect, message, url};

const SOON: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(20);

async fn refusal(url: &str) -> bus::Error {
    Bus::connect(url).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_folder_is_shared_in_a_process_and_outlives_it() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (connect(folder.path()).await, connect(folder.path()).await);
    let mut config = StreamConfig::parse("s", &["s.>", "t.*"]).unwrap();
    config.max_age = Some(Duration::from_secs(3600));
    let stream = first.ensure_stream(&config).await.unwrap();
    let bucket = BucketConfig::new(BucketName::new("b").unwrap());
    let kv = first.ensure_kv(&bucket).await.unwrap();
    stream.publish(message("s.a", "1").key("k").header("h", "v").unwrap()).await.unwrap();
    let (revision, _) = (kv.put("k", "v").await.unwrap(), kv.put("gone", "v").await.unwrap());
    kv.delete("gone", None).await.unwrap();
    let held = second.stream("s").await.unwrap().get(1).await.unwrap().unwrap();
    assert_eq!(second.kv("b").await.unwrap().get("k").await.unwrap().unwrap().revision, revision);
    let other = refusal(&url(folder.path(), "?sync=interval")).await;
    assert_eq!(other.kind(), ErrorKind::Mismatch);

    first.close().await.unwrap();
    assert!(second.stream("s").await.is_ok(), "another connection stays open");
    drop((first, stream, kv, second));
    let bus = Bus::connect(&url(folder.path(), "?sync=interval")).await.unwrap();
    let stream = bus.stream("s").await.unwrap();
    assert_eq!(stream.get(1).await.unwrap().unwrap(), held);
    assert_eq!(stream.info().await.unwrap().config, config);
    let kv = bus.kv("b").await.unwrap();
    assert_eq!(kv.keys(">").await.unwrap().len(), 1);
    assert_eq!(kv.put("k", "w").await.unwrap(), revision + 3, "revisions go on after a deletion");
}

#[tokio::test]
async fn sequences_go_on_and_a_stream_made_anew_is_empty() {
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(folder.path()).await;
    let config = StreamConfig::parse("s", &["s.>"]).unwrap();
    let stream = bus.ensure_stream(&config).await.unwrap();
    for n in 0..3 {
        stream.publish(message("s.a", n).id(format!("{n}"))).await.unwrap();
    }
    stream.purge(&SubjectFilter::all()).await.unwrap();
    drop((bus, stream));
    let bus = connect(folder.path()).await;
    let stream = bus.stream("s").await.unwrap();
    let again = stream.publish(message("s.a", "x").id("1")).await.unwrap();
    assert!(again.duplicate && again.sequence == 2, "{again:?}");
    assert_eq!(stream.publish(message("s.a", "x").id("3")).await.unwrap().sequence, 4);
    bus.delete_stream("s").await.unwrap();
    bus.ensure_stream(&config).await.unwrap();
    drop((bus, stream));
    let bus = connect(folder.path()).await;
    let info = bus.stream("s").await.unwrap().info().await.unwrap();
    assert_eq!((info.last_sequence, info.messages, info.consumers), (0, 0, 0));
}

#[tokio::test]
async fn a_consumer_stands_where_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(folder.path()).await;
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    for subject in ["s.a", "s.b", "s.a", "s.c"] {
        stream.publish(message(subject, "x")).await.unwrap();
    }
    let lease = Duration::from_millis(400);
    let builder = |bus: &Bus| {
        let consumer = bus.consumer("s", "c").start(Start::LastPerSubject).ack_wait(lease);
        consumer.max_attempts(2).metadata("owner", "anna")
    };
    let consumer = builder(&bus).open().await.unwrap();
    let leased_at = SystemTime::now();
    let mut first = consumer.fetch(2, PATIENCE).await.unwrap();
    assert_eq!([2, 3], [first[0].message().sequence, first[1].message().sequence]);
    let token = first[0].token().clone();
    first.remove(1).ack_confirmed().await.unwrap();
    let until = SystemTime::now() + Duration::from_secs(3600);
    bus.pause("s", "c", until).await.unwrap();
    let before = consumer.info().await.unwrap();
    drop((bus, stream, consumer, first));

    let bus = connect(folder.path()).await;
    let consumer = builder(&bus).open().await.unwrap();
    let after = consumer.info().await.unwrap();
    assert_eq!((after.paused_until, after.created), (Some(until), before.created));
    assert_eq!((after.pending, after.unsettled, after.config), (1, 1, before.config));
    assert!(consumer.fetch(9, SOON).await.unwrap().is_empty(), "it is paused");
    bus.resume("s", "c").await.unwrap();
    let mut came = Vec::new();
    while came.len() < 2 {
        for delivery in consumer.fetch(9, PATIENCE).await.unwrap() {
            came.push((delivery.message().sequence, delivery.attempt()));
            if delivery.message().sequence == 2 {
                assert!(SystemTime::now() >= leased_at + lease, "the lease still ran");
            }
            delivery.ack_confirmed().await.unwrap();
        }
    }
    came.sort_unstable();
    assert_eq!(came, [(2, 2), (4, 1)]);
    bus.seek("s", "c", Start::Beginning).await.unwrap();
    drop((bus, consumer));
    let bus = connect(folder.path()).await;
    let consumer = bus.bind("s", "c").await.unwrap();
    let stale = consumer.settle(&token, bus::Settlement::Ack).await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Stale, "a lease from before the move");
    assert_eq!(consumer.fetch(9, PATIENCE).await.unwrap().len(), 4);
}

#[tokio::test]
async fn what_was_promised_outlives_a_crash_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = StreamConfig::parse("s", &["s.>"]).unwrap();
    config.delayed = true;
    for round in 0..5_u64 {
        let disk = Disk::open(folder.path(), SyncPolicy::Each).await.unwrap();
        let bus = Bus::with_driver(Arc::new(disk.another()));
        let stream = bus.ensure_stream(&config).await.unwrap();
        let held = stream.info().await.unwrap().last_sequence;
        assert!(held >= 2 * round, "round {round}: {held} messages");
        for id in 0..2 * round {
            let again = stream.publish(message("s.a", id).id(format!("{id}"))).await.unwrap();
            assert!(again.duplicate, "round {round}: {id}");
        }
        stream.publish(message("s.a", "x").id(format!("{}", 2 * round))).await.unwrap();
        let until = SystemTime::now() + Duration::from_secs(3600);
        stream.publish(message("s.b", round).not_before(until)).await.unwrap();
        // This one is told of, and the next may be on its way.
        stream.publish(message("s.a", "y").id(format!("{}", 2 * round + 1))).await.unwrap();
        let _unknown = stream.submit(message("s.c", "z")).await.unwrap();
        disk.crash().await.unwrap();
        let over = stream.publish(message("s.a", "late")).await.unwrap_err();
        assert_eq!(over.kind(), ErrorKind::Closed, "{over}");
    }
    let bus = connect(folder.path()).await;
    let stream = bus.stream("s").await.unwrap();
    assert_eq!(stream.purge(&SubjectFilter::new(">").unwrap()).await.unwrap() - 5, {
        let last = stream.info().await.unwrap().last_sequence;
        assert!((10..=15).contains(&last), "{last} messages");
        last
    });
}

#[tokio::test]
async fn what_is_declared_for_memory_ends_with_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(folder.path()).await;
    let mut config = StreamConfig::parse("m", &["m.>"]).unwrap();
    config.storage = Storage::Memory;
    let stream = bus.ensure_stream(&config).await.unwrap();
    stream.publish(message("m.a", "x")).await.unwrap();
    drop((bus, stream));
    let bus = connect(folder.path()).await;
    assert!(bus.stream("m").await.map(|_| ()).unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_second_process_is_told_that_the_folder_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = child::start(folder.path(), "");
    // Until it says something, which is after it opened the folder.
    let mut said = [0; 256];
    let output = process.stdout.as_mut().unwrap();
    while !said.contains(&b'=') {
        assert!(output.read(&mut said).unwrap() > 0, "the process ended");
    }
    let error = refusal(&url(folder.path(), "")).await;
    process.kill().unwrap();
    process.wait().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("open in another process"), "{error}");
    connect(folder.path()).await;
}

#[tokio::test]
async fn damage_is_told_with_the_folder_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let bus = connect(folder.path()).await;
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    stream.publish(message("s.a", "a-body-to-find")).await.unwrap();
    stream.publish(message("s.a", "another")).await.unwrap();
    drop((bus, stream));
    assert!(damage(folder.path(), b"a-body-to-find"), "the body is in a journal");
    let error = refusal(&url(folder.path(), "")).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let text = error.to_string();
    assert!(text.contains(folder.path().to_str().unwrap()) && text.contains("copy"), "{text}");
}

/// Changes one byte of what is found in a journal.
fn damage(folder: &Path, what: &[u8]) -> bool {
    let files =
        std::fs::read_dir(folder.join("database")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "jnl")).any(|path| {
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(at) = bytes.windows(what.len()).position(|part| part == what) else {
            return false;
        };
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        true
    })
}

#[tokio::test]
async fn a_url_without_a_folder_is_refused() {
    for bad in ["embedded://", "embedded:///", "embedded://relative/path", "embedded:///x?sync=no"]
    {
        assert_eq!(refusal(bad).await.kind(), ErrorKind::Invalid, "{bad}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(refusal(&url(file.path(), "")).await.kind(), ErrorKind::Unavailable);
}
