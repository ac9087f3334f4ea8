//! Bodies that come compressed, and those that come in no way that is read.

use std::io::Write;

use axum::body::{Body, Bytes};
use axum::http::Request;
use bus::{Start, StoredMessage};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::stream;
use serde_json::{Value, json};

use crate::support::{Answer, World, to};

const STRUCTURED: &str = "application/cloudevents+json";
const SECRET: &str = "a-secret-of-at-least-32-characters";
const MIB: usize = 1024 * 1024;

fn gzip(plain: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain.as_ref()).unwrap();
    encoder.finish().unwrap()
}

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/tests", "type": "orders.created",
        "data": {"city": "Bern"},
    })
}

/// A request whose body says that it is encoded so.
fn encoded(path: &str, media_type: &str, encoding: &str, body: impl Into<Body>) -> Request<Body> {
    let request = to("POST", path).header("content-type", media_type);
    let request = request.header("authorization", format!("Bearer {SECRET}"));
    request.header("content-encoding", encoding).body(body.into()).unwrap()
}

fn binary(id: &str, encoding: &str, body: impl Into<Body>) -> Request<Body> {
    let mut request = encoded("/v1/events", "application/json", encoding, body);
    for (name, value) in
        [("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "orders.paid")]
    {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

async fn log(world: &World) -> Vec<StoredMessage> {
    let log = world.bus.stream("events-orders").await.unwrap();
    let mut reader = log.reader(&[], Start::Beginning).await.unwrap();
    reader.next(100, std::time::Duration::from_millis(1)).await.unwrap()
}

#[track_caller]
fn is_refused(answer: &Answer) {
    answer.is_problem(415, "unsupported-encoding");
    assert_eq!(answer.headers["accept-encoding"], "gzip");
    assert!(answer.detail().contains("gzip"), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn gzip_is_inflated_in_every_mode_before_it_is_stored() {
    let world = World::open().await;
    let body = br#"{"city":"Bern"}"#;
    for (id, encoding) in
        [("1", "gzip"), ("2", "x-gzip"), ("3", "GZIP"), ("4", "identity, gzip"), ("5", ", gzip")]
    {
        assert_eq!(world.send(binary(id, encoding, gzip(body))).await.status, 202, "{encoding}");
    }
    // A stream may have several members (RFC 1952, section 2.2).
    let members = [gzip(&body[..7]), gzip(""), gzip(&body[7..])].concat();
    assert_eq!(world.send(binary("6", "gzip", members)).await.status, 202);
    assert_eq!(world.send(binary("7", "identity", &body[..])).await.status, 202);
    let one = gzip(event("8").to_string());
    let one = encoded("/v1/events", STRUCTURED, "gzip", one);
    assert_eq!(world.send(one).await.status, 202);
    let batch = gzip(json!([event("9")]).to_string());
    let batch = encoded("/v1/events", "application/cloudevents-batch+json", "gzip", batch);
    assert_eq!(world.send(batch).await.status, 202);
    let log = log(&world).await;
    assert_eq!(log.len(), 9);
    for message in log {
        assert_eq!(message.payload.as_deref(), Some(&body[..]), "{:?}", message.headers);
    }
}

#[tokio::test(start_paused = true)]
async fn another_encoding_is_refused_on_every_route_and_nothing_is_stored() {
    let world = World::whole().await;
    let zlib = || {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"{}").unwrap();
        encoder.finish().unwrap()
    };
    let twice = || gzip(gzip("{}"));
    for path in [
        "/v1/events",
        "/v1/subscriptions",
        "/v1/subscriptions/people/prefill",
        "/v1/subscriptions/people/pull",
        "/v1/subscriptions/people/acks",
        "/v1/subscriptions/people/tickets",
        "/v1/nothing",
    ] {
        for (encoding, body) in
            [("br", gzip("{}")), ("deflate", zlib()), ("gzip, gzip", twice()), ("zstd", zlib())]
        {
            is_refused(&world.send(encoded(path, "application/json", encoding, body)).await);
        }
        let mut lines = encoded(path, "application/json", "gzip", twice());
        lines.headers_mut().append("content-encoding", "gzip".parse().unwrap());
        is_refused(&world.send(lines).await);
        let mut transfer = encoded(path, "application/json", "identity", gzip("{}"));
        transfer.headers_mut().insert("transfer-encoding", "gzip, chunked".parse().unwrap());
        world.send(transfer).await.is_problem(501, "unsupported-transfer");
    }
    is_refused(&world.send(binary("1", "br", "{}")).await);
    assert!(world.bus.stream("events-orders").await.is_err_and(|error| error.is_not_found()));
}

#[tokio::test(start_paused = true)]
async fn gzip_is_inflated_on_every_route_that_reads_a_body() {
    let world = World::whole().await;
    let json = |path: &str, body: Value| {
        encoded(path, "application/json; charset=\"UTF-8\"", "gzip", gzip(body.to_string()))
    };
    let body = json!({"name": "people", "topics": ["orders.*"], "secret": SECRET});
    assert_eq!(world.send(json("/v1/subscriptions", body)).await.status, 201);
    let pull = json("/v1/subscriptions/people/pull", json!({"max": 1, "wait": "1s"}));
    assert_eq!(world.send(pull).await.status, 200);
    let acks = json("/v1/subscriptions/people/acks", json!({"ack": []}));
    assert_eq!(world.send(acks).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn what_inflates_beyond_the_limit_is_refused_with_it() {
    let world = World::open().await;
    let limited = |answer: Answer| {
        answer.is_problem(413, "body-too-large");
        assert_eq!(answer.json["limit"], 4 * MIB);
    };
    let bomb = gzip(vec![0; 64 * MIB]);
    assert!(bomb.len() < MIB / 8);
    limited(world.send(binary("1", "gzip", bomb)).await);
    // Exactly the limit is inflated, and is then too large for an event.
    let wide = gzip(vec![b' '; 4 * MIB]);
    world.send(binary("1", "gzip", wide)).await.is_problem(422, "invalid-event").names("data");
    limited(world.send(binary("1", "gzip", gzip(vec![b' '; 4 * MIB + 1]))).await);
    // What inflates to nothing counts as it came.
    let empty = Bytes::from(gzip("").repeat(4096));
    let endless = stream::repeat_with(move || Ok::<_, std::io::Error>(empty.clone()));
    limited(world.send(binary("1", "gzip", Body::from_stream(endless))).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_whole_gzip_is_malformed_and_no_tombstone() {
    let world = World::open().await;
    let whole = gzip(r#"{"city":"Bern"}"#);
    let damaged = {
        let mut damaged = whole.clone();
        let checksum = damaged.len() - 6;
        damaged[checksum] ^= 1;
        damaged
    };
    for (what, body) in [
        ("nothing", Vec::new()),
        ("plain JSON", b"{}".to_vec()),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("no trailer", whole[..whole.len() - 1].to_vec()),
        ("half a second member", [&whole[..], &whole[..12]].concat()),
        ("more behind it", [&whole[..], b"more"].concat()),
        ("a wrong checksum", damaged),
    ] {
        let answer = world.send(binary("1", "gzip", body)).await;
        answer.is_problem(400, "malformed-body");
        assert!(answer.detail().contains("gzip"), "{what}: {answer:?}");
    }
    assert!(world.bus.stream("events-orders").await.is_err_and(|error| error.is_not_found()));
}
