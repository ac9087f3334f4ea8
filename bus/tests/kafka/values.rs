//! Buckets on compacted topics.

use std::time::Duration;

use bus::{
    BucketConfig, BucketName, Bus, Capability, ErrorKind, KeyValue, KvChange, Message, Watch,
};

use super::{PATIENCE, alone, shared, unique};

async fn bucket(bus: &Bus) -> KeyValue {
    let name = BucketName::new(unique("b")).unwrap();
    bus.ensure_bucket(&BucketConfig::new(name.clone())).await.unwrap();
    open(bus, &name).await
}

async fn open(bus: &Bus, name: &BucketName) -> KeyValue {
    bus.kv_for(name, &[Capability::KvWatch]).await.unwrap()
}

async fn next(watch: &mut Watch) -> KvChange {
    tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_process_reads_what_it_wrote_and_another_what_was_there() {
    let (broker, bus) = shared().await;
    let kv = bucket(&bus).await;
    assert_eq!(kv.get("a.b").await.unwrap(), None);
    let mut last = 0;
    for value in ["1", "", "3"] {
        let revision = kv.put("a.b", value).await.unwrap();
        assert!(revision > last);
        last = revision;
        let entry = kv.get("a.b").await.unwrap().unwrap();
        assert_eq!((entry.value.as_ref(), entry.revision), (value.as_bytes(), revision));
    }
    kv.put("a.c", "x").await.unwrap();
    kv.delete("a.c", None).await.unwrap();
    kv.delete("never", None).await.unwrap();
    assert_eq!(kv.keys(">").await.unwrap().len(), 1);

    let elsewhere = open(&Bus::connect(&broker.url()).await.unwrap(), kv.name()).await;
    assert_eq!(elsewhere.entries("a.*").await.unwrap(), kv.entries(">").await.unwrap());
    let again = bucket_config(kv.name(), Some(Duration::from_secs(3600)));
    bus.ensure_bucket(&again).await.unwrap();
    assert_eq!(kv.get("a.b").await.unwrap().unwrap().revision, last);

    bus.delete_kv(kv.name()).await.unwrap();
    assert!(kv.get("a.b").await.unwrap_err().is_not_found());
    assert!(bus.delete_kv(kv.name()).await.unwrap_err().is_not_found());
}

fn bucket_config(name: &BucketName, max_age: Option<Duration>) -> BucketConfig {
    BucketConfig { max_age, ..BucketConfig::new(name.clone()) }
}

#[tokio::test]
async fn compare_and_set_is_refused_when_it_is_asked_for() {
    let (_broker, bus) = shared().await;
    let kv = bucket(&bus).await;
    let refused =
        ErrorKind::Unsupported { capability: Capability::KvCompareAndSet, backend: "kafka://" };
    assert_eq!(bus.kv(kv.name()).await.err().unwrap().kind(), refused);
    assert_eq!(kv.create("a", "x").await.unwrap_err().kind(), refused);
    assert_eq!(kv.update("a", "x", 1).await.unwrap_err().kind(), refused);
    assert_eq!(kv.delete("a", Some(1)).await.unwrap_err().kind(), refused);
    assert_eq!(kv.get("a").await.unwrap(), None);
    let question = Message::new("q", "x").unwrap();
    let error = bus.request(question, Duration::from_secs(1)).await.unwrap_err();
    let request = Capability::RequestReply;
    assert_eq!(error.kind(), ErrorKind::Unsupported { capability: request, backend: "kafka://" });
}

#[tokio::test]
async fn a_watch_goes_on_after_a_crash_and_repeats_no_revision() {
    let (mut broker, bus) = alone().await;
    let kv = bucket(&bus).await;
    kv.put("on.a", "old").await.unwrap();
    kv.put("off", "x").await.unwrap();
    let mut watch = kv.watch("on.*").await.unwrap();
    assert!(matches!(next(&mut watch).await, KvChange::Put(entry) if entry.value == "old"));
    assert_eq!(next(&mut watch).await, KvChange::Synced);
    let mut last = 0;
    for round in 0..2 {
        for n in 0..10 {
            let written = kv.put("on.a", format!("{round}.{n}")).await.unwrap();
            assert!(written > last);
            last = written;
            match next(&mut watch).await {
                KvChange::Put(entry) => assert_eq!(entry.revision, written),
                other => panic!("{other:?}"),
            }
        }
        kv.delete("on.a", None).await.unwrap();
        match next(&mut watch).await {
            KvChange::Delete { revision, .. } => assert!(revision > last),
            other => panic!("{other:?}"),
        }
        if round == 0 {
            broker.kill9();
            broker.restart().await.unwrap();
        }
    }
    let removed = tokio::spawn(async move { watch.next().await });
    bus.delete_kv(kv.name()).await.unwrap();
    let removed = tokio::time::timeout(PATIENCE, removed).await.unwrap().unwrap();
    assert!(removed.unwrap_err().is_not_found());
}
