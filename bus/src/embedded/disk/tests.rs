//! A disk whose sync fails, once.

use std::sync::Arc;
use std::time::Duration;

use super::{Disk, SyncPolicy};
use crate::{BucketConfig, BucketName, Bus, ErrorKind, KvChange, Message, StreamConfig};

const PATIENCE: Duration = Duration::from_secs(20);

fn message(id: &str) -> Message {
    Message::new("s.a", "x").unwrap().id(id)
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_promised_any_more_and_everyone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::open(folder.path(), SyncPolicy::Each).await.unwrap();
    let bus = Bus::with_driver(Arc::new(disk.another()));
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    let bucket = BucketConfig::new(BucketName::new("b").unwrap());
    let kv = bus.ensure_kv(&bucket).await.unwrap();
    let consumer = bus.consumer("s", "c").filter("s.never").open().await.unwrap();
    stream.publish(message("kept")).await.unwrap();
    let mut watch = kv.watch(">").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), KvChange::Synced);
    let mut reader = stream.reader(&[], crate::Start::New).await.unwrap();
    // They wait when it happens.
    let waiting = tokio::spawn(async move { watch.next().await.unwrap_err() });
    let fetching = tokio::spawn(async move { consumer.fetch(1, PATIENCE).await.unwrap_err() });
    let told = tokio::spawn(async move { bus.failed().await });
    tokio::task::yield_now().await;

    disk.backend.shared.break_disk();
    let lost = stream.publish(message("lost")).await.unwrap_err();
    let mut errors = vec![lost];
    // The id is known in memory, and its first publish is on no disk: no receipt, ever.
    errors.push(stream.publish(message("lost")).await.unwrap_err());
    errors.push(stream.publish(message("kept")).await.unwrap_err());
    errors.push(stream.get(1).await.unwrap_err());
    errors.push(kv.put("k", "v").await.unwrap_err());
    errors.push(reader.next(1, PATIENCE).await.unwrap_err());
    for told in [waiting, fetching, told] {
        errors.push(tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap());
    }
    // Neither while it is held nor later does this process open the folder again.
    errors.push(Disk::open(folder.path(), SyncPolicy::Each).await.unwrap_err());
    drop((disk, stream, kv, reader));
    errors.push(Disk::open(folder.path(), SyncPolicy::Each).await.unwrap_err());
    for error in errors {
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Failed, false), "{error}");
        let text = error.to_string();
        assert!(text.contains(folder.path().to_str().unwrap()), "{text}");
        assert!(text.contains("start the process anew"), "{text}");
    }
}
