//! Where a stream may be kept.

use bus::testkit::NatsCluster;
use bus::{BucketConfig, BucketName, Bus, ErrorKind, Placement, StreamConfig, Topology};

use super::ONE_AT_A_TIME;

#[tokio::test]
async fn a_stream_is_kept_where_it_is_placed_and_moves_when_that_changes() {
    let tags =
        |node: usize| format!("server_tags: [\"disk:{}\"]", if node == 2 { "ssd" } else { "hdd" });
    let _turn = ONE_AT_A_TIME.lock().await;
    let cluster = NatsCluster::start_with(3, tags).await.unwrap();
    let bus = Bus::connect(&cluster.url()).await.unwrap();
    let placed = |tag: &str| Placement { cluster: None, tags: vec![tag.to_owned()] };
    let config = StreamConfig::parse("placed", &["placed.>"]).unwrap();
    let config = StreamConfig { placement: placed("disk:ssd"), ..config };
    bus.ensure_stream(&config).await.unwrap();
    assert_eq!(bus.stream("placed").await.unwrap().info().await.unwrap().config, config);
    assert_eq!(cluster.leader_of("placed").await.unwrap(), 2);

    let moved = StreamConfig { placement: placed("disk:hdd"), ..config.clone() };
    bus.ensure_stream(&moved).await.unwrap();
    assert_eq!(bus.stream("placed").await.unwrap().info().await.unwrap().config, moved);

    let nowhere = StreamConfig { placement: placed("disk:tape"), ..config };
    let nowhere = StreamConfig { name: bus::StreamName::new("nowhere").unwrap(), ..nowhere };
    let nowhere =
        StreamConfig { subjects: vec![bus::SubjectFilter::new("no.>").unwrap()], ..nowhere };
    let refused = bus.ensure_stream(&nowhere).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
}

#[tokio::test]
async fn copies_and_places_stay_when_a_process_asks_for_others() {
    let tags =
        |node: usize| format!("server_tags: [\"disk:{}\"]", if node == 2 { "ssd" } else { "hdd" });
    let _turn = ONE_AT_A_TIME.lock().await;
    let cluster = NatsCluster::start_with(3, tags).await.unwrap();
    let bus = Bus::connect(&cluster.url()).await.unwrap();
    let placement = Placement { cluster: None, tags: vec!["disk:ssd".to_owned()] };
    let plain = StreamConfig::parse("copied", &["copied.>"]).unwrap();
    let copied = StreamConfig { replicas: 3, max_bytes: Some(3_000_000), ..plain.clone() };
    let elsewhere = StreamConfig::parse("placed", &["placed.>"]).unwrap();
    let placed = StreamConfig { placement: placement.clone(), ..elsewhere.clone() };
    let bucket = BucketConfig::new(BucketName::new("state").unwrap());
    let state = BucketConfig { replicas: 3, ..bucket.clone() };
    let near = BucketConfig::new(BucketName::new("near").unwrap());
    let kept = BucketConfig { placement, ..near.clone() };
    let topology = Topology {
        streams: vec![copied, placed],
        buckets: vec![state, kept],
        ..Topology::default()
    };
    bus.ensure_topology(&topology).await.unwrap();
    for config in [plain, elsewhere] {
        let opened = bus.create_stream_if_missing(&config).await.unwrap();
        assert!(!opened.created && !opened.differences.is_empty(), "{:?}", opened.differences);
    }
    for config in [bucket, near] {
        let opened = bus.create_kv_if_missing(&config).await.unwrap();
        assert_eq!(opened.differences.len(), 1, "{:?}", opened.differences);
    }
    assert_eq!(bus.compare_topology(&topology).await.unwrap(), []);
}
