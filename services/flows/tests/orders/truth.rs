//! What must hold of a shop when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus::{Bus, Entry, Start};
use futures_util::future::join_all;
use lockgate_flows::orders::{DEAD_LETTERS, Event, Stage, Topic};
use serde_json::Value;
use tokio::time::Instant;

use crate::client::{Client, until};
use crate::world::{PATIENCE, World, eventually};

/// Waits until an order is delivered and its customer was texted and mailed at each stage.
pub(crate) async fn all_told(client: &Client, order: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = until(&[200], || client.look(order)).await;
        let steps = shown["journey"].as_array().unwrap();
        let told = |step: &Value| step["texted"].is_string() && step["mailed"].is_string();
        if steps.len() == Stage::ALL.len() && steps.iter().all(told) {
            return;
        }
        assert!(Instant::now() < deadline, "it does not get any further: {shown:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Every event of a topic.
async fn events(bus: &Bus, topic: Topic) -> Vec<Event> {
    let stream = bus.stream(topic.name()).await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let mut events = Vec::new();
    loop {
        let page = reader.next(1000, Duration::from_secs(2)).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page.iter().map(|message| message.json::<Event>().unwrap()));
    }
}

/// Every topic says what it has to say of each of these orders, and of no other; `once` where the
/// backend stores no repeat. Nothing is parked, and no request is left half done.
pub(crate) async fn check_streams(world: &World, orders: &[String], once: bool) {
    for bucket in ["orders-orders", "orders-payments", "orders-deliveries"] {
        let records = world.state.kv_for(bucket, &[]).await.unwrap();
        eventually("no request and no outbox is left half done", async || {
            let kept = records.entries("record.>").await.unwrap();
            assert_eq!(kept.len(), orders.len(), "{bucket}");
            let is_done = |entry: &Entry| entry.json::<Value>().unwrap().get("outbox").is_none();
            kept.iter().all(is_done) && records.keys("due.>").await.unwrap().is_empty()
        })
        .await;
    }
    let wanted: BTreeSet<&str> = orders.iter().map(String::as_str).collect();
    let everything = join_all(Topic::ALL.map(|topic| events(&world.bus, topic))).await;
    for (topic, events) in Topic::ALL.into_iter().zip(everything) {
        let all = events.len();
        let mut of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for event in events {
            assert_eq!(event.topic, topic);
            of.entry(event.order.to_string()).or_default().insert(event.id);
        }
        let seen: BTreeSet<&str> = of.keys().map(String::as_str).collect();
        assert_eq!(seen, wanted, "{}", topic.name());
        // Ordering logs five of its stages, payment two, and delivery three reports.
        let each = if topic == Topic::LoggingEvents { 10 } else { 1 };
        let wrong = of.iter().find(|(_, ids)| ids.len() != each);
        assert_eq!(wrong, None, "{}", topic.name());
        assert!(!once || all == each * orders.len(), "{}: {all} events", topic.name());
    }
    let dead = world.bus.dead_letters(DEAD_LETTERS).await.unwrap();
    assert_eq!(dead.list(None, 10).await.unwrap(), []);
    let log = world.state.kv_for("orders-log", &[]).await.unwrap();
    eventually("the log is whole", async || {
        log.keys(">").await.unwrap().len() == 10 * orders.len()
    })
    .await;
}

/// One text and one e-mail for each order and stage. Returns how many came once more, under the
/// same id and with the same words, because their sender was killed before it could record them.
pub(crate) fn check_notices(world: &World, orders: &[String]) -> usize {
    let id = |order: &String, stage: Stage| format!("{order}.{stage}");
    let wanted: BTreeSet<String> =
        orders.iter().flat_map(|order| Stage::ALL.map(|stage| id(order, stage))).collect();
    let texts: Vec<_> =
        world.texts.sent().into_iter().map(|text| (text.id, text.to, text.text)).collect();
    let mails: Vec<_> =
        world.mails.mails().into_iter().map(|mail| (mail.id, mail.to, mail.text)).collect();
    let mut repeats = 0;
    for sent in [texts, mails] {
        let all = sent.len();
        let different: BTreeSet<_> = sent.into_iter().collect();
        repeats += all - different.len();
        let ids: BTreeSet<String> = different.iter().map(|(id, ..)| id.clone()).collect();
        assert_eq!(ids, wanted);
        assert_eq!(different.len(), wanted.len(), "what is repeated has the same words");
    }
    repeats
}
