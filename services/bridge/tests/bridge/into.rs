//! Kafka to log.

use std::time::Duration;

use bus::Capability;
use bytes::Bytes;
use lockgate_bridge::{discard, list, redrive};
use rdkafka::producer::{BaseProducer, Producer as _};

use super::foreign::{
    Sent, add_partitions, config, delete_topic, make_topic, send, send_as, send_with,
};
use super::world::{PATIENCE, World, assert_once_in_order, route, text, unique};

fn numbers(range: std::ops::Range<u64>) -> Vec<Sent> {
    range.map(|n| Sent::new(&format!("k{}", n % 17), n)).collect()
}

async fn assert_all(world: &World, realm: &str, count: u64) {
    let events = world.events(realm, count as usize).await;
    let values = events.iter().map(|event| {
        (event.key.clone().unwrap_or_default().to_vec(), text(event).parse().unwrap())
    });
    assert_once_in_order(values, count);
}

/// Everything once and in order per key, over a restart; positions take no room; a log's beginning
/// stays where it is.
async fn carried_once(world: World) {
    let (topic, realm) = (unique("orders"), unique("r"));
    make_topic(&world.brokers, &topic, 3).await;
    send(&world.brokers, &topic, &numbers(0..2000));
    let path = route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), "");
    let running = world.start(&path);
    assert_all(&world, &realm, 2000).await;
    for (codec, from) in ["gzip", "snappy", "lz4", "zstd", "none"].iter().zip([0, 1, 2, 3, 4]) {
        let records = numbers(2000 + from * 100..2100 + from * 100);
        send_as(&world.brokers, &topic, codec, &records);
    }
    assert_all(&world, &realm, 2500).await;
    let told = running.until("in step", |told| told.lag == Some(0) && told.carried == 2500).await;
    assert_eq!((told.state.as_str(), told.partitions.len(), told.parked), ("running", 3, 0));
    running.stop().await;

    send(&world.brokers, &topic, &numbers(2500..3000));
    let again = world.start(&path);
    assert_all(&world, &realm, 3000).await;
    again.stop().await;
    let info = world.log(&realm).await.info().await.unwrap();
    // Three positions and where it began.
    assert_eq!((info.messages, info.first_sequence), (3004, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_carried_once_into_a_log_in_this_process() {
    carried_once(World::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_carried_once_into_a_log_on_nats() {
    carried_once(World::nats().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_cannot_take_is_parked_and_tried_again() {
    let world = World::nats().await;
    let (topic, realm) = (unique("orders"), unique("r"));
    make_topic(&world.brokers, &topic, 1).await;
    let mut sent = numbers(0..10);
    sent[3].key = Some(vec![b'k'; 300].into());
    sent[5].value = Some(vec![b'x'; 1_048_400].into());
    sent[6].key = None;
    let large: BaseProducer =
        config(&world.brokers).set("message.max.bytes", "2000000").create().unwrap();
    send_with(&large, &topic, &sent[..5]);
    // Below what the broker takes, and above what the log does with its headers.
    send_with(&large, &topic, &sent[5..]);
    let (from, to) = (format!("kafka:{topic}"), format!("{realm}.orders"));
    let running = world.start(&route("in", &from, &to, "null_key = \"park\"\n"));
    let events = world.events(&realm, 7).await;
    assert_eq!(events.len(), 7, "its partition goes on");
    running.until("parked", |told| told.parked == 3).await;
    let parked = list(world.logs.as_ref(), &running.bridges.routes, 100).await.unwrap();
    let of = |offset| parked.iter().find(|one| one.record.offset == offset).unwrap();
    assert!(of(3).record.reason.contains("300 bytes"), "{:?}", of(3));
    assert!(of(5).record.reason.contains("bytes") && !of(5).record.whole, "{:?}", of(5));
    assert!(of(6).record.reason.contains("no key"), "{:?}", of(6));

    // The route is asked for less now.
    let bridges = world.bridges(&route("in", &from, &to, ""));
    redrive(world.logs.as_ref(), &bridges, of(6)).await.unwrap();
    assert!(redrive(world.logs.as_ref(), &bridges, of(6)).await.is_err(), "once");
    let still = redrive(world.logs.as_ref(), &bridges, of(3)).await.unwrap_err().to_string();
    assert!(still.contains("300 bytes"), "{still}");
    discard(world.logs.as_ref(), &bridges, of(3)).await.unwrap();
    let events = world.events(&realm, 8).await;
    assert_eq!((events.len(), text(&events[7])), (8, "6".to_owned()));
    let left = list(world.logs.as_ref(), &bridges.routes, 100).await.unwrap();
    assert_eq!(left.iter().map(|one| one.record.offset).collect::<Vec<_>>(), [5]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_aborted_never_comes_and_what_is_open_is_waited_for() {
    let world = World::embedded().await;
    let (topic, realm) = (unique("orders"), unique("r"));
    make_topic(&world.brokers, &topic, 1).await;
    let running =
        world.start(&route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), ""));
    let producer: BaseProducer =
        config(&world.brokers).set("transactional.id", unique("tx")).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send_with(&producer, &topic, &[Sent::new("a", "aborted")]);
    producer.abort_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    send_with(&producer, &topic, &[Sent::new("a", 0)]);
    send(&world.brokers, &topic, &[Sent::new("b", 1)]);
    running.until("reading", |told| !told.partitions.is_empty()).await;
    assert!(world.events(&realm, 0).await.is_empty(), "an open transaction stands before them");
    producer.commit_transaction(PATIENCE).unwrap();
    assert_all(&world, &realm, 2).await;
    running.until("no lag of marks", |told| told.lag == Some(0)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_added_and_a_topic_that_is_made_again_are_seen() {
    let world = World::embedded().await;
    let (topic, realm) = (unique("orders"), unique("r"));
    make_topic(&world.brokers, &topic, 1).await;
    send(&world.brokers, &topic, &numbers(0..50));
    let path = route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), "");
    let running = world.start(&path);
    assert_all(&world, &realm, 50).await;
    add_partitions(&world.brokers, &topic, 2).await;
    let elsewhere = |n: u64| Sent { partition: Some(1), ..Sent::new("new", n) };
    send(&world.brokers, &topic, &(50..60).map(elsewhere).collect::<Vec<_>>());
    assert_all(&world, &realm, 60).await;

    delete_topic(&world.brokers, &topic).await;
    make_topic(&world.brokers, &topic, 1).await;
    // More than the topic of before had, so that its positions would be places in this one.
    send(&world.brokers, &topic, &numbers(60..200));
    assert_all(&world, &realm, 200).await;
    running.stop().await;

    // The same while nobody looks.
    delete_topic(&world.brokers, &topic).await;
    make_topic(&world.brokers, &topic, 1).await;
    send(&world.brokers, &topic, &numbers(200..400));
    let again = world.start(&path);
    assert_all(&world, &realm, 400).await;
    let told = again.until("noted", |told| !told.notes.is_empty()).await;
    assert!(told.notes[0].contains("made again"), "{:?}", told.notes);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_away_is_waited_for_in_bounded_room() {
    let mut world = World::nats().await;
    let (topic, realm) = (unique("orders"), unique("r"));
    make_topic(&world.brokers, &topic, 2).await;
    let running =
        world.start(&route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), ""));
    send(&world.brokers, &topic, &numbers(0..100));
    assert_all(&world, &realm, 100).await;
    world.nats.as_mut().unwrap().stop().await.unwrap();
    // Some 60 MiB, twice the room that there is.
    let padding = "x".repeat(6000);
    let padded = |n: u64| Sent {
        headers: vec![("padding".into(), Some(Bytes::from(padding.clone())))],
        ..Sent::new(&format!("k{}", n % 17), n)
    };
    send(&world.brokers, &topic, &(100..10_100).map(padded).collect::<Vec<_>>());
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 200 << 20, "{} MiB were taken while the log was away", grown >> 20);
    world.nats.as_mut().unwrap().restart().await.unwrap();
    assert_all(&world, &realm, 10_100).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_the_partitions_and_hand_them_over() {
    let world = World::nats().await;
    let (topic, realm) = (unique("orders"), unique("r"));
    make_topic(&world.brokers, &topic, 4).await;
    let path = route("in", &format!("kafka:{topic}"), &format!("{realm}.orders"), "");
    let mut running = vec![world.start(&path)];
    let mut sent = 0;
    for _ in 0..3 {
        running.push(world.start(&path));
        for _ in 0..5 {
            send(&world.brokers, &topic, &numbers(sent..sent + 200));
            sent += 200;
        }
        running.remove(0).stop().await;
    }
    assert_all(&world, &realm, sent).await;
    for one in running {
        one.stop().await;
    }
}

#[tokio::test]
async fn the_embedded_bus_can_hold_what_a_bridge_needs() {
    let bus = bus::Bus::connect("embedded:").await.unwrap();
    for capability in
        [Capability::AtomicPublish, Capability::Rollup, Capability::ConditionalPublish]
    {
        assert_eq!(bus.support(capability), bus::Support::Native);
    }
}
