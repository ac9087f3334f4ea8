//! WebSocket.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bus::Bus;
use bus::fault::{FaultRates, Faults};
use bus::testkit::NatsServer;
use futures_util::{SinkExt, StreamExt};
use lockgate::http::{Guard, Health, app};
use lockgate::messages::MessagesOptions;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use super::socket_support::{Connect, Socket};
use super::support::{Process, SECRET, World, name, show};

const SECOND: Duration = Duration::from_secs(1);

/// A live subscription to what is published from now on.
async fn people() -> (World, Process) {
    let mut world = World::new().await;
    world.publish("dir.user", "first", 0).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], false).await;
    (world, process)
}

#[tokio::test(start_paused = true)]
async fn prefill_comes_first_as_far_as_the_credit_goes() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("dir.user", "bert", 2).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], true).await;
    world.publish("dir.user", "anna", 3).await;

    let mut socket = process.socket("people", "").await;
    assert_eq!(
        (&socket.hello["mode"], &socket.hello["subscription"]),
        (&json!("queue"), &json!("people"))
    );
    assert_eq!(socket.within(5 * SECOND).await, Vec::<String>::new(), "no credit, no message");
    socket.credit(1).await;
    assert_eq!(socket.shown(2).await, ["prefill-start", "anna=1"]);
    assert_eq!(socket.within(5 * SECOND).await, Vec::<String>::new());
    let settled = socket.settle(json!({"type": "ack", "up_to": 1, "ref": 7})).await;
    assert_eq!(settled, json!({"type": "settled", "ref": 7, "done": 1, "refused": []}));
    socket.credit(9).await;
    let bert = socket.message().await;
    assert_eq!(
        (&bert["position"], &bert["phase"], &bert["attempt"]),
        (&json!(2), &json!("prefill"), &json!(1))
    );
    assert_eq!(socket.within(5 * SECOND).await, Vec::<String>::new(), "live begins after it");
    let settled = socket.settle(json!({"type": "ack", "ids": [bert["ack"]]})).await;
    assert_eq!(settled["done"], 1);
    assert_eq!(socket.shown(2).await, ["prefill-end", "anna=3"]);
    assert_eq!(socket.shown(1).await, ["up-to-date"]);
    world.publish("dir.user", "carl", 4).await;
    assert_eq!(socket.shown(1).await, ["carl=4"]);
    let settled = socket.settle(json!({"type": "ack", "up_to": 4})).await;
    assert_eq!(settled["done"], 2, "everything that is not settled yet");
    socket.say(json!({"type": "ping"})).await;
    assert_eq!(socket.within(5 * SECOND).await, ["pong", "up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn credit_in_bytes_holds_with_one_message_in_excess() {
    let (world, process) = people().await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 1).await;
    }
    let mut socket = process.socket("people", "?credit=9&credit_bytes=1").await;
    assert_eq!(socket.shown(1).await, ["a=1"]);
    assert_eq!(socket.within(5 * SECOND).await, Vec::<String>::new());
    socket.say(json!({"type": "credit", "bytes": 1})).await;
    assert_eq!(socket.shown(1).await, ["b=1"]);
    socket.say(json!({"type": "credit", "bytes": 1_000_000})).await;
    assert_eq!(socket.shown(1).await, ["c=1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_back_comes_again_and_what_is_rejected_is_kept_aside() {
    let (world, process) = people().await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 1).await;
    }
    let mut socket = process.socket("people", "?credit=100").await;
    let (a, b, c) = (socket.message().await, socket.message().await, socket.message().await);
    let ids = [&a["ack"], &b["ack"]];
    let settled = socket.settle(json!({"type": "nack", "ids": [ids[0]], "delay": "10s"})).await;
    assert_eq!(settled["done"], 1);
    let reject = json!({"type": "nack", "ids": [ids[1]], "reject": true, "reason": "no city"});
    assert_eq!(socket.settle(reject).await["done"], 1);
    let (status, letters) = process.get("/v1/subscriptions/people/dead-letters").await;
    let reason = &letters["dead_letters"][0]["reason"];
    assert_eq!((status, reason), (200, &json!("no city")));
    // Not acked, and not let go of: extended over the end of the first lease.
    tokio::time::sleep(9 * SECOND).await;
    assert_eq!(socket.within(SECOND / 2).await, ["up-to-date"]);
    assert_eq!(socket.message().await["attempt"], 2);
    tokio::time::sleep(10 * SECOND).await;
    let extended = socket.settle(json!({"type": "extend", "up_to": 4})).await;
    assert_eq!(extended["done"], 2, "{extended}");
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(socket.settle(json!({"type": "ack", "ids": [c["ack"]]})).await["done"], 1);

    // Over, never given out, and settled already: told apart, and the connection stays.
    let all = json!({"type": "ack", "ids": [a["ack"], "made-up", c["ack"]]});
    let settled = socket.settle(all).await;
    let refused = json!([
        {"id": a["ack"], "status": "stale"}, {"id": "made-up", "status": "unknown"},
    ]);
    assert_eq!((&settled["done"], &settled["refused"]), (&json!(1), &refused));
    assert_eq!(socket.settle(json!({"type": "ack", "up_to": 4})).await["done"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_there_is_no_room_for_goes_back_in_time() {
    let (world, process) = people().await;
    world.publish("dir.user", "x", 0).await;
    let mut socket = process.socket("people", "?credit=1").await;
    let first = socket.message().await;
    socket.settle(json!({"type": "ack", "up_to": 1})).await;
    // Three events fit as such, and two as frames.
    let (event, frame) = (first["event"].to_string().len(), first.to_string().len());
    let bytes = 3 * event + 10;
    assert!((frame + 1..=2 * frame).contains(&bytes), "{event} {frame}");
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 0).await;
    }
    socket.say(json!({"type": "credit", "messages": 9, "bytes": bytes})).await;
    assert_eq!(socket.shown(2).await, ["a=0", "b=0"]);
    let other = process.pull("people", 9, "14s").await;
    assert_eq!(other.shown(), Vec::<String>::new(), "it is kept for the client at first");
    let other = process.pull("people", 9, "2s").await;
    assert_eq!(other.shown(), ["c=0"], "and counts as never handed out");
    assert_eq!(socket.settle(json!({"type": "ack", "up_to": 3})).await["done"], 2);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_is_waited_for() {
    let mut world = World::new().await;
    world.publish("dir.user", "first", 0).await;
    world.subscribe("people", &["dir.*"], false).await;
    let faults = Faults::new(1);
    let process = world.disturbed_process(&faults).await;
    let mut queue = process.socket("people", "?credit=9").await;
    let mut stream = process.socket("people", "?mode=stream&credit=9").await;
    world.publish("dir.user", "k", 1).await;
    let message = queue.message().await;
    assert_eq!(stream.message().await["event"], message["event"]);
    faults.set_rates(FaultRates { fail_before: 1000, ..FaultRates::NONE });
    let settled = queue.settle(json!({"type": "ack", "up_to": 1})).await;
    assert_eq!(settled["refused"][0]["status"], "failed", "{settled}");
    world.publish("dir.user", "k", 2).await;
    tokio::time::sleep(5 * SECOND).await;
    faults.set_rates(FaultRates::NONE);
    // Asked again it is settled, and what came meanwhile comes.
    assert_eq!(queue.settle(json!({"type": "ack", "up_to": 1})).await["done"], 1);
    assert_eq!(show(&queue.message().await["event"]), "k=2");
    assert_eq!(show(&stream.message().await["event"]), "k=2");
}

#[tokio::test(start_paused = true)]
async fn the_transport_is_changed_in_mid_stream() {
    let (world, process) = people().await;
    for data in 1..=9 {
        world.publish("dir.user", "k", data).await;
    }
    // Stream mode: the same token on both.
    let mut events = process.stream("people", None).await;
    assert_eq!(events.take_shown(3).await, ["k=1", "k=2", "k=3"]);
    let after = format!("?mode=stream&credit=3&after={}", events.id);
    let mut socket = process.socket("people", &after).await;
    let (mut shown, mut id) = (Vec::new(), String::new());
    for _ in 0..3 {
        let message = socket.message().await;
        shown.push(message["event"]["data"].clone());
        id = message["id"].as_str().unwrap().to_owned();
    }
    assert_eq!(shown, [4, 5, 6]);
    let mut events = process.stream("people", Some(&id)).await;
    assert_eq!(events.take_shown(4).await, ["k=7", "k=8", "k=9", "up-to-date"]);
    let mut socket = process.socket("people", &format!("?mode=stream&after={}", events.id)).await;
    assert_eq!(socket.shown(1).await, ["up-to-date"], "no credit is needed for it");

    // Queue mode: the same position on all three, in turn, and acks from one of another's.
    let mut taken = Vec::new();
    for round in 0..3 {
        let mut socket = process.socket("people", "?credit=1&max_per_key=1").await;
        let message = socket.message().await;
        taken.push(message["event"]["data"].as_u64().unwrap());
        let (status, settled) =
            process.ack("people", &[message["ack"].as_str().unwrap().to_owned()]).await;
        assert_eq!((status, settled), (200, vec![String::from("done")]), "round {round}");
        drop(socket);

        let pulled = process.pull("people", 1, "20s").await;
        taken.push(pulled.0["messages"][0]["event"]["data"].as_u64().unwrap());
        process.ack("people", &pulled.ids()).await;

        let mut events = process.queue_stream("people", "&max_per_key=1").await;
        let delivery = loop {
            let event = events.next().await.unwrap();
            if event.name == "message" {
                break event.data;
            }
        };
        taken.push(delivery["event"]["data"].as_u64().unwrap());
        drop(events);
        process.ack("people", &[delivery["ack"].as_str().unwrap().to_owned()]).await;
    }
    assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_bad_frame_is_named_closes_and_loses_nothing() {
    let (world, process) = people().await;
    for data in 1..=2 {
        world.publish("dir.user", "k", data).await;
    }
    let mut socket = process.socket("people", "?credit=1&max_per_key=1").await;
    let first = socket.message().await;
    socket.say(json!({"type": "ack", "ids": [first["ack"]]})).await;
    socket.socket.send(Message::text("{\"type\":\"ack\",\"ids\":7}")).await.unwrap();
    let (error, settled) = told(&mut socket).await;
    assert_eq!((settled, &error["status"]), (1, &json!(422)), "{error}");
    assert_eq!(socket.next().await, Err((4400, String::from("a frame breaks a rule"))));
    assert_eq!(process.pull("people", 9, "1s").await.shown(), ["k=2"]);

    let long = "x".repeat(300_000);
    for (message, status, code) in [
        (Message::text("half a {\"fra"), 400, 4400),
        (Message::text(json!({"type": "ack", "up_to": 17}).to_string()), 422, 4400),
        (Message::binary("{\"type\":\"ping\"}"), 400, 1003),
        (Message::text(long), 413, 1009),
    ] {
        let mut socket = process.socket("people", "").await;
        // Larger than what is taken, a frame is refused before all of it was sent.
        let _ = socket.socket.send(message).await;
        let (error, _) = told(&mut socket).await;
        assert_eq!(error["status"], status, "{error}");
        assert_eq!(socket.close_code().await, code, "{error}");
    }
    let mut socket = process.socket("people", "?mode=stream").await;
    socket.say(json!({"type": "ack", "ids": ["x"]})).await;
    assert!(told(&mut socket).await.0["detail"].as_str().unwrap().contains("stream mode"));
    assert_eq!(socket.close_code().await, 4400);
}

/// The problem that a connection ends for, and how many settlements were answered before.
async fn told(socket: &mut Socket) -> (Value, u64) {
    let mut settled = 0;
    loop {
        let frame = socket.frame().await;
        match frame["type"].as_str().unwrap() {
            "error" => return (frame["problem"].clone(), settled),
            "settled" => settled += frame["done"].as_u64().unwrap(),
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stops_says_so_and_what_was_not_sent_goes_to_the_next() {
    let (mut world, process) = people().await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 1).await;
    }
    let other = world.process().await;
    let mut socket = process.socket("people", "?credit=9&credit_bytes=1").await;
    let first = socket.message().await;
    socket.say(json!({"type": "ack", "ids": [first["ack"]]})).await;
    process.shutdown().cancel();
    assert_eq!(socket.close_code().await, 1001);
    process.stop().await;
    let pulled = other.pull("people", 9, "20s").await;
    assert_eq!(pulled.shown(), ["b=1", "c=1"], "at once, for the first time, and no ack is lost");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_is_answered_and_its_last_acks_count() {
    let (world, process) = people().await;
    for data in 1..=2 {
        world.publish("dir.user", "k", data).await;
    }
    let mut socket = process.socket("people", "?credit=1").await;
    let first = socket.message().await;
    socket.say(json!({"type": "ack", "ids": [first["ack"]]})).await;
    let code = CloseCode::Normal;
    let close = CloseFrame { code, reason: "".into() };
    socket.socket.close(Some(close)).await.unwrap();
    assert_eq!(socket.close_code().await, 1000);
    assert_eq!(process.pull("people", 9, "5s").await.shown(), ["k=2"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_with_its_age_and_its_subscription() {
    let mut world = World::new().await;
    world.publish("dir.user", "first", 0).await;
    let max_stream_age = Duration::from_secs(100);
    let options = MessagesOptions { max_stream_age, ..MessagesOptions::default() };
    let process = world.process_with(options).await;
    world.subscribe("people", &["dir.*"], false).await;
    for mode in ["?credit=9", "?credit=9&mode=stream"] {
        let mut socket = process.socket("people", mode).await;
        assert_eq!(socket.close_code().await, 1001, "{mode}");
    }
    let mut queue = process.socket("people", "?credit=9").await;
    let mut stream = process.socket("people", "?credit=9&mode=stream").await;
    assert_eq!(queue.shown(1).await, ["up-to-date"]);
    assert_eq!(stream.shown(1).await, ["up-to-date"]);
    world.registration.delete(&name("people"), None).await.unwrap();
    assert_eq!((queue.close_code().await, stream.close_code().await), (4404, 4404));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_let_in_is_told_in_a_way_that_it_sees() {
    let (world, process) = people().await;
    let path = "/v1/subscriptions/people/ws";
    let health = Health::new(world.store.clone(), CancellationToken::new());
    let guard = Guard::new(true, &[], &["https://app.example.org".into()]);
    let router = app(process.router.clone(), guard, health);
    let page = Some("https://app.example.org");
    let connect = |path, bearer, origin| Connect { path, bearer, origin };
    assert_eq!(connect(path, Some("wrong"), None).to(&router).await.err(), Some(401));
    let nobody = "/v1/subscriptions/nobody/ws";
    assert_eq!(connect(nobody, Some(SECRET), None).to(&router).await.err(), Some(404));
    let both = "/v1/subscriptions/people/ws?mode=both";
    assert_eq!(connect(both, Some(SECRET), None).to(&router).await.err(), Some(422));
    let elsewhere = Some("https://evil.example.org");
    assert_eq!(connect(path, Some(SECRET), elsewhere).to(&router).await.err(), Some(403));
    let mut refused = connect(path, None, page).to(&router).await.unwrap();
    assert_eq!(told(&mut refused).await.0["status"], 401);
    assert_eq!(refused.close_code().await, 4401);

    let (_, ticket) = process.post("/v1/subscriptions/people/tickets", json!({})).await;
    let with = format!("{path}?credit=9&ticket={}", ticket["ticket"].as_str().unwrap());
    let mut socket = connect(&with, None, page).to(&router).await.unwrap();
    let hello = socket.frame().await;
    assert_eq!(socket.shown(1).await, ["up-to-date"]);
    let mut again = connect(&with, None, page).to(&router).await.unwrap();
    let problem = told(&mut again).await.0;
    assert!(problem["detail"].as_str().unwrap().contains("used already"), "{problem}");
    assert_eq!(again.close_code().await, 4401);
    // What it was told first lets it in again, as an id does an EventSource.
    let back = format!("{with}&after={}", hello["id"].as_str().unwrap());
    let mut socket = connect(&back, None, page).to(&router).await.unwrap();
    assert_eq!(socket.frame().await["type"], "hello");
    assert_eq!(socket.shown(1).await, ["up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_handshake_is_refused() {
    let (_world, process) = people().await;
    let request = Request::get("/v1/subscriptions/people/ws")
        .header("authorization", format!("Bearer {SECRET}"));
    let response = process.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), 426);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["sec-websocket-version"], "13");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_let_go_and_keeps_nothing_from_others() {
    let (world, process) = people().await;
    // More than the pipe holds.
    let keys: Vec<String> = (0..20).map(|at| format!("k{at:02}")).collect();
    for key in &keys {
        world.publish_text("dir.user", key, &"x".repeat(10_000)).await;
    }
    let mut slow = process.socket("people", "").await;
    slow.credit(1000).await;
    let mut quick = process.socket("people", "").await;
    // The slow one is handed out everything, and stands with the first of it in its pipe.
    tokio::time::sleep(10 * SECOND).await;
    quick.credit(1000).await;
    world.publish_text("dir.user", "late", "y").await;
    let late = quick.message().await;
    assert_eq!(late["event"]["subject"], "late", "the others go on");
    assert_eq!(quick.settle(json!({"type": "ack", "up_to": 1})).await["done"], 1);
    let mut seen = Vec::new();
    while seen.len() < keys.len() {
        let message = quick.message().await;
        seen.push(message["event"]["subject"].as_str().unwrap().to_owned());
        quick.settle(json!({"type": "ack", "ids": [message["ack"]]})).await;
    }
    seen.sort();
    assert_eq!(seen, keys, "once it is let go, and its leases have ended");
    let mut heard = 0;
    while let Some(Ok(Message::Text(_))) = slow.socket.next().await {
        heard += 1;
    }
    assert!(heard < keys.len(), "what was in the pipe, and then no more: {heard}");
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_is_noticed_and_a_quiet_one_is_not_let_go() {
    let (_world, process) = people().await;
    let mut dead = process.socket("people", "").await;
    let mut quiet = process.socket("people", "").await;
    // Reading it answers pings, which the dead one does not.
    assert_eq!(quiet.within(91 * SECOND).await, Vec::<String>::new());
    assert_eq!(dead.close_code().await, 4408);
    assert_eq!(quiet.within(91 * SECOND).await, Vec::<String>::new());
    quiet.credit(1).await;
    assert_eq!(quiet.shown(1).await, ["up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_where_it_is_asked_to() {
    let mut world = World::new().await;
    for data in 1..=3 {
        world.publish("dir.user", "k", data).await;
    }
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], true).await;
    for data in 4..=5 {
        world.publish("dir.user", "k", data).await;
    }
    let read = async |from: &str| {
        let mut stream = process.stream_from("people", from).await;
        let mut shown = Vec::new();
        while shown.last().map(String::as_str) != Some("up-to-date") {
            shown.extend(stream.take_shown(1).await);
        }
        (shown, stream.id)
    };
    let all = ["k=1", "k=2", "k=3", "k=4", "k=5", "up-to-date"];
    assert_eq!(read("beginning").await.0, all);
    assert_eq!(read("1970-01-01T00:00:00Z").await.0, all);
    assert_eq!(read("dir:2").await.0, all[1..]);
    assert_eq!(read("dir:99").await.0, ["up-to-date"]);
    assert_eq!(read("now").await.0, ["up-to-date"]);
    assert_eq!(read("2999-01-01T00:00:00+01:00").await.0, ["up-to-date"]);
    // From before the fence too each id resumes, on whatever transport.
    let mut stream = process.stream_from("people", "dir:2").await;
    assert_eq!(stream.take_shown(1).await, ["k=2"]);
    let query = format!("?mode=stream&credit=9&after={}", stream.id);
    let mut socket = process.socket("people", &query).await;
    assert_eq!(socket.shown(4).await, ["k=3", "k=4", "k=5", "up-to-date"]);
}

/// The same over a real server of NATS, where what is pulled comes over the network.
#[tokio::test]
async fn on_nats_the_queue_is_shared_by_transports_and_processes() {
    let mut server = NatsServer::start().await.unwrap();
    let mut world = World::on(Bus::connect(&server.url()).await.unwrap()).await;
    for data in 0..20 {
        world.publish("dir.user", &format!("k{data}"), data).await;
    }
    let (one, two) = (world.process().await, world.process().await);
    world.subscribe("people", &["dir.*"], true).await;
    for data in 20..40 {
        world.publish("dir.user", &format!("k{data}"), data).await;
    }
    let mut seen = Vec::new();
    let (mut here, mut there) =
        (one.socket("people", "?credit=1000").await, two.socket("people", "?credit=1000").await);
    while seen.len() < 40 {
        let (socket, message) = tokio::select! {
            message = here.message() => (&mut here, message),
            message = there.message() => (&mut there, message),
        };
        seen.push(message["event"]["data"].as_u64().unwrap());
        socket.say(json!({"type": "ack", "ids": [message["ack"]]})).await;
    }
    assert!(seen[..20].iter().all(|data| *data < 20), "prefill is first: {seen:?}");
    seen.sort();
    assert_eq!(seen, (0..40).collect::<Vec<_>>());
    one.shutdown().cancel();
    assert_eq!(here.close_code().await, 1001);
    one.stop().await;
    server.stop().await.unwrap();
}
