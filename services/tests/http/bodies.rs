//! What stands in a body, a query or a path, read strictly; and how refusals speak of it.

use std::time::Duration;

use axum::body::Body;
use bus::Start;
use bus::fault::FaultRates;
use serde_json::{Value, json};

use crate::support::{World, to};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";
const SECRET: &str = "a-secret-of-at-least-32-characters";

fn event(more: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"1","source":"/t","type":"orders.created"{more}}}"#)
}

#[tokio::test(start_paused = true)]
async fn parameters_of_media_types_have_any_order_and_form() {
    let world = World::open().await;
    for (media_type, status) in [
        ("application/cloudevents+json; charset=UTF-8; profile=x", 202),
        ("application/cloudevents+json; profile=\"a;charset=latin1\"; charset=utf-8", 202),
        ("application/cloudevents+json;charset=\"utf-8\"", 202),
        ("Application/CloudEvents+JSON; Charset=\"utf\\-8\"", 202),
        ("application/cloudevents+json; charset=utf-8 ", 202),
        ("application/cloudevents+json; charset=UTF-8;", 202),
        ("application/cloudevents+json; xcharset=latin1; charset=utf-8", 202),
        ("application/cloudevents+json; charset=iso-8859-1", 415),
        ("application/cloudevents+json; v=1; CHARSET=\"iso-8859-1\"", 415),
        ("application/cloudevents+json; charset=utf-8; charset=utf-16", 415),
        ("application/cloudevents+json; charset", 415),
        ("application/cloudevents+xml", 415),
    ] {
        assert_eq!(world.post(media_type, event("")).await.status, status, "{media_type}");
    }
    let twice = to("POST", "/v1/events").header("content-type", STRUCTURED);
    let twice = twice.header("content-type", "text/plain").body(event("").into()).unwrap();
    world.send(twice).await.is_problem(415, "unsupported-media-type");
    for (media_type, status) in [
        ("application/json; v=1; charset=\"UTF-8\"", 201),
        ("application/merge-patch+json", 200),
        ("application/json; charset=utf-16", 415),
        ("text/plain", 415),
    ] {
        let request = to("POST", "/v1/subscriptions").header("content-type", media_type);
        let body = json!({"name": "people", "topics": ["orders.*"], "secret": SECRET});
        let answer = world.send(request.body(body.to_string().into()).unwrap()).await;
        assert_eq!(answer.status, status, "{media_type}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn data_are_kept_to_the_letter_or_refused_by_name() {
    let world = World::open().await;
    let exact = r#"{"z":1,"n":12345678901234567890123,"amount":1.10,"e":1E2,"a":2,"a":3}"#;
    let answer = world.post(STRUCTURED, event(&format!(r#","data":{exact}"#))).await;
    assert_eq!(answer.status, 202);
    for data in [r#"{"nick":["\ud800"]}"#, r#"{"\udc00":1}"#, "1e400", &"[".repeat(9000)] {
        // Closed where it has to be; the last is nested far too deep.
        let data = format!("{data}{}", "]".repeat(data.matches("[[").count() * 2));
        let whole = event(&format!(r#","data":{data}"#));
        world.post(STRUCTURED, whole.clone()).await.is_problem(422, "invalid-event").names("data");
        let batch = world.post(BATCH, format!("[{},{whole}]", event(""))).await;
        batch.is_problem(422, "invalid-event").names("events[1].data");
        let request = to("POST", "/v1/events").header("content-type", "a/b+json; v=1");
        let request = request.header("ce-specversion", "1.0").header("ce-id", "1");
        let request = request.header("ce-source", "/t").header("ce-type", "orders.created");
        let answer = world.send(request.body(data.into()).unwrap()).await;
        answer.is_problem(422, "invalid-event").names("data");
    }
    let subject = world.post(STRUCTURED, event(r#","subject":"a\ud800b""#)).await;
    subject.is_problem(422, "invalid-event").names("subject");
    assert!(subject.detail().contains("surrogate") && !subject.detail().contains("not a string"));
    let log = world.bus.stream("events-orders").await.unwrap();
    let mut reader = log.reader(&[], Start::Beginning).await.unwrap();
    let log = reader.next(9, Duration::from_millis(1)).await.unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].payload.as_deref(), Some(exact.as_bytes()));
}

#[tokio::test(start_paused = true)]
async fn bodies_of_requests_are_read_as_strictly_and_faults_name_their_field() {
    let world = World::whole().await;
    let register = json!({"name": "people", "topics": ["orders.*"], "secret": SECRET});
    assert_eq!(world.call("POST", "/v1/subscriptions", None, &register).await.status, 201);
    for (path, body, field) in [
        ("", r#"{"name":"a\ud800","topics":["orders.*"]}"#, "name"),
        ("", r#"{"name":"a","topics":["orders.*","\udfff"]}"#, "topics[1]"),
        ("", r#"{"name":"a","topics":["orders.*"],"secret":"\ud800"}"#, "secret"),
        ("/people/pull", r#"{"max":1e999}"#, "max"),
        ("/people/pull", r#"{"wait":"\ud800"}"#, "wait"),
        ("/people/acks", r#"{"ack":["x","\ud800"]}"#, "ack[1]"),
        ("/people/acks", r#"{"nack":[{"id":"x","delay":"\udc00"}]}"#, "nack[0].delay"),
    ] {
        let request = to("POST", &format!("/v1/subscriptions{path}"));
        let request = request.header("content-type", "application/json");
        let request = request.header("authorization", format!("Bearer {SECRET}"));
        let answer = world.send(request.body(body.into()).unwrap()).await;
        answer.is_problem(422, "invalid-input").names(field);
        assert!(!answer.detail().contains("not JSON"), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn faults_in_a_query_or_a_path_name_what_is_wrong() {
    let world = World::whole().await;
    let get = async |path: &str| world.call("GET", path, None, &Value::Null).await;
    for (query, field) in [
        ("page_size=many", "page_size"),
        ("page_size=0", "page_size"),
        ("page_size=1&page_size=2", "page_size"),
        ("page_token=*", "page_token"),
        ("pagesize=1", "pagesize"),
    ] {
        let answer = get(&format!("/v1/subscriptions?{query}")).await;
        answer.is_problem(422, "invalid-input").names(field);
    }
    for path in ["/v1/subscriptions/%ff", "/v1/subscriptions/%c0%80/events"] {
        get(path).await.is_problem(404, "not-found");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_that_failed_names_no_stream_and_says_nothing_of_writes() {
    let world = World::open().await;
    let read = async |path: &str| {
        let request = to("GET", path).body(Body::empty()).unwrap();
        world.send(request).await
    };
    let for_ever = Duration::from_secs(1 << 30);
    for rates in [
        FaultRates { fail_before: 1000, ..FaultRates::NONE },
        FaultRates { fail_after: 1000, ..FaultRates::NONE },
        FaultRates { delay: 1000, max_delay: for_ever, ..FaultRates::NONE },
    ] {
        world.faults.set_rates(rates);
        tokio::time::advance(Duration::from_secs(2)).await;
        for path in ["/v1/subscriptions", "/v1/subscriptions/people", "/readyz"] {
            let answer = read(path).await;
            assert_eq!(answer.status, 503, "{path}: {answer:?}");
            let text = answer.json.to_string();
            for word in ["lockgate-", "KV_", "events-", "write", "happen"] {
                assert!(!text.contains(word), "{path} says {word:?}: {text}");
            }
        }
    }
}
