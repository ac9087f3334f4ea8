//! Who is let in, and what is refused.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use bus::Bus;
use bus::testkit::NatsServer;
use serde_json::json;

use super::support::{Process, Stream, World, read};

async fn open(process: &Process, query: &str, last_id: Option<&str>) -> Response<Body> {
    let mut request = Request::get(format!("/v1/subscriptions/people/events{query}"));
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    process.send(request.body(Body::empty()).unwrap()).await
}

async fn people() -> (World, Process) {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], false).await;
    (world, process)
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_and_an_unknown_name_are_told_apart() {
    let (_world, process) = people().await;
    for path in ["pull", "acks", "tickets"] {
        let path = format!("/v1/subscriptions/people/{path}");
        for secret in [None, Some("Bearer lg_wrong"), Some("Basic x")] {
            let mut request = Request::post(&path).header("content-type", "application/json");
            if let Some(secret) = secret {
                request = request.header("authorization", secret);
            }
            let response = process.send(request.body(Body::from("{}")).unwrap()).await;
            assert!(response.headers().contains_key("www-authenticate"));
            assert_eq!(read(response).await.0, 401, "{path}");
        }
    }
    assert_eq!(open(&process, "", None).await.status(), 401);
    for nobody in ["nobody", "NOT%20A%20NAME"] {
        let path = format!("/v1/subscriptions/{nobody}/pull");
        let (status, body) = process.post(&path, json!({})).await;
        assert_eq!(
            (status, body["type"].as_str().unwrap()),
            (404, "https://lockgate.dev/problems/not-found")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bad_input_names_the_field() {
    let (_world, process) = people().await;
    let pull = "/v1/subscriptions/people/pull";
    for (body, field) in [
        (json!({"max": 0}), "max"),
        (json!({"max": 1001}), "max"),
        (json!({"wait": "2m"}), "wait"),
        (json!({"wait": "soon"}), "wait"),
        (json!({"other": 1}), "other"),
    ] {
        let (status, problem) = process.post(pull, body).await;
        assert_eq!((status, problem["field"].as_str()), (422, Some(field)), "{problem}");
    }
    let acks = "/v1/subscriptions/people/acks";
    let (status, problem) = process.post(acks, json!({"nack": [{"delay": "1s"}]})).await;
    assert_eq!((status, problem["field"].as_str()), (422, Some("nack[0].id")), "{problem}");
    let many: Vec<String> = (0..1001).map(|n| n.to_string()).collect();
    assert_eq!(process.post(acks, json!({"ack": many})).await.0, 422);

    let mut request = Request::get("/v1/subscriptions/people/events?after=rubbish");
    request = request.header("authorization", format!("Bearer {}", super::support::SECRET));
    let (status, problem) = read(process.send(request.body(Body::empty()).unwrap()).await).await;
    assert_eq!(
        (status, problem["type"].as_str().unwrap()),
        (400, "https://lockgate.dev/problems/invalid-token")
    );
}

async fn ticket(process: &Process) -> String {
    let (_, issued) = process.post("/v1/subscriptions/people/tickets", json!(null)).await;
    issued["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_way_of_a_polyfill_to_bring_the_last_id_resumes() {
    let (world, process) = people().await;
    let ticket = ticket(&process).await;
    // Empty values and what is added against caches belong to no one.
    let query = format!("?_=1718000000&after=&lastEventId=&ticket={ticket}&r=0.5");
    let mut stream = Stream::new(open(&process, &query, None).await);
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    let names = ["lastEventId", "Last-Event-ID", "lastEventID", "evs_last_event_id", "after"];
    for (data, name) in (2..).zip(names) {
        world.publish("dir.user", "anna", data).await;
        let query = format!("?ticket={ticket}&{name}={}", stream.id);
        let mut resumed = Stream::new(open(&process, &query, None).await);
        let mut shown = resumed.within(Duration::from_secs(1)).await;
        shown.retain(|event| event != "up-to-date");
        assert_eq!(shown, [format!("anna={data}")], "{name}");
        stream = resumed;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_opens_no_stream_uses_no_ticket_up() {
    let (_world, process) = people().await;
    let ticket = ticket(&process).await;
    let path = format!("/v1/subscriptions/people/events?ticket={ticket}");
    for _ in 0..3 {
        let head = process.send(Request::head(&path).body(Body::empty()).unwrap()).await;
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["content-type"], "text/event-stream");
        assert_eq!(read(head).await.1, json!(null));
    }
    let query = format!("?ticket={ticket}");
    assert_eq!(open(&process, &query, Some("rubbish")).await.status(), 400);
    assert_eq!(open(&process, &query, None).await.status(), 200);
    let head = process.send(Request::head(&path).body(Body::empty()).unwrap()).await;
    assert_eq!(head.status(), 401, "used by now");
}

#[tokio::test(start_paused = true)]
async fn a_refused_ticket_is_called_a_ticket() {
    let (_world, process) = people().await;
    let used = ticket(&process).await;
    let query = format!("?ticket={used}");
    assert_eq!(open(&process, &query, None).await.status(), 200);
    let refused = async |query: &str, why: &str| {
        let (status, problem) = read(open(&process, query, None).await).await;
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!((status, problem["field"].as_str()), (401, Some("ticket")), "{problem}");
        assert!(detail.starts_with("the ticket ") && detail.contains(why), "{detail}");
    };
    refused(&query, "was used already").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    refused(&query, "has expired").await;
    refused("?ticket=rubbish", "is not one of this subscription").await;
    let (_, problem) = read(open(&process, "?ticket=", None).await).await;
    assert!(problem["detail"].as_str().unwrap().starts_with("the secret"), "{problem}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_prefilled_anew_while_it_reconnects_is_let_in() {
    let (world, process) = people().await;
    let query = format!("?ticket={}", ticket(&process).await);
    let mut stream = Stream::new(open(&process, &query, None).await);
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    let kept = world.store.subscription(&super::support::name("people")).await.unwrap().unwrap();
    world.registration.prefill_again(kept).await.unwrap();
    let mut resumed = Stream::new(open(&process, &query, Some(&stream.id)).await);
    assert_eq!(resumed.take_shown(1).await, ["expired"]);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_opens_one_stream_once_and_lets_it_reconnect() {
    let (world, process) = people().await;
    let tickets = "/v1/subscriptions/people/tickets";
    let (status, issued) = process.post(tickets, json!(null)).await;
    assert_eq!((status, issued["expires_in"].as_str().unwrap()), (200, "1m"));
    let query = format!("?ticket={}", issued["ticket"].as_str().unwrap());

    let first = open(&process, &query, None).await;
    assert_eq!(first.status(), 200);
    let mut stream = Stream::new(first);
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    assert_eq!(open(&process, &query, None).await.status(), 401, "used");
    assert_eq!(open(&process, &query, Some("rubbish")).await.status(), 401);

    world.publish("dir.user", "anna", 2).await;
    tokio::time::sleep(Duration::from_secs(1800)).await;
    let mut resumed = Stream::new(open(&process, &query, Some(&stream.id)).await);
    assert_eq!(resumed.take_shown(1).await, ["anna=2"]);
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(open(&process, &query, Some(&stream.id)).await.status(), 401, "an hour is over");

    let (_, issued) = process.post(tickets, json!(null)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let query = format!("?ticket={}", issued["ticket"].as_str().unwrap());
    assert_eq!(open(&process, &query, None).await.status(), 401, "never used in time");
    assert_eq!(open(&process, "?ticket=rubbish", None).await.status(), 401);
}

/// Used tickets are remembered by the bus, and survive it: one that was not used opens its stream
/// afterwards, one that was stays used.
#[tokio::test]
async fn tickets_outlive_a_restart_of_the_server() {
    let mut server = NatsServer::start().await.unwrap();
    let mut world = World::on(Bus::connect(&server.url()).await.unwrap()).await;
    world.publish("dir.user", "anna", 1).await;
    world.subscribe("people", &["dir.user"], true).await;
    let process = world.process().await;
    let (used, unused) = (ticket(&process).await, ticket(&process).await);
    let mut stream = Stream::new(open(&process, &format!("?ticket={used}"), None).await);
    stream.until("prefill-end").await;

    server.stop().await.unwrap();
    server.restart().await.unwrap();
    let mut stream = Stream::new(open(&process, &format!("?ticket={unused}"), None).await);
    stream.until("prefill-end").await;
    assert_eq!(open(&process, &format!("?ticket={used}"), None).await.status(), 401);
}
