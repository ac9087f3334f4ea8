//! An event that a foreign NATS client puts on a log's subject reaches the consumer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::testkit::NatsServer;
use lockgate::roles::Role;
use serde_json::{Value, json};
use tokio::process::Command;

use super::clients::{publish, register};
use super::processes::Fleet;
use super::wire::{Wire, call, request};

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";

fn python() -> PathBuf {
    let python = std::env::var_os("LOCKGATE_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("HOME is set");
        PathBuf::from(home).join(".cache/lockgate/tools/python/bin/python")
    });
    assert!(python.exists(), "{} with nats-py is missing: run `make tools`", python.display());
    python
}

/// Everything the queue of `people` holds within a few pulls.
async fn pull(wire: &dyn Wire, count: usize) -> Vec<Value> {
    let mut events = Vec::new();
    for _ in 0..30 {
        let body = json!({"max": 10, "wait": "2s"});
        let path = "/v1/subscriptions/people/pull";
        let answer = call(wire, Role::Messages, request("POST", path, Some(SECRET), &body)).await;
        let Some((200, body)) = answer else { continue };
        let messages = body["messages"].as_array().cloned().unwrap_or_default();
        events.extend(messages.into_iter().map(|message| message["event"].clone()));
        if events.len() >= count {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    events
}

#[tokio::test]
async fn what_nats_py_publishes_arrives_as_events() {
    let server = NatsServer::start().await.expect("a NATS server");
    let fleet = Arc::new(Fleet::new(server.url()));
    fleet.keep();
    let wire: Arc<dyn Wire> = fleet.clone();
    // The realm is made by its first event over HTTP.
    publish(wire.as_ref(), "dir.user", "anna", "first", Some("1")).await;
    register(wire.as_ref(), "people", SECRET, &["dir.*"], false).await;

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handover/foreign.py");
    let ran = Command::new(python()).arg(script).arg(server.url()).output().await.expect("python");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), "2 3 4");

    let events = pull(wire.as_ref(), 3).await;
    let of = |key: &str| {
        events
            .iter()
            .find(|event| event["subject"] == key)
            .unwrap_or_else(|| panic!("nothing about {key} in {events:#?}"))
    };
    let plain = of("zoe");
    assert_eq!(plain["id"], "events-dir-2");
    assert_eq!(plain["type"], "dir.user");
    assert_eq!(plain["data"], json!({"mail": "zoe@example.org"}));
    let event = of("yann");
    assert_eq!((&event["id"], &event["source"]), (&json!("from-python"), &json!("/hr")));
    assert_eq!(
        (&event["type"], &event["topic"]),
        (&json!("org.example.joined"), &json!("dir.user"))
    );
    assert_eq!(of("n1")["data"], "grüß Gott");
    assert_eq!(events.len(), 3, "the repeated id came twice: {events:#?}");
}
