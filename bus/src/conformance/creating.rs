//! Creating what is missing: it is there afterwards, and what was there before is not altered.

use std::time::Duration;

use futures_util::future::join_all;

use super::Target;
use super::bench::{Case, unique};
use crate::bus::Bus;
use crate::capability::{Capability, Support};
use crate::config::{BucketConfig, ConsumerConfig, Retention, Start, StreamConfig, WhenFull};
use crate::error::ErrorKind;
use crate::name::{BucketName, ConsumerName, SubjectFilter};

/// Creating a stream that is missing makes it as declared; creating it again with other settings
/// alters nothing, opens it, and says what differs.
pub async fn create_stream_alters_nothing(target: &dyn Target) {
    let (bus, name) = (target.bus().await.unwrap(), unique("s"));
    let plain = StreamConfig {
        replicas: target.replicas(),
        ..StreamConfig::parse(&name, &[&format!("{name}.>")]).unwrap()
    };
    let declared = StreamConfig {
        max_bytes: Some(3 << 20),
        max_age: Some(Duration::from_secs(7200)),
        when_full: WhenFull::DropOldest,
        duplicate_window: Duration::from_secs(90),
        max_message_bytes: 8192,
        ..plain.clone()
    };
    let made = bus.create_stream_if_missing(&declared).await.unwrap();
    assert!(made.created && made.differences.is_empty(), "{:?}", made.differences);
    let message = crate::Message::new(format!("{name}.a"), "x").unwrap();
    made.handle.publish(message.clone()).await.unwrap();
    let again = bus.create_stream_if_missing(&declared).await.unwrap();
    assert!(again.differences.is_empty(), "{:?}", again.differences);

    let opened = bus.create_stream_if_missing(&plain).await.unwrap();
    assert!(!opened.created, "a stream that was there was made anew");
    let mut differs: Vec<_> = opened.differences.iter().map(|one| one.field).collect();
    differs.sort_unstable();
    let expected = ["duplicate-window", "max-age", "max-bytes", "max-message-bytes", "when-full"];
    assert_eq!(differs, expected);
    let info = opened.handle.info().await.unwrap();
    assert_eq!((&info.config, info.messages), (&declared, 1));
    opened.handle.publish(message).await.unwrap();
}

/// The same for a bucket.
pub async fn create_bucket_alters_nothing(target: &dyn Target) {
    let case = Case::new(target).await;
    let name = BucketName::new(unique("b")).unwrap();
    let plain = BucketConfig { replicas: target.replicas(), ..BucketConfig::new(name) };
    let hour = Some(Duration::from_secs(3600));
    let declared = BucketConfig { max_age: hour, ..plain.clone() };
    let wants = BucketConfig { max_age: Some(Duration::from_secs(60)), ..plain };
    // Opened as far as the backend can.
    let full = case.bus.support(Capability::KvCompareAndSet) != Support::Unsupported;
    if full {
        let made = case.bus.create_kv_if_missing(&declared).await.unwrap();
        assert!(made.created && made.differences.is_empty(), "{:?}", made.differences);
        made.handle.put("k", "x").await.unwrap();
        let opened = case.bus.create_kv_if_missing(&wants).await.unwrap();
        assert!(!opened.created, "a bucket that was there was made anew");
        let told: Vec<_> = opened.differences.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["max-age: 1h -> 1m"]);
        assert_eq!(opened.handle.get("k").await.unwrap().unwrap().value, "x");
    }
    let driver = case.bus.driver();
    assert_eq!(driver.create_bucket(&declared).await.unwrap().is_created(), !full);
    let exists = driver.create_bucket(&wants).await.unwrap();
    assert_eq!((exists.is_created(), exists.get()), (false, &declared));
    assert_eq!(case.bus.bucket_info(&declared.name).await.unwrap(), declared);
}

/// Of several that create the same stream at once, each gets it, and it is as one of them asked.
pub async fn create_races_are_settled(target: &dyn Target) {
    let (first, second) = (target.bus().await.unwrap(), target.bus().await.unwrap());
    let name = unique("s");
    let asked: Vec<_> = (1..=6)
        .map(|hours| StreamConfig {
            replicas: target.replicas(),
            max_age: Some(Duration::from_secs(3600 * hours)),
            ..StreamConfig::parse(&name, &[&format!("{name}.>")]).unwrap()
        })
        .collect();
    let buses: Vec<&Bus> = [&first, &second].into_iter().cycle().take(asked.len()).collect();
    let all = join_all(asked.iter().zip(buses).map(|(c, bus)| bus.create_stream_if_missing(c)));
    let opened: Vec<_> = all.await.into_iter().map(|opened| opened.unwrap()).collect();
    assert!(opened.iter().any(|opened| opened.created), "nobody made it");
    let stands = first.stream(&name).await.unwrap().info().await.unwrap().config;
    assert!(asked.contains(&stands), "{stands:?} is what nobody asked for");
    for (opened, asked) in opened.iter().zip(&asked).filter(|(opened, _)| opened.created) {
        assert_eq!(asked, &stands, "{:?} was made and replaced", opened.handle.name());
    }
}

/// What is there and cannot do what it is needed for is refused by name, and not altered.
pub async fn create_refuses_what_is_of_no_use(target: &dyn Target) {
    let case = Case::new(target).await;
    let exists = case.stream.info().await.unwrap().config;
    let other = SubjectFilter::new(format!("{}x.>", case.name)).unwrap();
    let elsewhere = StreamConfig { subjects: vec![other.clone()], ..exists.clone() };
    let refused = case.bus.create_stream_if_missing(&elsewhere).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
    let told = refused.to_string();
    assert!(told.contains(&case.name) && told.contains(other.as_str()), "{told}");
    if case.bus.support(Capability::WorkQueue) != Support::Unsupported {
        let queue = StreamConfig { retention: Retention::WorkQueue, ..exists.clone() };
        let refused = case.bus.create_stream_if_missing(&queue).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
        assert!(refused.to_string().contains("retention"), "{refused}");
    }
    assert_eq!(case.stream.info().await.unwrap().config, exists);

    let taken = StreamConfig::parse(&unique("s"), &[&case.subject("a")]).unwrap();
    let taken = case.bus.create_stream_if_missing(&taken).await.map(|_| ()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Invalid, "{taken}");

    let name = BucketName::new(unique("b")).unwrap();
    let lasting = BucketConfig { replicas: target.replicas(), ..BucketConfig::new(name) };
    let hour = Some(Duration::from_secs(3600));
    let forgetful = BucketConfig { max_age: hour, ..lasting.clone() };
    case.bus.ensure_bucket(&forgetful).await.unwrap();
    let refused = case.bus.create_kv_if_missing(&lasting).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
    assert!(refused.to_string().contains("max-age"), "{refused}");
    assert_eq!(case.bus.bucket_info(&lasting.name).await.unwrap(), forgetful);
}

/// A consumer that is there keeps the limits that it has when a program opens it with others; what
/// the program does with messages that fail is its own.
pub async fn open_keeps_limits(target: &dyn Target) {
    let case = Case::new(target).await;
    let declared = ConsumerConfig {
        ack_wait: Duration::from_secs(77),
        max_unsettled: 7,
        ..ConsumerConfig::new(ConsumerName::new("c").unwrap())
    };
    case.bus.ensure_consumer(&case.name, &declared).await.unwrap();
    let opened = case.consumer("c").ack_wait(Duration::from_secs(5)).max_unsettled(500);
    let opened = opened.metadata("owner", "me").open().await.unwrap();
    assert_eq!(opened.ack_wait(), declared.ack_wait);
    let metadata = [("owner".to_owned(), "me".to_owned())].into();
    assert_eq!(case.info("c").await.config, ConsumerConfig { metadata, ..declared });
    let moved = case.consumer("c").start(Start::Sequence(9)).open().await.map(|_| ());
    assert_eq!(moved.unwrap_err().kind(), ErrorKind::Mismatch);
}
