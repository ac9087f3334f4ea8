//! Log to Kafka, and both ways.

use bus::Message;
use bytes::Bytes;
use lockgate_bridge::{list, names};

use super::foreign::{Sent, make_topic, read, send};
use super::world::{World, assert_once_in_order, route, unique};

async fn publish(world: &World, realm: &str, range: std::ops::Range<u64>) {
    let log = world.log(realm).await;
    let message = |n: u64| {
        let subject = format!("events.{realm}.orders.k{}", n % 17);
        Message::new(subject, n.to_string()).unwrap().key(format!("k{}", n % 17))
    };
    for receipt in log.publish_all(range.map(message)).await {
        receipt.unwrap();
    }
}

fn assert_all(world: &World, topic: &str, count: u64) {
    let records = read(&world.brokers, topic, count as usize);
    let number =
        |sent: &Sent| (sent.key.clone().unwrap_or_default().to_vec(), sent.text().parse().unwrap());
    assert_once_in_order(records.iter().map(number), count);
}

/// Everything once and in order per key, over restarts, with the position in Kafka.
async fn carried_once(world: World, mode: &str) {
    let (topic, realm, name) = (unique("copy"), unique("r"), unique("out"));
    make_topic(&world.brokers, &topic, 3).await;
    publish(&world, &realm, 0..2000).await;
    let to = format!("kafka:{topic}");
    let path = route(&name, &format!("{realm}.orders"), &to, &format!("mode = \"{mode}\"\n"));
    let running = world.start(&path);
    assert_all(&world, &topic, 2000);
    publish(&world, &realm, 2000..2500).await;
    assert_all(&world, &topic, 2500);
    running.until("in step", |told| told.lag == Some(0) && told.carried == 2500).await;
    running.stop().await;
    publish(&world, &realm, 2500..3000).await;
    let again = world.start(&path);
    assert_all(&world, &topic, 3000);
    again.stop().await;
    assert!(!read(&world.brokers, &names::position_topic(&name), 1).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_carried_once_out_of_a_log_in_this_process() {
    carried_once(World::embedded().await, "transactions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_carried_once_out_of_a_log_on_nats() {
    carried_once(World::nats().await, "transactions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_transactions_records_tell_their_sequence() {
    let world = World::embedded().await;
    carried_once(world, "idempotent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_waits_and_goes_on_where_the_first_stopped() {
    let world = World::nats().await;
    let (topic, realm, name) = (unique("copy"), unique("r"), unique("out"));
    make_topic(&world.brokers, &topic, 2).await;
    let path = route(&name, &format!("{realm}.orders"), &format!("kafka:{topic}"), "");
    let (first, second) = (world.start(&path), world.start(&path));
    publish(&world, &realm, 0..500).await;
    assert_all(&world, &topic, 500);
    first.until("both tell", |told| told.processes == 2).await;
    first.stop().await;
    publish(&world, &realm, 500..1000).await;
    assert_all(&world, &topic, 1000);
    second.stop().await;
}

/// Started by mistake on another bus, a route begins with what is there; on its own it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_of_the_log_that_it_was_reached_in() {
    let (here, there) = (World::embedded().await, World::embedded().await);
    let (topic, realm, name) = (unique("copy"), unique("r"), unique("out"));
    make_topic(&here.brokers, &topic, 1).await;
    let path = route(&name, &format!("{realm}.orders"), &format!("kafka:{topic}"), "");
    for (world, from, to) in [(&here, 0, 100), (&there, 100, 200), (&here, 200, 300)] {
        publish(world, &realm, from..to).await;
        let running = world.start(&path);
        assert_all(world, &topic, to);
        if from == 100 {
            let told = running.until("noted", |told| !told.notes.is_empty()).await;
            assert!(told.notes[0].contains("another than before"), "{:?}", told.notes);
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_refuses_is_parked_and_the_rest_goes_on() {
    let world = World::embedded().await;
    let (topic, realm, name) = (unique("copy"), unique("r"), unique("out"));
    make_topic(&world.brokers, &topic, 1).await;
    publish(&world, &realm, 0..5).await;
    let log = world.log(&realm).await;
    // The log takes 1 MiB without what a record adds, a topic a little less with it.
    let large = Message::new(format!("events.{realm}.orders.k0"), vec![b'x'; 1_048_500]).unwrap();
    let sequence = log.publish(large).await.unwrap().sequence;
    publish(&world, &realm, 5..10).await;
    let running =
        world.start(&route(&name, &format!("{realm}.orders"), &format!("kafka:{topic}"), ""));
    assert_all(&world, &topic, 10);
    running.until("parked", |told| told.parked == 1).await;
    let parked = list(world.logs.as_ref(), &running.bridges.routes, 10).await.unwrap();
    assert_eq!(parked[0].record.offset as u64, sequence);
    assert_eq!(parked[0].id, format!("log.{sequence}"));
    running.stop().await;
}

/// From Kafka through the log to Kafka: key, value, headers and timestamp are the same again.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_trip_changes_nothing_and_a_loop_ends() {
    let world = World::nats().await;
    let (topic, copy, realm) = (unique("orders"), unique("copy"), unique("r"));
    for name in [&topic, &copy] {
        make_topic(&world.brokers, name, 1).await;
    }
    let bytes = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    let header = |name: &str, value: &str| (name.to_owned(), bytes(value));
    let sent = [
        Sent { timestamp: Some(1_700_000_000_123), ..Sent::new("a", "plain") },
        Sent { key: None, value: bytes(""), ..Sent::default() },
        Sent { key: bytes(""), value: None, ..Sent::default() },
        Sent { key: Some(Bytes::from_static(&[0, 0xff, b'.'])), ..Sent::new("", "bytes") },
        Sent {
            headers: vec![
                header("a", "1"),
                header("a", "2"),
                ("null".to_owned(), None),
                header("empty", ""),
                header("Nats-Msg-Id", "no"),
                header("Nats-Rollup", "all"),
                header("Lg-Tombstone", "1"),
                header("spaces ", " x \n"),
                ("bytes".to_owned(), Some(Bytes::from_static(&[0xff, 0]))),
            ],
            ..Sent::new("h", "headers")
        },
        Sent {
            headers: vec![
                header("ce_specversion", "1.0"),
                header("ce_id", "1"),
                header("ce_source", "/é"),
                header("ce_type", "order.created"),
                header("content-type", "application/json"),
            ],
            ..Sent::new("ce", "{}")
        },
        Sent {
            headers: vec![header("content-type", "application/cloudevents+json")],
            ..Sent::new("s", r#"{"specversion":"1.0","id":"1","source":"/","type":"t"}"#)
        },
    ];
    send(&world.brokers, &topic, &sent);
    let routes = [
        route(&unique("in"), &format!("kafka:{topic}"), &format!("{realm}.orders"), ""),
        route(&unique("out"), &format!("{realm}.orders"), &format!("kafka:{copy}"), ""),
        // And both back again: each would go round for ever.
        route(&unique("back"), &format!("{realm}.orders"), &format!("kafka:{topic}"), ""),
        route(&unique("again"), &format!("kafka:{copy}"), &format!("{realm}.orders"), ""),
    ];
    let running = world.start(&routes.concat());
    let got = read(&world.brokers, &copy, sent.len());
    // One more behind them, so that what goes round had its time.
    send(&world.brokers, &topic, &[Sent::new("z", "last")]);
    let all = read(&world.brokers, &copy, sent.len() + 1);
    assert_eq!(all.len(), sent.len() + 1);
    assert_eq!(read(&world.brokers, &topic, sent.len() + 1).len(), sent.len() + 1);
    assert_eq!(world.events(&realm, sent.len() + 1).await.len(), sent.len() + 1);
    for (sent, got) in sent.iter().zip(&got) {
        assert_eq!((&got.key, &got.value), (&sent.key, &sent.value));
        assert!(got.header("lockgate-sequence").is_some());
        if sent.timestamp.is_some() {
            assert_eq!(got.timestamp, sent.timestamp);
        }
        let mut names: Vec<&String> = sent.headers.iter().map(|(name, _)| name).collect();
        names.dedup();
        for name in names {
            let of = |all: &Sent| -> Vec<Option<Bytes>> {
                all.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
            };
            assert_eq!(of(got), of(sent), "header {name:?}");
        }
        assert_eq!(got.headers.len(), sent.headers.len() + 3, "{:?}", got.headers);
    }
    let events = world.events(&realm, 1).await;
    assert!(events.iter().all(|event| {
        let lower = |name: &str| name.to_ascii_lowercase();
        event
            .headers
            .iter()
            .all(|(n, _)| !lower(n).starts_with("nats-") && !lower(n).starts_with("lg-"))
    }));
    running.stop().await;
}
