//! Creating what is missing leaves what others made exactly as it is, or refuses to use it.

use std::time::Duration;

use async_nats::jetstream::stream::{Compression, Config, DiscardPolicy, RetentionPolicy, Source};
use bus::{BucketConfig, BucketName, ErrorKind, StreamConfig};

use super::{raw, server, stream};

/// A stream as an operator makes it with other tools.
fn operators(name: &str, subjects: &[&str]) -> Config {
    Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        max_bytes: 3_000_000_000,
        max_age: Duration::from_secs(7 * 86_400),
        max_messages_per_subject: 9,
        max_consumers: 77,
        discard: DiscardPolicy::Old,
        duplicate_window: Duration::from_secs(300),
        description: Some("ours".to_owned()),
        compression: Some(Compression::S2),
        metadata: [("owner".to_owned(), "operations".to_owned())].into(),
        allow_direct: true,
        ..Config::default()
    }
}

#[tokio::test]
async fn what_others_made_stays_as_it_is() {
    let (server, bus) = server().await;
    let raw = raw(&server).await;
    raw.create_stream(operators("S", &["s.>"])).await.unwrap();
    let bucket = Config { max_messages_per_subject: 5, ..operators("KV_b", &["$KV.b.>"]) };
    raw.create_stream(Config { max_age: Duration::ZERO, ..bucket }).await.unwrap();
    let look = async || {
        let mut configs = Vec::new();
        for name in ["S", "KV_b"] {
            let mut stream = raw.get_stream(name).await.unwrap();
            configs.push(serde_json::to_value(&stream.info().await.unwrap().config).unwrap());
        }
        configs
    };
    let before = look().await;

    let opened = bus.create_stream_if_missing(&StreamConfig::parse("S", &["s.>"]).unwrap()).await;
    let opened = opened.unwrap();
    let fields: Vec<_> = opened.differences.iter().map(|one| one.field).collect();
    for field in ["max-bytes", "max-age", "when-full", "duplicate-window", "max-consumers"] {
        assert!(fields.contains(&field), "{field}: {fields:?}");
    }
    opened.handle.publish(super::message("s.a", 1)).await.unwrap();
    let config = BucketConfig::new(BucketName::new("b").unwrap());
    let opened = bus.create_kv_if_missing(&config).await.unwrap();
    assert!(!opened.created);
    for n in 0..3 {
        opened.handle.put("k", n.to_string()).await.unwrap();
    }
    let entries = opened.handle.entries(">").await.unwrap();
    assert_eq!(entries.iter().map(|entry| &entry.value[..]).collect::<Vec<_>>(), [b"2"]);
    assert_eq!(look().await, before);
}

#[tokio::test]
async fn what_cannot_be_worked_with_is_refused_with_the_reason() {
    let (server, bus) = server().await;
    let raw = raw(&server).await;
    stream(&bus, "ORIGIN", "origin.>").await;
    let plain = |name: &str, subject: &str| Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        allow_direct: true,
        ..Config::default()
    };
    let origin = Source { name: "ORIGIN".to_owned(), ..Source::default() };
    let mirror = Config { subjects: Vec::new(), mirror: Some(origin), ..plain("MIRROR", "") };
    let silent = Config { no_ack: true, ..plain("SILENT", "silent.>") };
    let interest =
        Config { retention: RetentionPolicy::Interest, ..plain("INTEREST", "interest.>") };
    let indirect = Config { allow_direct: false, ..plain("INDIRECT", "indirect.>") };
    for (config, why) in [
        (mirror, "a mirror"),
        (silent, "no_ack"),
        (interest, "by interest"),
        (indirect, "allow_direct"),
    ] {
        let name = config.name.clone();
        raw.create_stream(config).await.unwrap();
        let wants = StreamConfig::parse(&name, &[&format!("{}.>", name.to_lowercase())]).unwrap();
        let refused = bus.create_stream_if_missing(&wants).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
        let told = refused.to_string();
        assert!(told.contains(&format!("stream {name} ")) && told.contains(why), "{told}");
    }
    raw.create_stream(plain("KV_b", "other.>")).await.unwrap();
    let config = BucketConfig::new(BucketName::new("b").unwrap());
    let refused = bus.create_kv_if_missing(&config).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch, "{refused}");
    assert!(refused.to_string().contains("$KV.b.>"), "{refused}");
}
