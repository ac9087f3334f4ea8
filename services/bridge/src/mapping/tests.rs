//! What goes into the log and out again is what it was, and a loop ends.

use std::time::SystemTime;

use bus::{Headers, Message, StoredMessage};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::headers::Header;
use super::origin::{SEQUENCE, VISITED};
use super::*;
use crate::config::{Bridges, NullKey, Route};

const LIFE: u64 = 0xfe;

fn routes() -> (Route, Route) {
    let text = "[kafka]\nbrokers = \"a:1\"\n\
                [[route]]\nname = \"in\"\nfrom = \"kafka:orders\"\nto = \"shop.orders\"\n\
                [[route]]\nname = \"out\"\nfrom = \"shop.orders\"\nto = \"kafka:copy\"\n";
    let mut routes = Bridges::parse(text).unwrap().routes;
    let out = routes.pop().unwrap();
    (routes.pop().unwrap(), out)
}

fn ends() -> ToLog {
    ToLog { cluster: "c1".into(), life: LIFE }
}

fn place() -> Place {
    Place { topic: "orders".into(), topic_id: "id".into(), partition: 3, offset: 42 }
}

/// As a NATS stream gives it back: sorted by name, and what it cannot carry is a failure here.
fn stored(message: Message) -> StoredMessage {
    let mut names: Vec<&str> = message.headers.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let mut headers = Headers::new();
    for name in names {
        assert!(!name.to_ascii_lowercase().starts_with("nats-"), "{name}");
        assert!(!name.to_ascii_lowercase().starts_with("lg-"), "{name}");
        for (other, value) in message.headers.iter() {
            assert!(other == name || !other.eq_ignore_ascii_case(name), "{other} and {name}");
            let text = std::str::from_utf8(value).unwrap();
            assert_eq!(text, text.trim());
            if other == name {
                headers.append(name, value.clone()).unwrap();
            }
        }
    }
    let Message { subject, key, payload, .. } = message;
    StoredMessage { sequence: 7, timestamp: SystemTime::now(), subject, key, headers, payload }
}

fn event(record: &Record) -> StoredMessage {
    stored(to_event(&routes().0, &ends(), record, &place()).unwrap().unwrap())
}

/// The values of each name, in their order, whatever the order of names.
fn by_name(headers: &[Header]) -> Vec<(String, Vec<Option<Bytes>>)> {
    let mut names: Vec<String> = headers.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    let values = |name: &String| {
        headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    };
    names.iter().map(|name| (name.clone(), values(name))).collect()
}

fn assert_round_trip(record: &Record) {
    let mut back = to_record(&routes().1, "c1", LIFE, &event(record)).unwrap();
    let own: Vec<Header> = back
        .headers
        .extract_if(.., |(name, value)| match name.as_str() {
            VISITED => true,
            SEQUENCE => value.as_deref() == Some(b"7"),
            _ => false,
        })
        .collect();
    assert_eq!(own.len(), 3, "two places and a sequence: {own:?}");
    assert_eq!(by_name(&back.headers), by_name(&record.headers));
    assert_eq!((back.key, back.value), (record.key.clone(), record.value.clone()));
    assert_eq!(back.timestamp, record.timestamp);
}

fn header(name: &str, value: &str) -> Header {
    (name.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))
}

fn plain(headers: Vec<Header>) -> Record {
    let (key, value) = (Some("anna".into()), Some("{}".into()));
    Record { key, value, headers, timestamp: Some(1_700_000_000_123) }
}

proptest! {
    #[test]
    fn whatever_a_record_carries_it_is_the_same_again(
        key in option::of(vec(any::<u8>(), 0..40)),
        value in option::of(vec(any::<u8>(), 0..40)),
        headers in vec((header_name(), option::of(vec(any::<u8>(), 0..12))), 0..8),
        text in vec((header_name(), "\\PC{0,12}"), 0..8),
        timestamp in option::of(0_i64..4_000_000_000_000),
    ) {
        let bytes = headers.into_iter().map(|(name, value)| (name, value.map(Bytes::from)));
        let text = text.into_iter().map(|(name, value)| (name, Some(Bytes::from(value))));
        let headers = bytes.chain(text).filter(|(name, _)| name != VISITED).collect();
        let record = Record {
            key: key.map(Bytes::from), value: value.map(Bytes::from), headers, timestamp,
        };
        assert_round_trip(&record);
    }

    #[test]
    fn no_two_keys_are_one_object(a in vec(any::<u8>(), 0..20), b in vec(any::<u8>(), 0..20)) {
        let of = |key: &[u8]| {
            event(&Record { key: Some(Bytes::copy_from_slice(key)), ..Record::default() }).subject
        };
        prop_assert_eq!(of(&a) == of(&b), a == b);
    }
}

/// Names that mean something, and others.
fn header_name() -> impl Strategy<Value = String> {
    let known = [
        "ce_specversion",
        "ce_id",
        "ce_type",
        "ce_time",
        "ce_Odd",
        "ce_datacontenttype",
        "content-type",
        "Content-Type",
        "traceparent",
        "Nats-Msg-Id",
        "Nats-Rollup",
        "Lg-Tombstone",
        "ce-id",
        "ce-time",
        "kafka-header",
        "kafka-origin",
        "lockgate-sequence",
        "a",
        "A",
        "x y",
    ];
    prop_oneof![proptest::sample::select(known.to_vec()).prop_map(str::to_owned), "\\PC{0,8}"]
}

#[test]
fn a_cloud_event_in_binary_mode_is_one_in_the_log() {
    let record = plain(vec![
        header("ce_specversion", "1.0"),
        header("ce_id", "1"),
        header("ce_type", "order créé"),
        header("content-type", "application/json"),
        header("traceparent", "00-1"),
    ]);
    let event = event(&record);
    assert_eq!(event.subject.as_str(), "events.shop.orders.anna");
    assert_eq!(event.headers.get("ce-id"), Some("1"));
    assert_eq!(event.headers.get("ce-type"), Some("order%20cr%C3%A9%C3%A9"));
    assert_eq!(event.headers.get("content-type"), Some("application/json"));
    assert!(event.headers.get("ce-time").is_none() && event.headers.get("traceparent").is_some());
    assert_round_trip(&record);
}

#[test]
fn structured_and_plain_records_keep_their_headers() {
    let structured =
        plain(vec![header("content-type", "application/cloudevents+json; charset=utf-8")]);
    assert!(event(&structured).headers.get("ce-time").is_none());
    assert_round_trip(&structured);
    let event = event(&plain(vec![header("a", "1"), header("a", "2"), header("b", " ")]));
    assert_eq!(event.headers.get("ce-time"), Some("2023-11-14T22:13:20.123Z"));
    assert_eq!(event.headers.values("a").count(), 2);
    assert_eq!(event.headers.get("kafka-header"), Some("b=%20"));
}

#[test]
fn null_and_empty_are_not_the_same() {
    for (key, value) in [(None, None), (Some(Bytes::new()), Some(Bytes::new()))] {
        let record = Record { key, value, timestamp: Some(1), ..Record::default() };
        let event = event(&record);
        assert_eq!(event.subject.as_str(), "events.shop.orders.=");
        assert_eq!((&event.key, &event.payload), (&record.key, &record.value));
        assert_round_trip(&record);
    }
    let mut route = routes().0;
    let keyless = Record { key: None, ..plain(Vec::new()) };
    route.null_key = NullKey::Place;
    let event = to_event(&route, &ends(), &keyless, &place()).unwrap().unwrap();
    assert_eq!(event.subject.as_str(), "events.shop.orders.3-42");
    route.null_key = NullKey::Park;
    assert!(to_event(&route, &ends(), &keyless, &place()).unwrap_err().0.contains("no key"));
    let long = Record { key: Some(vec![b'x'; 257].into()), ..keyless };
    assert!(to_event(&route, &ends(), &long, &place()).unwrap_err().0.contains("257 bytes"));
}

#[test]
fn an_event_does_not_come_back_to_where_it_was() {
    let (into, mut out) = routes();
    let event = event(&plain(Vec::new()));
    out.kafka_topic = "orders".into();
    assert_eq!(to_record(&out, "c1", LIFE, &event), None, "it came from there");
    assert!(to_record(&out, "c2", LIFE, &event).is_some(), "another cluster");
    out.kafka_topic = "copy".into();
    let copied = to_record(&out, "c1", LIFE, &event).unwrap();
    assert_eq!(to_event(&into, &ends(), &copied, &place()), Ok(None), "it was in this log");
    let elsewhere = ToLog { life: LIFE + 1, ..ends() };
    let further = stored(to_event(&into, &elsewhere, &copied, &place()).unwrap().unwrap());
    assert_eq!(further.headers.values(VISITED).count(), 2);
    out.kafka_topic = "orders".into();
    assert_eq!(to_record(&out, "c1", LIFE + 1, &further), None, "over two logs");
}

#[test]
fn an_event_of_another_publisher_is_a_record_in_binary_mode() {
    let message = Message::new("events.shop.orders.a=2Eb", "{}")
        .and_then(|m| m.header("ce-id", "1")?.header("ce-type", "a%20b")?.header("x", "y"))
        .unwrap();
    let record = to_record(&routes().1, "c1", LIFE, &stored(message)).unwrap();
    assert_eq!(record.key.as_deref(), Some(&b"a.b"[..]));
    assert_eq!((record.header("ce_id"), record.header("ce_type")), (Some("1"), Some("a b")));
    assert_eq!((record.header("x"), record.header(SEQUENCE)), (Some("y"), Some("7")));
    assert!(record.timestamp.is_some());
}
