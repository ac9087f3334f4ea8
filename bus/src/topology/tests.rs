use std::time::{Duration, SystemTime};

use super::{Action, Topology};
use crate::{
    Bus, ErrorKind, Placement, Retention, Start, Storage, StreamConfig, SubjectFilter, WhenFull,
};

const ALL: &str = r#"
    [defaults]
    replicas = 3

    [streams.orders]
    subjects = ["orders.>", "baskets.*"]
    retention = "limits"
    when-full = "drop-oldest"
    max-bytes = "2GiB"
    max-messages = 1000
    max-age = "7d"
    max-message-bytes = "64KiB"
    duplicate-window = "5m"
    max-consumers = 50
    storage = "memory"
    placement = { cluster = "north", tags = ["ssd"] }
    partitions = 4
    delayed = true

    [streams.orders.consumers.billing]
    filters = ["orders.created"]
    start = { time = "2026-11-21T12:00:00Z" }
    ack-wait = "1m"
    max-unsettled = 10
    max-attempts = 5
    metadata = { owner = "billing" }

    [streams.tasks]
    subjects = ["tasks"]
    retention = "work-queue"
    replicas = 1

    [buckets.state]
    max-age = "1h"
    max-bytes = "1MiB"
    placement = { tags = ["ssd"] }
"#;

#[test]
fn every_field_is_read() {
    let topology = Topology::parse(ALL).unwrap();
    let [orders, tasks] = &topology.streams[..] else { panic!("{topology:?}") };
    let filter = |filter: &str| SubjectFilter::new(filter).unwrap();
    let expected = StreamConfig {
        subjects: vec![filter("orders.>"), filter("baskets.*")],
        when_full: WhenFull::DropOldest,
        max_bytes: Some(2 << 30),
        max_messages: Some(1000),
        max_age: Some(Duration::from_secs(7 * 86_400)),
        max_message_bytes: 64 << 10,
        duplicate_window: Duration::from_secs(300),
        max_consumers: 50,
        replicas: 3,
        storage: Storage::Memory,
        placement: Placement { cluster: Some("north".into()), tags: vec!["ssd".into()] },
        partitions: 4,
        delayed: true,
        ..StreamConfig::parse("orders", &["orders.>"]).unwrap()
    };
    assert_eq!(orders, &expected);
    assert_eq!((tasks.retention, tasks.replicas), (Retention::WorkQueue, 1));
    let (stream, billing) = &topology.consumers[0];
    assert_eq!((stream.as_str(), billing.name.as_str()), ("orders", "billing"));
    let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_262_400);
    assert_eq!((billing.start, billing.max_attempts), (Start::Time(noon), Some(5)));
    assert_eq!((topology.buckets[0].replicas, topology.buckets[0].max_bytes), (3, Some(1 << 20)));
    assert_eq!(topology.buckets[0].placement.tags, ["ssd"]);
    assert_eq!(topology.replicas(1).streams[0].replicas, 1);
}

#[test]
fn a_topology_is_written_as_it_is_read() {
    let mut topology = Topology::parse(ALL).unwrap();
    topology.streams[0].max_bytes = Some(3_000_000_000);
    topology.streams[1].max_message_bytes = u32::MAX;
    let text = topology.to_toml().unwrap();
    assert_eq!(Topology::parse(&text).unwrap(), topology, "{text}");
    assert!(text.contains("max-bytes = \"3000000000B\""), "{text}");
    assert!(!text.contains("partitions = 1"), "a default is left out: {text}");
    topology.streams.clear();
    assert!(topology.to_toml().unwrap_err().to_string().contains("orders"));
    assert_eq!(Topology::default().to_toml().unwrap(), "");
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    let refused = |text: &str| {
        let error = Topology::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.to_string()
    };
    let unknown = refused("[streams.a]\nsubjects = [\"a\"]\nmax_bytes = \"1GiB\"\n");
    assert!(unknown.contains("line 3") && unknown.contains("max_bytes"), "{unknown}");
    assert!(refused("[streams.a]\nsubjects = [\"a\"]\nmax-age = \"soon\"\n").contains("soon"));
    assert!(refused("[streams.a]\n").contains("subjects"));
    assert!(refused("[streams.a]\nsubjects = [\"a..b\"]\n").contains("stream a"));
}

#[tokio::test]
async fn what_cannot_be_changed_is_told_with_a_diff_and_changes_nothing() {
    let bus = Bus::connect("embedded:").await.unwrap();
    let declared = Topology::parse(ALL).unwrap();
    let made = bus.ensure_topology(&declared).await.unwrap();
    let made: Vec<_> = made.iter().map(ToString::to_string).collect();
    let expected =
        ["+ stream orders", "+ stream tasks", "+ consumer billing of orders", "+ bucket state"];
    assert_eq!(made, expected);
    assert_eq!(bus.ensure_topology(&declared).await.unwrap(), []);

    let mut drifted = declared.clone();
    drifted.streams[0].max_messages = None;
    drifted.streams[1].storage = Storage::Memory;
    drifted.consumers[0].1.start = Start::New;
    let error = bus.ensure_topology(&drifted).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let text = error.to_string();
    assert!(
        text.contains("! stream tasks\n    storage: file -> memory (fixed at creation)"),
        "{text}"
    );
    assert!(
        text.contains("! consumer billing of orders\n    start: time 2026-11-21T12:00:00Z -> New"),
        "{text}"
    );
    assert_eq!(bus.compare_topology(&declared).await.unwrap(), [], "something was changed");

    drifted = Topology { streams: drifted.streams[..1].to_vec(), ..Topology::default() };
    let [changed] = &bus.ensure_topology(&drifted).await.unwrap()[..] else { panic!("one change") };
    assert_eq!(changed.action, Action::Update);
    assert_eq!(changed.to_string(), "~ stream orders\n    max-messages: 1000 -> none");
    assert_eq!(bus.ensure_topology(&drifted).await.unwrap(), []);
}
