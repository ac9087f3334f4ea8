//! Topology: declaring it again changes nothing, a drift is told, a refusal is typed.

use std::time::Duration;

use super::Target;
use super::bench::{Case, refuses, unique};
use crate::capability::Capability;
use crate::config::{
    BucketConfig, ConsumerConfig, Retention, Start, Storage, StreamConfig, WhenFull,
};
use crate::error::{ErrorKind, Result};
use crate::name::{BucketName, ConsumerName, SubjectFilter};

fn assert_mismatch<T>(result: Result<T>, field: &str) {
    let error = result.err().unwrap_or_else(|| panic!("another {field} was accepted"));
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    assert!(error.to_string().contains(field), "{error} does not name {field}");
}

/// Declaring a stream, a consumer or a bucket twice changes nothing; what can be changed is; what
/// cannot is a mismatch that names the field.
pub async fn topology_idempotent(target: &dyn Target) {
    streams_are_idempotent(target).await;
    consumers_are_idempotent(target).await;
    let case = Case::new(target).await;
    let mut config = BucketConfig::new(BucketName::new(unique("b")).unwrap());
    config.replicas = target.replicas();
    let kv = case.bus.ensure_kv(&config).await.unwrap();
    let revision = kv.put("k", "x").await.unwrap();
    config.max_age = Some(Duration::from_secs(3600));
    let again = case.bus.ensure_kv(&config).await.unwrap();
    assert_eq!(again.get("k").await.unwrap().unwrap().revision, revision);
    case.bus.delete_kv(&config.name).await.unwrap();
    assert!(case.bus.delete_kv(&config.name).await.unwrap_err().is_not_found());
    assert!(case.bus.kv(&config.name).await.map(|_| ()).unwrap_err().is_not_found());
}

async fn streams_are_idempotent(target: &dyn Target) {
    let case = Case::with(target, |config| config.max_messages = Some(100)).await;
    let declared = StreamConfig::parse(&case.name, &[&case.subject(">")]).unwrap();
    let replicas = target.replicas();
    let declared = StreamConfig { max_messages: Some(100), replicas, ..declared };
    case.publish("a").await;
    case.bus.ensure_stream(&declared).await.unwrap();
    let info = case.stream.info().await.unwrap();
    assert_eq!((&info.config, info.messages), (&declared, 1));

    let changed = StreamConfig {
        max_messages: Some(200),
        max_bytes: Some(1 << 20),
        max_age: Some(Duration::from_secs(3600)),
        when_full: WhenFull::DropOldest,
        duplicate_window: Duration::from_secs(60),
        max_message_bytes: 4096,
        ..declared.clone()
    };
    case.bus.ensure_stream(&changed).await.unwrap();
    assert_eq!(case.stream.info().await.unwrap().config, changed);

    let queue = StreamConfig { retention: Retention::WorkQueue, ..changed.clone() };
    assert_mismatch(case.bus.ensure_stream(&queue).await, "retention");
    let memory = StreamConfig { storage: Storage::Memory, ..changed.clone() };
    assert_mismatch(case.bus.ensure_stream(&memory).await, "storage");
    let info = case.stream.info().await.unwrap();
    assert_eq!((&info.config, info.messages), (&changed, 1), "a refused change changes nothing");

    let overlapping = StreamConfig::parse(&unique("s"), &[&case.subject("a")]).unwrap();
    let overlapping = case.bus.ensure_stream(&overlapping).await.map(|_| ());
    assert_eq!(overlapping.unwrap_err().kind(), ErrorKind::Invalid);
    case.bus.delete_stream(&case.name).await.unwrap();
    assert!(case.bus.delete_stream(&case.name).await.unwrap_err().is_not_found());
    assert!(case.bus.stream(&case.name).await.map(|_| ()).unwrap_err().is_not_found());
    let publish = case.stream.publish(case.message("a", "x")).await;
    assert!(publish.unwrap_err().is_not_found());
}

async fn consumers_are_idempotent(target: &dyn Target) {
    let case = Case::new(target).await;
    let filter = |rest: &str| SubjectFilter::new(case.subject(rest)).unwrap();
    let declared = ConsumerConfig {
        filters: vec![filter("a"), filter("b")],
        start: Start::Sequence(2),
        ack_wait: Duration::from_secs(7),
        max_unsettled: 10,
        max_attempts: Some(5),
        metadata: [("owner".to_owned(), "me".to_owned())].into(),
        ..ConsumerConfig::new(ConsumerName::new("c").unwrap())
    };
    let first = case.bus.ensure_consumer(&case.name, &declared).await.unwrap();
    let again = case.bus.ensure_consumer(&case.name, &declared).await.unwrap();
    assert_eq!((&first.config, first.created), (&declared, again.created));
    assert_eq!(again.config, declared);

    let changed = ConsumerConfig {
        ack_wait: Duration::from_secs(9),
        max_unsettled: 20,
        max_attempts: None,
        metadata: [("owner".to_owned(), "you".to_owned())].into(),
        ..declared.clone()
    };
    case.bus.ensure_consumer(&case.name, &changed).await.unwrap();
    assert_eq!(case.info("c").await.config, changed);

    let moved = ConsumerConfig { start: Start::Beginning, ..changed.clone() };
    assert_mismatch(case.bus.ensure_consumer(&case.name, &moved).await, "start");
    let narrowed = ConsumerConfig { filters: vec![filter("a")], ..changed.clone() };
    assert_mismatch(case.bus.ensure_consumer(&case.name, &narrowed).await, "filter");
    assert_eq!(case.info("c").await.config, changed, "a refused change changes nothing");
    let nowhere = case.bus.ensure_consumer(unique("none"), &declared).await;
    assert!(nowhere.unwrap_err().is_not_found());
}

/// Each capability is there, or asking for it is an error that says which and by whom.
pub async fn unsupported_is_typed(target: &dyn Target) {
    let case = Case::new(target).await;
    for capability in Capability::ALL {
        refuses(&case, capability).await;
    }
}
