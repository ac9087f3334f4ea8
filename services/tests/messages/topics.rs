//! Topics without a subscription.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bus::SubjectFilter;
use http_body_util::BodyExt;
use lockgate::http::Access;
use lockgate::messages::{self, Messages, MessagesOptions};
use lockgate::model::Realm;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::socket_support::Connect;
use super::support::{Process, Stream, World, read, show};

async fn world() -> (World, Process) {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("dir.user", "bert", 2).await;
    world.publish("dir.group", "anna", 3).await;
    world.publish("tabs.open", "carl", 4).await;
    world.publish("dir.user", "anna", 5).await;
    let process = world.process().await;
    (world, process)
}

async fn delete(world: &World, topic: &str, key: &str) {
    let log = world.store.ensure_realm(&Realm::new("dir").unwrap()).await.unwrap();
    let tombstone = bus::Message::tombstone(format!("events.{topic}.{key}").as_str()).unwrap();
    log.publish(tombstone).await.unwrap();
}

fn shown(events: &Value) -> Vec<String> {
    events.as_array().unwrap().iter().map(show).collect()
}

async fn open(process: &Process, path: &str) -> Stream {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = process.send(request).await;
    assert_eq!(response.status(), 200, "{path}");
    Stream::new(response)
}

#[tokio::test(start_paused = true)]
async fn the_state_is_read_in_pages_and_a_stream_goes_on_behind_it() {
    let (world, process) = world().await;
    delete(&world, "dir.user", "bert").await;
    let (status, all) = process.get("/v1/state?topics=*.*").await;
    assert_eq!(
        (status, shown(&all["events"])),
        (200, vec!["anna=3".into(), "anna=5".into(), "carl=4".into()])
    );
    assert_eq!(all["fence"], serde_json::json!({"dir": 5, "tabs": 1}));
    assert_eq!((&all["manifest"]["rows"], &all["next_page_token"]), (&3.into(), &Value::Null));

    // Page by page it is the state at the first fence, whatever comes meanwhile.
    let (mut events, mut token) = (Vec::new(), String::new());
    let last = loop {
        let (status, page) = process.get(&format!("/v1/state?topics=*.*&page_size=1{token}")).await;
        assert_eq!(status, 200, "{page}");
        events.extend(shown(&page["events"]));
        world.publish("dir.user", "anna", 6).await;
        world.publish("dir.user", "dora", 7).await;
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break page,
        }
    };
    assert_eq!(events, shown(&all["events"]));
    assert_eq!(last["manifest"], all["manifest"], "the whole of it, not of the last page");
    let after = last["resume"].as_str().unwrap();
    let mut stream = open(&process, &format!("/v1/stream?topics=*.*&after={after}")).await;
    assert_eq!(stream.take_shown(2).await, ["anna=6", "dora=7"]);

    let request =
        Request::get("/v1/state?topics=*.*&at=dir:3").header("accept", "application/x-ndjson");
    let response = process.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let lines: Vec<Value> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let (end, rows) = lines.split_last().unwrap();
    assert_eq!(rows.iter().map(show).collect::<Vec<_>>(), ["anna=1", "bert=2", "anna=3", "carl=4"]);
    assert_eq!(end["manifest"]["rows"], 4);
    assert!(end["resume"].is_string());
}

#[tokio::test(start_paused = true)]
async fn one_key_of_one_topic_is_read_alone() {
    let (world, process) = world().await;
    let (_, state) = process.get("/v1/state?topics=dir.user&key=anna").await;
    assert_eq!(shown(&state["events"]), ["anna=5"]);
    let (_, before) = process.get("/v1/state?topics=dir.user&key=anna&at=dir:1").await;
    assert_eq!(shown(&before["events"]), ["anna=1"]);
    let mut stream = open(&process, "/v1/stream?topics=dir.user&key=anna&prefill=true").await;
    assert_eq!(
        stream.take_shown(4).await,
        ["prefill-start", "anna=5", "prefill-end", "up-to-date"]
    );
    world.publish("dir.user", "bert", 6).await;
    world.publish("dir.group", "anna", 7).await;
    world.publish("dir.user", "anna", 8).await;
    assert_eq!(stream.take_shown(1).await, ["anna=8"]);
}

#[tokio::test(start_paused = true)]
async fn each_id_resumes_without_gap_or_repeat_and_new_realms_join() {
    let (world, process) = world().await;
    let path = "/v1/stream?topics=*.*&prefill=true";
    let mut whole = open(&process, path).await;
    // Start, four rows, end, up to date; and the id behind each.
    let (mut all, mut ids) = (Vec::new(), vec![whole.id.clone()]);
    for _ in 0..7 {
        all.extend(whole.take_shown(1).await);
        ids.push(whole.id.clone());
    }
    let end = all.split_off(5);
    assert_eq!(
        (all[0].as_str(), &end),
        ("prefill-start", &vec!["prefill-end".into(), "up-to-date".into()])
    );
    world.publish("born.later", "e", 8).await;
    world.publish("dir.user", "anna", 9).await;
    assert_eq!(changes(&mut whole).await, ["anna=9", "e=8"]);
    // What was read is not read again, what was not is as it stood at the fence, and then live.
    for (taken, id) in ids.iter().enumerate().skip(1) {
        let mut resumed = open(&process, &format!("{path}&after={id}")).await;
        let rows = all.get(taken..).unwrap_or_default();
        assert_eq!(resumed.take_shown(rows.len()).await, rows, "after {taken}");
        if taken <= 5 {
            assert_eq!(resumed.take_shown(1).await, ["prefill-end"]);
        }
        assert_eq!(changes(&mut resumed).await, ["anna=9", "e=8"], "after {taken}");
    }
}

/// The next two changes, which are of several realms and come in any order.
async fn changes(stream: &mut Stream) -> Vec<String> {
    let mut changes = Vec::new();
    while changes.len() < 2 {
        changes
            .extend(stream.take_shown(1).await.into_iter().filter(|shown| shown != "up-to-date"));
    }
    changes.sort();
    changes
}

#[tokio::test(start_paused = true)]
async fn a_websocket_reads_topics_too() {
    let (world, process) = world().await;
    let path = "/v1/stream?topics=dir.*&prefill=true&credit=2";
    let connect = Connect { path, bearer: None, origin: None };
    let mut socket = connect.to(&process.router).await.unwrap();
    assert_eq!(socket.shown(4).await, ["hello", "prefill-start", "bert=2", "anna=3"]);
    socket.credit(2).await;
    assert_eq!(socket.shown(3).await, ["anna=5", "prefill-end", "up-to-date"]);
    world.publish("dir.user", "dora", 6).await;
    let message = socket.message().await;
    assert_eq!(show(&message["event"]), "dora=6");
    let after = message["id"].as_str().unwrap();
    let mut stream = open(&process, &format!("/v1/stream?topics=dir.*&after={after}")).await;
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_another_begins_the_state_anew() {
    let (world, process) = world().await;
    let mut stream = open(&process, "/v1/stream?topics=dir.user&prefill=true").await;
    assert_eq!(stream.take_shown(5).await.last().unwrap(), "up-to-date");
    let mut live = open(&process, "/v1/stream?topics=dir.user").await;
    assert_eq!(live.take_shown(1).await, ["up-to-date"]);
    let (_, page) = process.get("/v1/state?topics=dir.*&page_size=1").await;
    world.store.bus().delete_stream("events-dir").await.unwrap();
    world.publish("dir.user", "dora", 9).await;
    let comes = async |stream: &mut Stream, name: &str| {
        stream.until("expired").await;
        stream.until(name).await;
    };
    comes(&mut stream, "prefill-start").await;
    assert_eq!(stream.take_shown(3).await, ["dora=9", "prefill-end", "up-to-date"]);
    comes(&mut live, "dora=9").await;
    let token = page["next_page_token"].as_str().unwrap();
    let (status, problem) =
        process.get(&format!("/v1/state?topics=dir.*&page_token={token}")).await;
    assert_eq!((status, problem["field"].as_str()), (409, Some("page_token")), "{problem}");

    // A log that has lost its beginning cannot tell its state.
    let log = world.store.log(&Realm::new("dir").unwrap()).await.unwrap();
    log.purge(&SubjectFilter::all()).await.unwrap();
    world.publish("dir.user", "emil", 10).await;
    let (status, problem) = process.get("/v1/state?topics=dir.*").await;
    assert_eq!(status, 409);
    assert_eq!(problem["type"], "https://lockgate.dev/problems/history-incomplete");
    let mut stream = open(&process, "/v1/stream?topics=dir.user&prefill=true").await;
    assert_eq!(stream.take_shown(1).await, ["prefill-failed"]);
    assert_eq!(stream.within(Duration::from_secs(40)).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn bad_input_names_the_field_and_tokens_fit_their_topics() {
    let (_world, process) = world().await;
    let (_, page) = process.get("/v1/state?topics=dir.*&page_size=1").await;
    let token = page["next_page_token"].as_str().unwrap();
    for (path, status, field) in [
        ("/v1/state".to_owned(), 422, "topics"),
        ("/v1/state?topics=dir".to_owned(), 422, "topics"),
        ("/v1/state?topics=dir.*&page_size=0".to_owned(), 422, "page_size"),
        ("/v1/state?topics=dir.*&at=then".to_owned(), 422, "at"),
        ("/v1/state?topics=dir.*&page_token=x".to_owned(), 422, "page_token"),
        (format!("/v1/state?topics=dir.user&page_token={token}"), 422, "page_token"),
        (format!("/v1/state?topics=dir.*&key=anna&page_token={token}"), 422, "page_token"),
        ("/v1/state?topics=dir.*&colour=red".to_owned(), 422, "colour"),
        ("/v1/stream?topics=".to_owned(), 422, "topics"),
        ("/v1/stream?topics=dir.*&from=soon".to_owned(), 422, "from"),
        ("/v1/stream?topics=dir.*&prefill=true&from=now".to_owned(), 422, "from"),
    ] {
        let (found, problem) = process.get(&path).await;
        assert_eq!((found, problem["field"].as_str()), (status, Some(field)), "{path}: {problem}");
    }
    let (status, _) = process.get("/v1/stream?topics=dir.*&after=x").await;
    assert_eq!(status, 400);
}

#[tokio::test(start_paused = true)]
async fn an_admin_token_is_needed_where_there_are_tokens() {
    let (world, _process) = world().await;
    let (admin, publish) = ("admin-token-0123456789", "publish-token-0123456789");
    let access = Access::new(&[admin.into()], &[publish.into()]).unwrap();
    let options = MessagesOptions::default();
    let stop = CancellationToken::new();
    let messages = Messages::start(world.store.clone(), options, stop).await.unwrap();
    let router = messages::topics_router(messages, access);
    for path in ["/v1/state?topics=dir.*", "/v1/stream?topics=dir.*", "/v1/state?topics=bad"] {
        for (token, status) in [(None, 401), (Some("x"), 401), (Some(publish), 403)] {
            let mut request = Request::get(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await;
            assert_eq!(read(response.unwrap()).await.0, status, "{path} {token:?}");
        }
    }
    let request = Request::get("/v1/state?topics=dir.*");
    let request = request.header("authorization", format!("Bearer {admin}"));
    let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(read(response).await.0, 200);
}
