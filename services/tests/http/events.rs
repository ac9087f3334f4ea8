//! `POST /v1/events`: what is taken, what is refused, and what faults do.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use bus::fault::FaultRates;
use bus::{Start, StoredMessage};
use futures_util::stream;
use lockgate::http::Access;
use lockgate::store::StoreOptions;
use serde_json::{Value, json};

use crate::support::{ADMIN, Answer, PUBLISH, World, to};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/tests", "type": "orders.created",
        "subject": "anna", "data": {"id": id},
    })
}

fn binary() -> axum::http::request::Builder {
    let request = to("POST", "/v1/events").header("ce-specversion", "1.0");
    request.header("ce-source", "/tests").header("ce-type", "orders.created")
}

async fn log(world: &World, stream: &str) -> Vec<StoredMessage> {
    let log = world.bus.stream(stream).await.unwrap();
    let mut reader = log.reader(&[], Start::Beginning).await.unwrap();
    reader.next(10_000, Duration::from_millis(1)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_structured_event_is_stored_once_and_its_realm_made() {
    let world = World::open().await;
    let first = world.post(STRUCTURED, event("1").to_string()).await;
    let result = json!({
        "id": "1", "realm": "orders", "topic": "orders.created", "sequence": 1,
        "duplicate": false,
    });
    assert_eq!((first.status, &first.json), (202, &json!({ "results": [result] })));
    let again = world.post("application/cloudevents+json; charset=UTF-8", event("1").to_string());
    let again = again.await;
    assert_eq!(again.status, 202);
    assert_eq!(again.json["results"][0]["sequence"], 1);
    assert_eq!(again.json["results"][0]["duplicate"], true);
    let log = log(&world, "events-orders").await;
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].subject.as_str(), "events.orders.created.anna");
    assert_eq!(log[0].headers.get("ce-id"), Some("1"));
    assert_eq!(log[0].payload.as_deref(), Some(&br#"{"id":"1"}"#[..]));
}

#[tokio::test(start_paused = true)]
async fn a_binary_event_is_its_headers_and_its_body() {
    let world = World::open().await;
    let request = binary().header("ce-id", "1").header("ce-subject", "caf%C3%A9");
    let request = request.header("content-type", "text/plain").body("hello".into()).unwrap();
    assert_eq!(world.send(request).await.status, 202);
    let tombstone = binary().header("ce-id", "2").body(Body::empty()).unwrap();
    assert_eq!(world.send(tombstone).await.status, 202);
    let log = log(&world, "events-orders").await;
    assert_eq!(log[0].subject.as_str(), "events.orders.created.caf=C3=A9");
    assert_eq!(log[0].payload.as_deref(), Some(&b"hello"[..]));
    assert_eq!(log[0].headers.get("content-type"), Some("text/plain"));
    assert_eq!((log[1].subject.as_str(), log[1].is_tombstone()), ("events.orders.created.=", true));
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_answered_event_by_event_in_its_order() {
    let world = World::open().await;
    let mut other = event("3");
    other["topic"] = json!("directory.user");
    let batch = json!([event("1"), event("2"), other, event("1")]);
    let answer = world.post(BATCH, batch.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let told = |name: &str| -> Vec<Value> {
        let results = answer.json["results"].as_array().unwrap();
        results.iter().map(|result| result[name].clone()).collect()
    };
    assert_eq!(json!(told("id")), json!(["1", "2", "3", "1"]));
    assert_eq!(json!(told("realm")), json!(["orders", "orders", "directory", "orders"]));
    assert_eq!(json!(told("sequence")), json!([1, 2, 1, 1]));
    assert_eq!(json!(told("duplicate")), json!([false, false, false, true]));
    let empty = world.post(BATCH, "[]").await;
    assert_eq!((empty.status, &empty.json), (202, &json!({"results": []})));
}

#[tokio::test(start_paused = true)]
async fn a_batch_stands_in_the_log_in_its_order() {
    let world = World::open().await;
    let events: Vec<Value> = (0..300)
        .map(|at| {
            let mut event = event(&at.to_string());
            event["subject"] = json!(format!("key-{}", at % 7));
            event
        })
        .collect();
    let answer = world.post(BATCH, Value::from(events).to_string()).await;
    assert_eq!(answer.status, 202);
    let log = log(&world, "events-orders").await;
    let ids: Vec<&str> = log.iter().filter_map(|message| message.headers.get("ce-id")).collect();
    let expected: Vec<String> = (0..300).map(|at| at.to_string()).collect();
    assert_eq!(ids, expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_named_and_nothing_of_the_batch_is_stored() {
    let world = World::open().await;
    let with = |name: &str, value: Value| {
        let mut event = event("1");
        event[name] = value;
        event.to_string()
    };
    for (body, field) in [
        (with("id", json!("")), "id"),
        (with("source", Value::Null), "source"),
        (with("specversion", json!("0.3")), "specversion"),
        (with("type", json!("Order")), "type"),
        (with("topic", json!("orders")), "topic"),
        (with("subject", json!("x".repeat(300))), "subject"),
        (with("time", json!("noon")), "time"),
        (with("no_name", json!("x")), "no_name"),
    ] {
        world.post(STRUCTURED, body).await.is_problem(422, "invalid-event").names(field);
    }
    let bad = world.post(BATCH, format!("[{},{}]", event("1"), with("id", json!("")))).await;
    bad.is_problem(422, "invalid-event").names("events[1].id");
    let no_id = binary().body("x".into()).unwrap();
    world.send(no_id).await.is_problem(422, "invalid-event").names("id");
    for (media_type, body) in [(STRUCTURED, "{"), (STRUCTURED, ""), (BATCH, "{}")] {
        world.post(media_type, body).await.is_problem(400, "malformed-body");
    }
    assert!(world.bus.stream("events-orders").await.is_err_and(|error| error.is_not_found()));
}

#[tokio::test(start_paused = true)]
async fn another_media_type_is_refused_with_the_ways_that_work() {
    let world = World::open().await;
    for media_type in ["application/json", "", "application/cloudevents+avro", "text/plain"] {
        let answer = world.post(media_type, event("1").to_string()).await;
        answer.is_problem(415, "unsupported-media-type");
        for way in [STRUCTURED, BATCH, "ce-id"] {
            assert!(answer.detail().contains(way), "{answer:?}");
        }
    }
    let latin = world.post("application/cloudevents+json; charset=latin1", "{}").await;
    latin.is_problem(415, "unsupported-media-type");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_with_the_limit() {
    let world = World::open().await;
    let limited = |answer: Answer, slug: &str, limit: &str| {
        answer.is_problem(413, slug);
        assert!(answer.detail().contains(limit), "{answer:?}");
    };
    let wide = vec![b' '; 4 * 1024 * 1024 + 1];
    limited(world.post(STRUCTURED, wide.clone()).await, "body-too-large", "4194304");
    let declared = to("POST", "/v1/events").header("content-type", STRUCTURED);
    let declared = declared.header("content-length", "5000000").body(Body::empty()).unwrap();
    limited(world.send(declared).await, "body-too-large", "4194304");
    let chunks = stream::iter([Ok::<_, std::io::Error>(Bytes::from(wide))]);
    let chunked = world.post(STRUCTURED, Body::from_stream(chunks)).await;
    limited(chunked, "body-too-large", "4194304");
    let mut event = event("1");
    event["data"] = json!("x".repeat(512 * 1024));
    limited(world.post(STRUCTURED, event.to_string()).await, "event-too-large", "524288");
    let many = vec!["{}"; 1001].join(",");
    limited(world.post(BATCH, format!("[{many}]")).await, "batch-too-large", "1000");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_is_malformed() {
    let world = World::open().await;
    let chunks = stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("reset"))]);
    let answer = world.post(STRUCTURED, Body::from_stream(chunks)).await;
    answer.is_problem(400, "malformed-body");
}

#[tokio::test(start_paused = true)]
async fn publishing_takes_a_token_when_there_are_any() {
    let access = Access::new(&[ADMIN.into()], &[PUBLISH.into()]).unwrap();
    let world = World::with(access, StoreOptions::default(), 1).await;
    let request = |token: Option<&str>| -> Request<Body> {
        let mut request = to("POST", "/v1/events").header("content-type", STRUCTURED);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(event("1").to_string().into()).unwrap()
    };
    for wrong in [None, Some("lg_something-else-0123456789")] {
        let answer = world.send(request(wrong)).await;
        answer.is_problem(401, "unauthorized");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    for right in [ADMIN, PUBLISH] {
        assert_eq!(world.send(request(Some(right))).await.status, 202);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_is_503_and_nothing_needs_a_restart() {
    let world = World::open().await;
    world.faults.set_rates(FaultRates { fail_before: 1000, ..FaultRates::NONE });
    let away = world.post(STRUCTURED, event("1").to_string()).await;
    away.is_problem(503, "unavailable");
    world.faults.set_rates(FaultRates::NONE);
    assert_eq!(world.post(STRUCTURED, event("1").to_string()).await.status, 202);

    world.faults.set_rates(FaultRates { fail_after: 1000, ..FaultRates::NONE });
    let unknown = world.post(STRUCTURED, event("2").to_string()).await;
    unknown.is_problem(503, "timeout");
    world.faults.set_rates(FaultRates::NONE);
    let repeated = world.post(STRUCTURED, event("2").to_string()).await;
    assert_eq!(repeated.json["results"][0]["duplicate"], true);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_never_answers_is_503_at_the_deadline() {
    let world = World::open().await;
    let for_ever = Duration::from_secs(1 << 30);
    world.faults.set_rates(FaultRates { delay: 1000, max_delay: for_ever, ..FaultRates::NONE });
    let started = tokio::time::Instant::now();
    let answer = world.post(STRUCTURED, event("1").to_string()).await;
    answer.is_problem(503, "timeout");
    assert_eq!(started.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_full_log_is_507() {
    let options = StoreOptions { log_max_bytes: 64 * 1024, ..StoreOptions::default() };
    let world = World::with(Access::open(), options, 1).await;
    let mut big = event("1");
    big["data"] = json!("x".repeat(48 * 1024));
    assert_eq!(world.post(STRUCTURED, big.to_string()).await.status, 202);
    big["id"] = json!("2");
    world.post(STRUCTURED, big.to_string()).await.is_problem(507, "full");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_deleted_is_made_again() {
    let world = World::open().await;
    assert_eq!(world.post(STRUCTURED, event("1").to_string()).await.status, 202);
    world.bus.delete_stream("events-orders").await.unwrap();
    let answer = world.post(STRUCTURED, event("2").to_string()).await;
    assert_eq!((answer.status, &answer.json["results"][0]["sequence"]), (202, &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn repeating_a_batch_that_failed_keeps_every_key_in_order() {
    let mut partly = 0;
    for seed in 0..60 {
        let world = World::with(Access::open(), StoreOptions::default(), seed).await;
        let batch: Vec<Value> = (0..40)
            .map(|n| {
                let mut event = event(&format!("{n:02}"));
                event["subject"] = json!(format!("key-{}", n % 5));
                event["type"] = json!(if n % 2 == 0 { "orders.created" } else { "orders.paid" });
                event
            })
            .collect();
        world.faults.set_rates(FaultRates::ROUGH);
        for attempt in 0.. {
            if attempt == 6 {
                world.faults.set_rates(FaultRates::NONE);
            }
            let answer = world.post(BATCH, json!(batch).to_string()).await;
            if answer.status == 202 {
                break;
            }
            assert!(answer.status == 503 && attempt < 6, "seed {seed}: {answer:?}");
            if answer.json["type"].as_str().unwrap().ends_with("partly-published") {
                answer.is_problem(503, "partly-published");
                assert_eq!(answer.json["results"].as_array().unwrap().len(), 40);
                partly += 1;
            }
        }
        let log = log(&world, "events-orders").await;
        assert_eq!(log.len(), 40, "seed {seed}");
        for key in 0..5 {
            let key = format!("key-{key}");
            let of_key = log.iter().filter(|message| message.subject.as_str().ends_with(&key));
            let ids: Vec<_> = of_key.map(|message| message.headers.get("ce-id")).collect();
            assert!(ids.is_sorted(), "seed {seed}: {key} is {ids:?}");
        }
    }
    assert!(partly > 0, "no seed met a batch that was stored in part");
}
