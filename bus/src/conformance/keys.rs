//! Keys and values: one winner per revision, and a watch that misses nothing.

use std::time::Duration;

use tokio::time::timeout;

use super::Target;
use super::bench::{Case, PATIENCE, assert_refused, eventually, refuses, unique};
use crate::bus::Bus;
use crate::capability::Capability;
use crate::config::BucketConfig;
use crate::driver::KvChange;
use crate::error::ErrorKind;
use crate::kv::{KeyValue, Watch};
use crate::name::{BucketName, Subject};

async fn bucket(target: &dyn Target, bus: &Bus) -> KeyValue {
    let name = BucketName::new(unique("b")).unwrap();
    let config = BucketConfig { replicas: target.replicas(), ..BucketConfig::new(name) };
    bus.ensure_bucket(&config).await.unwrap();
    bus.kv_for(&config.name, &[]).await.unwrap()
}

/// Of fifty who write on the same revision one wins, the others are told that they lost.
pub async fn kv_cas(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::KvCompareAndSet).await {
        return;
    }
    let kv = bucket(target, &case.bus).await;
    let mut revision = 0;
    for round in 0..4 {
        let racers = (0..50).map(|racer| {
            let (kv, value) = (kv.clone(), format!("{round}.{racer}"));
            tokio::spawn(async move { (kv.update("leader", value.clone(), revision).await, value) })
        });
        let mut winners = Vec::new();
        for raced in futures_util::future::join_all(racers).await {
            match raced.unwrap() {
                (Ok(revision), value) => winners.push((revision, value)),
                (Err(lost), _) => assert!(lost.is_conflict(), "{lost}: {:?}", lost.kind()),
            }
        }
        assert_eq!(winners.len(), 1, "winners of revision {revision}: {winners:?}");
        let entry = kv.get("leader").await.unwrap().expect("someone won");
        assert_eq!((entry.revision, entry.value.as_ref()), (winners[0].0, winners[0].1.as_bytes()));
        assert!(entry.revision > revision, "revisions grow");
        revision = entry.revision;
    }
    let stale = kv.delete("leader", Some(revision - 1)).await;
    assert!(stale.unwrap_err().is_conflict());
    match kv.update("leader", "x", revision + 1000).await.unwrap_err().kind() {
        ErrorKind::Conflict { current } => assert!(current.is_none_or(|now| now == revision)),
        kind => panic!("expected a conflict, got {kind:?}"),
    }
    kv.delete("leader", Some(revision)).await.unwrap();
}

/// A deleted key has no value, is not listed, and can be created again at a higher revision.
pub async fn kv_create_after_delete(target: &dyn Target) {
    let case = Case::new(target).await;
    let kv = bucket(target, &case.bus).await;
    if refuses(&case, Capability::KvCompareAndSet).await {
        assert_refused(&case, kv.create("k", "x").await, Capability::KvCompareAndSet);
        assert_refused(&case, kv.update("k", "x", 1).await, Capability::KvCompareAndSet);
        assert_refused(&case, kv.delete("k", Some(1)).await, Capability::KvCompareAndSet);
        let opened = case.bus.kv(kv.name()).await.map(|_| ());
        return assert_refused(&case, opened, Capability::KvCompareAndSet);
    }
    let mut last = 0;
    for _ in 0..3 {
        let created = kv.create("user.anna", "x").await.unwrap();
        assert!(created > last, "revision {created} after {last}");
        assert!(kv.create("user.anna", "y").await.unwrap_err().is_conflict());
        kv.put("user.ben", "").await.unwrap();
        let entries = kv.entries("user.*").await.unwrap();
        let listed: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(listed, ["user.anna", "user.ben"]);
        assert!(entries[1].value.is_empty(), "an empty value is a value");
        kv.delete("user.anna", Some(created)).await.unwrap();
        assert!(kv.get("user.anna").await.unwrap().is_none());
        assert_eq!(kv.keys(">").await.unwrap().len(), 1);
        assert!(kv.delete("user.anna", Some(created)).await.unwrap_err().is_conflict());
        assert!(kv.update("user.anna", "z", created).await.unwrap_err().is_conflict());
        kv.delete("user.anna", None).await.unwrap();
        kv.delete("never", None).await.unwrap();
        last = created;
    }
    assert!(kv.delete("never", Some(1)).await.unwrap_err().is_conflict());
    let again = case.again(target).await.bus.kv(kv.name()).await.unwrap();
    assert!(again.create("user.anna", "x").await.unwrap() > last);
}

/// Pages in the order of the keys give every entry once; one that was deleted is in none.
pub async fn kv_pages(target: &dyn Target) {
    let case = Case::new(target).await;
    let kv = bucket(target, &case.bus).await;
    assert_eq!(kv.page(None, 10).await.unwrap(), []);
    let keys: Vec<String> = (0..25).map(|n| format!("k.{n:02}")).collect();
    for key in keys.iter().rev() {
        kv.put(key, key.clone()).await.unwrap();
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = kv.page(after.as_ref(), 10).await.unwrap();
        assert!(page.iter().all(|entry| entry.key.as_str().as_bytes() == entry.value));
        listed.extend(page.iter().map(|entry| entry.key.to_string()));
        after = page.last().map(|entry| entry.key.clone());
        if page.len() < 10 {
            break;
        }
        // Behind the place where the next page begins, so that it moves nothing, and in it.
        let last = keys.iter().position(|key| Some(key) == listed.last()).unwrap();
        kv.delete(&keys[last], None).await.unwrap();
        kv.delete(&keys[last + 1], None).await.unwrap();
    }
    let expected: Vec<_> =
        (0..25).filter(|n| ![10, 21].contains(n)).map(|n| keys[n].clone()).collect();
    assert_eq!(listed, expected);
    let first = kv.page(None, 3).await.unwrap();
    let first: Vec<_> = first.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(first, ["k.00", "k.01", "k.02"]);
    assert_eq!(kv.page(Some(&Subject::new("k.24").unwrap()), 3).await.unwrap(), []);
}

async fn next(watch: &mut Watch) -> KvChange {
    let change = async {
        loop {
            match watch.next().await {
                Ok(change) => return change,
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("watch: {error}"),
            }
        }
    };
    timeout(PATIENCE, change).await.expect("a change that must come")
}

async fn assert_put(watch: &mut Watch, key: &str, revision: u64) {
    match next(watch).await {
        KvChange::Put(entry) => {
            assert_eq!((entry.key.as_str(), entry.revision), (key, revision));
        }
        other => panic!("expected {key} at {revision}, got {other:?}"),
    }
}

/// The initial part of a watch comes to its end although what it was to report vanishes before it is
/// read, and nobody writes anything.
pub async fn kv_watch_ends_its_initial_part(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::KvWatch).await {
        return;
    }
    let max_age = Duration::from_secs(1);
    let config = BucketConfig {
        replicas: target.replicas(),
        max_age: Some(max_age),
        ..BucketConfig::new(BucketName::new(unique("b")).unwrap())
    };
    case.bus.ensure_bucket(&config).await.unwrap();
    let kv = case.bus.kv_for(&config.name, &[]).await.unwrap();
    for key in ["a", "b", "c"] {
        kv.put(key, "old").await.unwrap();
    }
    let mut watch = kv.watch(">").await.unwrap();
    tokio::time::sleep(4 * max_age).await;
    while next(&mut watch).await != KvChange::Synced {}
    assert_eq!(eventually("list", || kv.entries(">")).await, []);
    let written = kv.put("a", "new").await.unwrap();
    assert_put(&mut watch, "a", written).await;
}

/// A watch reports what is there, says when that is all, also when it is nothing, then every
/// change in order; a restart of the broker leaves no gap and repeats nothing.
pub async fn kv_watch(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::KvWatch).await {
        return;
    }
    let kv = bucket(target, &case.bus).await;
    let mut empty = kv.watch(">").await.unwrap();
    assert_eq!(next(&mut empty).await, KvChange::Synced);
    for key in ["on.a", "on.b", "on.c", "off.d"] {
        kv.put(key, "old").await.unwrap();
    }
    kv.delete("on.b", None).await.unwrap();
    let again = kv.put("on.a", "new").await.unwrap();
    let mut watch = kv.watch("on.*").await.unwrap();
    let mut first = Vec::new();
    loop {
        match next(&mut watch).await {
            KvChange::Put(entry) => first.push((entry.key.to_string(), entry.value)),
            KvChange::Synced => break,
            gone @ KvChange::Delete { .. } => panic!("no current entry: {gone:?}"),
        }
    }
    first.sort();
    assert_eq!(first, [("on.a".into(), "new".into()), ("on.c".into(), "old".into())]);

    kv.put("off.d", "unseen").await.unwrap();
    kv.delete("on.c", None).await.unwrap();
    match next(&mut watch).await {
        KvChange::Delete { key, revision } => {
            assert!(key.as_str() == "on.c" && revision > again);
        }
        other => panic!("expected the deletion of on.c, got {other:?}"),
    }
    let created = kv.put("on.c", "back").await.unwrap();
    assert_put(&mut watch, "on.c", created).await;

    target.restart_broker().await.unwrap();
    for n in 0..20 {
        let key = format!("on.after{n}");
        let written = eventually("put", || kv.put(&key, "x")).await;
        // A put that timed out may have been written twice: only the last one stands.
        let current = eventually("get", || kv.get(&key)).await.map(|entry| entry.revision);
        assert_eq!(current, Some(written));
        loop {
            match next(&mut watch).await {
                KvChange::Put(entry) if entry.revision < written => {
                    assert_eq!(entry.key.as_str(), key, "repeated after the restart");
                }
                KvChange::Put(entry) => {
                    assert_eq!((entry.key.as_str(), entry.revision), (key.as_str(), written));
                    break;
                }
                other => panic!("expected {key}, got {other:?}"),
            }
        }
    }
}
