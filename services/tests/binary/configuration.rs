//! What an operator declared on NATS stays as it is, whoever starts with whatever settings.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use bus::testkit::{NatsCluster, NatsServer};
use bus::{Bus, Message};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::{LIMIT, Lockgate, command};

/// Every stream's configuration, as the server writes it: buckets are streams too.
async fn configurations(bus: &Bus) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    loop {
        let answer = api(bus, "STREAM.LIST", &json!({ "offset": found.len() })).await;
        for stream in answer["streams"].as_array().into_iter().flatten() {
            let config = &stream["config"];
            found.insert(config["name"].as_str().expect("a name").to_owned(), config.to_string());
        }
        if found.len() as u64 >= answer["total"].as_u64().unwrap_or_default() {
            return found;
        }
    }
}

/// A question to the server's own interface.
async fn api(bus: &Bus, operation: &str, body: &Value) -> Value {
    let question = Message::new(format!("$JS.API.{operation}"), body.to_string()).expect("fits");
    let answer = bus.request(question, LIMIT).await.expect("an answer");
    let answer: Value =
        serde_json::from_slice(answer.payload.as_deref().unwrap_or_default()).expect("JSON");
    assert!(answer.get("error").is_none(), "{operation}: {answer}");
    answer
}

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": "dir.user", "subject": "anna",
        "data": id,
    })
}

/// An event over HTTP; the status.
async fn publish(lockgate: &Lockgate, event: &Value) -> u16 {
    let request = lockgate
        .client
        .post(format!("{}/v1/events", lockgate.url))
        .header("content-type", "application/cloudevents+json")
        .body(event.to_string());
    request.send().await.expect("an answer").status().as_u16()
}

/// What an operator may do to streams and buckets without Lockgate's knowledge.
async fn declare(bus: &Bus) {
    let week = 7 * 86_400 * 1_000_000_000_u64;
    let placed = json!({ "tags": ["disk:ssd"] });
    let log = json!({
        "name": "events-dir", "subjects": ["events.dir.*.*"], "retention": "limits",
        "storage": "file", "max_bytes": 3_000_000_000_u64, "max_age": week, "discard": "new",
        "max_msg_size": 1_000_000, "duplicate_window": 300_000_000_000_u64, "num_replicas": 1,
        "max_consumers": 500, "metadata": { "owner": "operations" }, "compression": "s2",
        "description": "the directory", "allow_direct": true, "placement": placed,
    });
    let rows = json!({
        "name": "lockgate-prefill", "subjects": ["prefill.>"], "max_bytes": 2_000_000_000_u64,
        "storage": "file", "discard": "old", "allow_direct": true, "num_replicas": 1,
        "placement": placed,
    });
    let records = json!({
        "name": "KV_lockgate-subscriptions", "subjects": ["$KV.lockgate-subscriptions.>"],
        "max_msgs_per_subject": 5, "storage": "file", "max_bytes": 50_000_000, "discard": "new",
        "allow_rollup_hdrs": true, "allow_direct": true, "deny_delete": true, "num_replicas": 1,
        "description": "the subscriptions", "metadata": { "owner": "operations" },
    });
    for config in [log, rows, records] {
        let name = config["name"].as_str().expect("a name").to_owned();
        api(bus, &format!("STREAM.CREATE.{name}"), &config).await;
    }
}

#[tokio::test]
async fn neither_a_process_nor_a_demo_alters_what_is_there() {
    let server = NatsServer::start_with("server_tags: [\"disk:ssd\"]").await.expect("a server");
    let bus = Bus::connect(&server.url()).await.expect("a bus");
    declare(&bus).await;
    let declared = configurations(&bus).await;
    assert_eq!(declared.len(), 3);

    let lockgate = Lockgate::start(&server.url()).await;
    assert_eq!(publish(&lockgate, &event("1")).await, 202);
    let body = json!({"name": "people", "topics": ["*.*"], "prefill": true});
    assert_eq!(lockgate.post("/v1/subscriptions", "", &body).await.0, 201);
    let started = configurations(&bus).await;
    for (name, config) in &declared {
        assert_eq!(&started[name], config, "a process that started has altered {name}");
    }

    let demo = ["demo", "--json", "--changes", "200", "--rate", "0", "--bus", &server.url()];
    let ran = command(&demo).stdout(Stdio::piped()).stderr(Stdio::piped()).output().await;
    let ran = ran.expect("it runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(configurations(&bus).await, started, "a demo has altered or left something");
    let (_, people) = lockgate.get("/v1/subscriptions/people").await;
    assert_eq!(people["fence"], json!({"dir": 1}), "a demo is no business of others");
    let (_, listed) = lockgate.get("/v1/subscriptions").await;
    assert_eq!(listed["subscriptions"].as_array().map(Vec::len), Some(1), "{listed}");
}

#[tokio::test]
async fn what_differs_is_said_once_with_the_way_out() {
    let server = NatsServer::start_with("server_tags: [\"disk:ssd\"]").await.expect("a server");
    declare(&Bus::connect(&server.url()).await.expect("a bus")).await;
    // Known to the process as a realm from now on.
    let before = Lockgate::start(&server.url()).await;
    assert_eq!(publish(&before, &event("1")).await, 202);
    let port = bus::testkit::free_port().expect("a free port");
    let mut child = command(&["--bus", &server.url(), "--listen", &format!("127.0.0.1:{port}")])
        .env("LOCKGATE_LOG", "warn")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    // The banner comes after what there is to warn of.
    let mut banner = [0; 8];
    let stdout = child.stdout.as_mut().expect("piped");
    let read = tokio::time::timeout(LIMIT, stdout.read_exact(&mut banner)).await;
    read.expect("it starts in time").expect("a banner");
    child.start_kill().expect("it ends");
    let output = child.wait_with_output().await.expect("it ended");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for (field, has) in [
        ("max-bytes", "3000000000"),
        ("max-bytes", "2000000000"),
        ("max-bytes", "50000000"),
        ("max-age", "7days"),
        ("duplicate-window", "5m"),
        ("placement", "tags disk:ssd"),
    ] {
        let of_field = |line: &&str| line.contains(&format!("{field} {has},"));
        let lines: Vec<_> = said.lines().filter(of_field).collect();
        assert_eq!(lines.len(), 1, "{field} {has}:\n{said}");
        assert!(lines[0].contains("lockgate topology apply"), "{}", lines[0]);
    }
    assert!(said.contains("stream events-dir") && said.contains("bucket lockgate-subscriptions"));
}

#[tokio::test]
async fn a_demo_that_is_interrupted_leaves_nothing() {
    let server = NatsServer::start().await.expect("a server");
    let bus = Bus::connect(&server.url()).await.expect("a bus");
    let demo = command(&["demo", "--changes", "200000", "--rate", "2000", "--bus", &server.url()])
        .kill_on_drop(true)
        .spawn();
    let mut demo = demo.expect("it starts");
    let is_demo = |name: &String| name.starts_with("events-demo-");
    let looking = async {
        while !configurations(&bus).await.keys().any(is_demo) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, looking).await.expect("the demo makes its realm");
    let pid = demo.id().expect("it runs").to_string();
    let sent = tokio::process::Command::new("kill").args(["-INT", &pid]).status().await;
    assert!(sent.expect("kill runs").success());
    let status = tokio::time::timeout(LIMIT, demo.wait()).await.expect("it ends").expect("ours");
    assert_eq!(status.code(), Some(130));
    let left: Vec<_> = configurations(&bus).await.into_keys().filter(is_demo).collect();
    assert_eq!(left, Vec::<String>::new());
    for bucket in ["lockgate-realms", "lockgate-subscriptions", "lockgate-cursors"] {
        let keys = bus.kv(bucket).await.expect("a bucket").keys(">").await.expect("its keys");
        assert_eq!(keys, [], "{bucket}");
    }
}

#[tokio::test]
async fn three_copies_stay_three() {
    let cluster = NatsCluster::start(3).await.expect("a cluster");
    let bus = Bus::connect(&cluster.url()).await.expect("a bus");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../nats/topology.toml");
    let url = cluster.url();
    let apply = ["topology", "apply", file, "--bus", &url, "--replicas", "3"];
    assert!(command(&apply).status().await.expect("it runs").success());
    let log = json!({
        "name": "events-dir", "subjects": ["events.dir.*.*"], "storage": "file",
        "max_bytes": 3_000_000_000_u64, "discard": "new", "num_replicas": 3, "allow_direct": true,
    });
    api(&bus, "STREAM.CREATE.events-dir", &log).await;
    let declared = configurations(&bus).await;
    for config in declared.values() {
        assert!(config.contains("\"num_replicas\":3"), "{config}");
    }
    let lockgate = Lockgate::start(&url).await;
    assert_eq!(publish(&lockgate, &event("1")).await, 202);
    assert_eq!(configurations(&bus).await, declared);
}

#[tokio::test]
async fn a_realm_that_is_not_on_the_list_is_refused_and_reserves_nothing() {
    let server = NatsServer::start().await.expect("a server");
    let bus = Bus::connect(&server.url()).await.expect("a bus");
    let any = Lockgate::start(&server.url()).await;
    assert_eq!(publish(&any, &event("1")).await, 202);
    let listed = Lockgate::start_with(&server.url(), &["--realms", "orders,people"]).await;
    let of = |realm: &str| {
        let mut event = event("1");
        event["type"] = json!(format!("{realm}.user"));
        event
    };
    assert_eq!(publish(&listed, &of("orders")).await, 202);
    assert_eq!(publish(&listed, &of("dir")).await, 202, "what exists takes events");
    assert_eq!(publish(&listed, &of("odrers")).await, 403);
    assert!(!configurations(&bus).await.contains_key("events-odrers"));
}
