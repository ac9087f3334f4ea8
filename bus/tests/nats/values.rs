//! Buckets: compare-and-set, deletions, other clients, watches over a restart.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{BucketConfig, BucketName, ErrorKind, KeyValue, KvChange, Watch};

use super::{PATIENCE, raw, server};

async fn bucket(bus: &bus::Bus) -> KeyValue {
    bus.ensure_kv(&BucketConfig::new(BucketName::new("b").unwrap())).await.unwrap()
}

/// The change in short: `+key=value`, `-key`, `synced`.
async fn next(watch: &mut Watch) -> String {
    match tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap() {
        KvChange::Put(entry) => {
            format!("+{}={}", entry.key, String::from_utf8_lossy(&entry.value))
        }
        KvChange::Delete { key, .. } => format!("-{key}"),
        KvChange::Synced => String::from("synced"),
    }
}

#[tokio::test]
async fn create_works_over_a_deletion_and_only_then() {
    let (server, bus) = server().await;
    let kv = bucket(&bus).await;
    let first = kv.create("a", "1").await.unwrap();
    let taken = kv.create("a", "2").await.unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Conflict { current: Some(first) });
    let second = kv.update("a", "2", first).await.unwrap();
    let stale = kv.update("a", "3", first).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict { current: Some(second) });
    assert!(kv.delete("a", Some(first)).await.unwrap_err().is_conflict());
    kv.delete("a", Some(second)).await.unwrap();
    assert_eq!(kv.get("a").await.unwrap(), None);
    assert!(kv.entries(">").await.unwrap().is_empty());
    kv.delete("a", None).await.unwrap();
    kv.delete("never", None).await.unwrap();
    assert!(kv.delete("never", Some(3)).await.unwrap_err().is_conflict());
    let third = kv.create("a", "3").await.unwrap();
    assert!(third > second);
    assert_eq!(&kv.get("a").await.unwrap().unwrap().value[..], b"3");

    // Another client purges: its marker is a deletion too.
    let other = raw(&server).await.get_key_value("b").await.unwrap();
    assert_eq!(&other.get("a").await.unwrap().unwrap()[..], b"3");
    other.purge("a").await.unwrap();
    assert_eq!(kv.get("a").await.unwrap(), None);
    kv.create("a", "4").await.unwrap();
    assert_eq!(&other.get("a").await.unwrap().unwrap()[..], b"4");
    bus.delete_kv("b").await.unwrap();
    assert_eq!(bus.delete_kv("b").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bus.kv("b").await.err().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_racers_one_wins_each_revision() {
    let (_server, bus) = server().await;
    let kv = bucket(&bus).await;
    let mut revision = 0;
    for _ in 0..10 {
        let racers: Vec<_> = (0..50)
            .map(|n| {
                let kv = kv.clone();
                tokio::spawn(async move { kv.update("a", format!("{n}"), revision).await })
            })
            .collect();
        let mut winners = Vec::new();
        let mut losers = Vec::new();
        for racer in racers {
            match racer.await.unwrap() {
                Ok(revision) => winners.push(revision),
                Err(error) => losers.push(error.kind()),
            }
        }
        assert_eq!(winners.len(), 1);
        revision = winners[0];
        let conflict = ErrorKind::Conflict { current: Some(revision) };
        assert!(losers.iter().all(|kind| *kind == conflict), "{losers:?}");
    }
}

#[tokio::test]
async fn a_watch_on_nothing_is_in_step_at_once() {
    let (_server, bus) = server().await;
    let kv = bucket(&bus).await;
    kv.put("a.gone", "1").await.unwrap();
    kv.delete("a.gone", None).await.unwrap();
    let mut watch = kv.watch("b.>").await.unwrap();
    assert_eq!(next(&mut watch).await, "synced");
    let mut watch = kv.watch("a.>").await.unwrap();
    assert_eq!(next(&mut watch).await, "synced");
    kv.put("a.x", "1").await.unwrap();
    assert_eq!(next(&mut watch).await, "+a.x=1");
    kv.delete("a.x", None).await.unwrap();
    assert_eq!(next(&mut watch).await, "-a.x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_a_restart_and_repeats_nothing() {
    let (mut server, bus) = server().await;
    let kv = bucket(&bus).await;
    kv.put("k.a", "1").await.unwrap();
    kv.put("k.b", "1").await.unwrap();
    let mut watch = kv.watch(">").await.unwrap();
    let first = [next(&mut watch).await, next(&mut watch).await, next(&mut watch).await];
    assert_eq!(first, ["+k.a=1", "+k.b=1", "synced"]);
    server.kill9();
    server.restart().await.unwrap();
    let again = bus::Bus::connect(&server.url()).await.unwrap().kv("b").await.unwrap();
    again.put("k.b", "2").await.unwrap();
    again.delete("k.a", None).await.unwrap();
    assert_eq!(next(&mut watch).await, "+k.b=2");
    assert_eq!(next(&mut watch).await, "-k.a");
    kv.put("k.c", "3").await.unwrap();
    assert_eq!(next(&mut watch).await, "+k.c=3");
    let quiet = tokio::time::timeout(Duration::from_millis(100), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_complete_while_others_write() {
    let (_server, bus) = server().await;
    let kv = bucket(&bus).await;
    for n in 0..2000 {
        kv.put(format!("k.{n:04}"), "x").await.unwrap();
    }
    let (writer, stop) = (kv.clone(), tokio_util::sync::CancellationToken::new());
    let stopped = stop.clone();
    let writing = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            writer.put("k.0000", "y").await.unwrap();
        }
    });
    for _ in 0..20 {
        assert_eq!(kv.keys("k.>").await.unwrap().len(), 2000);
        let (mut watch, mut keys, mut last) = (kv.watch("k.>").await.unwrap(), BTreeSet::new(), 0);
        while let KvChange::Put(entry) = watch.next().await.unwrap() {
            keys.insert(entry.key);
            last = entry.revision;
        }
        assert_eq!(keys.len(), 2000, "in step without what was there");
        let KvChange::Put(entry) = watch.next().await.unwrap() else { panic!("no put") };
        assert!(entry.revision > last, "revision {} after {last}", entry.revision);
    }
    stop.cancel();
    writing.await.unwrap();
    assert_eq!(kv.keys("k.1*").await.err().map(|error| error.kind()), Some(ErrorKind::Invalid));
    assert_eq!(kv.keys("k.1999").await.unwrap().len(), 1);
}

/// The initial part ends although what it was to tell is gone before it is read, and nobody writes.
#[tokio::test]
async fn a_watch_ends_its_initial_part_when_the_bucket_is_purged_before_it_is_read() {
    let (server, bus) = server().await;
    let kv = bucket(&bus).await;
    let raw = raw(&server).await;
    for purges_by_subject in [false, true] {
        for n in 0..50 {
            kv.put(format!("k.{n}"), "1").await.unwrap();
        }
        let mut watch = kv.watch(">").await.unwrap();
        let stream = raw.get_stream("KV_b").await.unwrap();
        match purges_by_subject {
            true => stream.purge().filter("$KV.b.k.>").await.unwrap(),
            false => stream.purge().await.unwrap(),
        };
        assert_eq!(next(&mut watch).await, "synced");
        assert!(
            kv.entries(">").await.unwrap().is_empty() && kv.keys(">").await.unwrap().is_empty()
        );
        kv.put("k.a", "2").await.unwrap();
        assert_eq!(next(&mut watch).await, "+k.a=2");
        kv.delete("k.a", None).await.unwrap();
    }
}

/// The same while it is being read, which finds some of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_and_a_listing_end_while_the_bucket_is_purged() {
    const KEYS: usize = 3000;
    let (server, bus) = server().await;
    let kv = bucket(&bus).await;
    let raw = raw(&server).await;
    for round in 0..3 {
        let puts = (0..KEYS).map(|n| kv.put(format!("k.{n}"), vec![b'x'; 512]));
        for put in futures_util::future::join_all(puts).await {
            put.unwrap();
        }
        let mut watch = kv.watch(">").await.unwrap();
        let listing = tokio::spawn({
            let kv = kv.clone();
            async move { kv.entries(">").await }
        });
        for _ in 0..100 * round {
            assert!(next(&mut watch).await.starts_with("+k."));
        }
        raw.get_stream("KV_b").await.unwrap().purge().await.unwrap();
        while next(&mut watch).await != "synced" {}
        let listed = tokio::time::timeout(PATIENCE, listing).await.unwrap().unwrap().unwrap();
        assert!(listed.len() <= KEYS);
    }
}
