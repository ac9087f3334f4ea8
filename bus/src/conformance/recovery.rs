//! Recovery: a drain that loses nothing, and a broker that goes away under load.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::Target;
use super::bench::{Case, PATIENCE, SHORT_LEASE, collect, eventually, read, sequences, unique};
use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, Start};
use crate::driver::KvChange;
use crate::handler::Outcome;
use crate::kv::{KeyValue, Watch};
use crate::message::StoredMessage;
use crate::name::BucketName;
use crate::stream::Stream;

/// On shutdown no new work begins, work that began is finished and settled, then the loop ends.
pub async fn graceful_drain(target: &dyn Target) {
    let case = Case::new(target).await;
    case.publish_many("a", 10).await;
    let (shutdown, gate) = (CancellationToken::new(), Arc::new(Semaphore::new(0)));
    let (started, mut starts) = mpsc::unbounded_channel();
    let (stop, open) = (shutdown.clone(), gate.clone());
    let builder = case.consumer("c").ack_wait(SHORT_LEASE).max_in_flight(4);
    let running = tokio::spawn(builder.run(stop, move |message: StoredMessage| {
        let (started, open) = (started.clone(), open.clone());
        async move {
            started.send(message.sequence)?;
            open.acquire().await?.forget();
            Ok(Outcome::Ack)
        }
    }));
    let mut begun = BTreeSet::new();
    while begun.len() < 4 {
        let start = timeout(PATIENCE, starts.recv()).await.expect("four handlers begin");
        begun.extend(start);
    }
    shutdown.cancel();
    // Longer than the lease: what is at work is extended during the drain too.
    tokio::time::sleep(2 * SHORT_LEASE).await;
    assert!(!running.is_finished(), "the loop left handlers at work behind");
    gate.add_permits(100);
    timeout(PATIENCE, running).await.expect("the drain ends").unwrap().unwrap();
    assert!(starts.recv().await.is_none() && begun.len() == 4, "work began after the shutdown");
    let consumer = case.bus.bind(&case.name, "c").await.unwrap();
    let rest = sequences(&collect(&consumer, 6).await);
    let expected: Vec<_> = (1..=10).filter(|sequence| !begun.contains(sequence)).collect();
    assert_eq!(BTreeSet::from_iter(rest), BTreeSet::from_iter(expected));
}

const MESSAGES: usize = 10_000;
const RESTARTS_AT: [usize; 2] = [3_000, 7_000];
const KEYS: usize = 100;

/// Ten thousand messages pass through two crashes of the broker: each is consumed, stored once
/// and read in order; the consumer, the reader and the watch go on by themselves.
pub async fn reconnect_under_load(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").max_unsettled(2000).prefetch(200).open().await.unwrap();
    let name = BucketName::new(unique("b")).unwrap();
    let bucket = BucketConfig { replicas: target.replicas(), ..BucketConfig::new(name) };
    case.bus.ensure_bucket(&bucket).await.unwrap();
    let kv = case.bus.kv_for(&bucket.name, &[Capability::KvWatch]).await.unwrap();
    let watch = kv.watch(">").await.unwrap();
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let published = Arc::new(AtomicUsize::new(0));

    // Without ids a message whose receipt was lost is stored again, and counts once all the same.
    let ids = case.bus.support(Capability::Deduplication) != Support::Unsupported;
    let publishing =
        tokio::spawn(publish_all(case.stream.clone(), case.subject("a"), ids, published.clone()));
    let writing = tokio::spawn(write_keys(kv, published.clone()));
    let watching = tokio::spawn(watch_keys(watch));
    let consuming = tokio::spawn(async move {
        let (mut seen, deadline) = (BTreeSet::new(), Instant::now() + 3 * PATIENCE);
        while seen.len() < MESSAGES {
            assert!(Instant::now() < deadline, "{} of {MESSAGES} consumed", seen.len());
            let fetch = || consumer.fetch(500, Duration::from_secs(2));
            for delivery in eventually("fetch", fetch).await {
                let message = delivery.message().clone();
                // An ack that fails brings the message again, which is no loss.
                if delivery.ack().await.is_ok() {
                    seen.insert(message.payload.unwrap_or_default());
                }
            }
        }
        seen
    });
    for at in RESTARTS_AT {
        let reached = async {
            while published.load(Ordering::Relaxed) < at {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(3 * PATIENCE, reached).await.expect("publishing goes on");
        target.restart_broker().await.unwrap();
    }
    publishing.await.unwrap();
    let last = writing.await.unwrap();
    assert_eq!(timeout(PATIENCE, watching).await.expect("the watch goes on").unwrap(), last);
    let seen = timeout(3 * PATIENCE, consuming).await.expect("consuming goes on").unwrap();
    let expected: BTreeSet<_> = (0..MESSAGES).map(|n| bytes::Bytes::from(n.to_string())).collect();
    assert!(seen == expected, "every message is consumed");
    // A cluster that was just restarted may not answer at once.
    let info = eventually("look at the stream", || case.stream.info()).await;
    let stored = info.messages as usize;
    assert!(stored == MESSAGES || !ids && stored > MESSAGES, "{stored} messages are stored");
    let read = read(&mut reader, stored).await;
    let sequences = read.iter().map(|message| message.sequence);
    assert!(sequences.eq(1..=stored as u64), "read in order, each once");
}

/// Publishes through a window, and again with the same id what got no receipt.
async fn publish_all(stream: Stream, subject: String, ids: bool, published: Arc<AtomicUsize>) {
    let deadline = Instant::now() + 3 * PATIENCE;
    let mut open: Vec<usize> = (0..MESSAGES).rev().collect();
    while !open.is_empty() {
        assert!(Instant::now() < deadline, "{} were never accepted", open.len());
        let batch = open.split_off(open.len().saturating_sub(500));
        let message = |n: &usize| {
            let message = crate::Message::new(&subject, n.to_string()).unwrap();
            if ids { message.id(format!("m{n}")) } else { message }
        };
        let results = stream.publish_all(batch.iter().map(message)).await;
        let before = open.len();
        for (n, result) in batch.into_iter().zip(results) {
            match result {
                Ok(_) => {
                    published.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) if error.is_retryable() => open.push(n),
                Err(error) => panic!("publish: {error}"),
            }
        }
        let pause = if open.len() > before { 100 } else { 1 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// Writes keys all along; returns the last revision.
async fn write_keys(kv: KeyValue, published: Arc<AtomicUsize>) -> u64 {
    let mut last = 0;
    for n in 0..KEYS {
        while published.load(Ordering::Relaxed) < n * MESSAGES / KEYS {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        last = eventually("put", || kv.put(format!("k{n}"), n.to_string())).await;
    }
    last
}

/// Watches until the last key was reported; returns its revision.
async fn watch_keys(mut watch: Watch) -> u64 {
    let (mut synced, mut last, mut keys) = (false, 0, BTreeSet::new());
    loop {
        match watch.next().await {
            Ok(KvChange::Synced) => assert!(!std::mem::replace(&mut synced, true), "synced twice"),
            Ok(KvChange::Put(entry)) => {
                assert!(entry.revision > last, "revision {} after {last}", entry.revision);
                last = entry.revision;
                keys.insert(entry.key.to_string());
                if keys.len() == KEYS {
                    return last;
                }
            }
            Ok(KvChange::Delete { key, .. }) => panic!("nobody deleted {key}"),
            Err(error) if error.is_retryable() => {
                tokio::time::sleep(Duration::from_millis(50)).await
            }
            Err(error) => panic!("watch: {error}"),
        }
    }
}
