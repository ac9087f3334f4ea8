//! The main job on a cluster that keeps three copies: register, prefill, live, pull and ack, and a
//! stream, while the leader of the log is killed; every role with no more than its own rights.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::Message;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::fleet::Fleet;
use super::servers::{LIMIT, REALM, Servers};

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";
const KEYS: u64 = 20;
/// Publishes while the leader dies: each is repeated until it is taken.
const CHANGES: u64 = 300;
const ROLES: [(&str, &str); 7] = [
    ("registration", "registration"),
    ("events", "events"),
    ("messages-1", "messages"),
    ("messages-2", "messages"),
    ("dispatcher", "dispatcher"),
    ("prefill", "prefill"),
    ("bridge", "bridge"),
];
/// What a server says of a subject that a user may not use.
const REFUSED: &str = "ermissions violation";

/// Publishes with one id until the log has it.
async fn publish(fleet: &Fleet, key: u64, change: u64) {
    let event = json!({
        "specversion": "1.0", "id": format!("{key}-{change}"), "source": "/test",
        "type": "directory.user", "subject": format!("k{key}"), "data": change,
    });
    let started = Instant::now();
    while !(200..300).contains(&fleet.publish(&event).await) {
        assert!(started.elapsed() < LIMIT, "it is not taken\n{}", fleet.logs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a consumer has of each key: the changes in the order of their first delivery.
#[derive(Default)]
struct Seen {
    rows: BTreeMap<String, u64>,
    live: BTreeMap<String, Vec<u64>>,
}

impl Seen {
    fn take(&mut self, message: &Value) {
        let event = &message["event"];
        let key = event["subject"].as_str().expect("a key").to_owned();
        let change = event["data"].as_u64().expect("a change");
        if message["phase"] == "prefill" {
            self.rows.insert(key, change);
            return;
        }
        let changes = self.live.entry(key).or_default();
        // An ack whose answer was lost with the leader may bring an event again.
        if !changes.contains(&change) {
            changes.push(change);
        }
    }

    fn live(&self) -> usize {
        self.live.values().map(Vec::len).sum()
    }
}

/// Pulls and acks, from either replica in turn, until `wanted` live events were there.
async fn consume(fleet: &Fleet, wanted: usize) -> Seen {
    let (mut seen, started) = (Seen::default(), Instant::now());
    let mut replicas = ["messages-1", "messages-2"].into_iter().cycle();
    while seen.live() < wanted {
        let replica = replicas.next().expect("a cycle");
        let asked = json!({ "max": 50, "wait": "2s" });
        let (status, pulled) =
            fleet.post(replica, "/v1/subscriptions/people/pull", SECRET, &asked).await;
        let messages = pulled["messages"].as_array().cloned().unwrap_or_default();
        messages.iter().for_each(|message| seen.take(message));
        let acks: Vec<_> = messages.iter().map(|message| message["ack"].clone()).collect();
        if !acks.is_empty() {
            let acks = json!({ "ack": acks });
            fleet.post(replica, "/v1/subscriptions/people/acks", SECRET, &acks).await;
        }
        let late = || format!("{status} {pulled} after {}\n{}", seen.live(), fleet.logs());
        assert!(started.elapsed() < 2 * LIMIT, "{}", late());
    }
    seen
}

/// Reads the event stream with a ticket until so many events came; returns what it said.
async fn stream(fleet: &Fleet, wanted: usize) -> String {
    let path = "/v1/subscriptions/people/tickets";
    let (status, ticket) = fleet.post("messages-1", path, SECRET, &json!({})).await;
    assert_eq!(status, 200, "{ticket}");
    let ticket = ticket["ticket"].as_str().expect("a ticket");
    let url = format!("{}/v1/subscriptions/people/events?ticket={ticket}", fleet.url("messages-1"));
    let answer = fleet.client.get(url).send().await.expect("a stream");
    assert_eq!(answer.status(), 200);
    let (mut chunks, mut said) = (answer.bytes_stream(), String::new());
    let read = async {
        while said.matches("\"specversion\"").count() < wanted {
            let chunk = chunks.next().await.expect("it goes on").expect("unbroken");
            said.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    };
    let read = tokio::time::timeout(LIMIT, read).await;
    assert!(read.is_ok(), "{said}\n{}", fleet.logs());
    said
}

/// Gives one event up, redrives it and takes it, gives another one up and drops it.
async fn give_up(fleet: &Fleet) {
    let body = json!({
        "name": "picky", "topics": ["directory.*"], "secret": SECRET, "dead_letters": true,
    });
    let (status, made) = fleet.post("registration", "/v1/subscriptions", "", &body).await;
    assert_eq!(status, 201, "{made}");
    for then in ["redrive", "drop"] {
        publish(fleet, 0, if then == "drop" { 9_001 } else { 9_000 }).await;
        let ack = pull_one(fleet).await;
        let nack = json!({ "nack": [{ "id": ack, "reject": true, "reason": "no such city" }] });
        let settled = fleet.post("messages-1", "/v1/subscriptions/picky/acks", SECRET, &nack).await;
        assert_eq!(settled.0, 200, "{}\n{}", settled.1, fleet.logs());
        let path = format!("/v1/subscriptions/picky/dead-letters/{then}");
        let all = json!({ "all": true });
        let (status, done) = fleet.post("messages-1", &path, SECRET, &all).await;
        assert_eq!(status, 200, "{done}\n{}", fleet.logs());
        if then == "redrive" {
            let ack = pull_one(fleet).await;
            let acked = json!({ "ack": [ack] });
            let path = "/v1/subscriptions/picky/acks";
            assert_eq!(fleet.post("messages-1", path, SECRET, &acked).await.0, 200);
        }
    }
    let (status, gone) = fleet.delete("registration", "/v1/subscriptions/picky").await;
    assert_eq!(status, 204, "{gone}");
}

async fn pull_one(fleet: &Fleet) -> Value {
    let started = Instant::now();
    loop {
        let asked = json!({ "max": 1, "wait": "5s" });
        let path = "/v1/subscriptions/picky/pull";
        let (status, pulled) = fleet.post("messages-1", path, SECRET, &asked).await;
        if let Some(message) = pulled["messages"].get(0) {
            return message["ack"].clone();
        }
        assert!(started.elapsed() < LIMIT, "{status} {pulled}\n{}", fleet.logs());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_job_goes_on_when_the_leader_is_killed_and_no_role_lacks_a_right() {
    let files = ["cluster-1.conf", "cluster-2.conf", "cluster-3.conf"];
    let mut servers = Servers::start(&files).await;
    let fleet = Fleet::start(&servers, "3", &ROLES).await;
    for key in 0..KEYS {
        publish(&fleet, key, 0).await;
    }
    let body =
        json!({"name": "people", "topics": ["directory.*"], "prefill": true, "secret": SECRET});
    let (status, made) = fleet.post("registration", "/v1/subscriptions", "", &body).await;
    assert_eq!(status, 201, "{made}\n{}", fleet.logs());

    let load = async {
        for change in 1..=CHANGES {
            publish(&fleet, change % KEYS, change).await;
        }
    };
    let leader = servers.leader_of(&format!("events-{REALM}")).await;
    let killing = async {
        // In the middle of the load, and of the consumer's work.
        tokio::time::sleep(Duration::from_millis(500)).await;
        servers.kill9(leader);
    };
    let consuming = consume(&fleet, usize::try_from(CHANGES).expect("small"));
    let ((), (), seen) = tokio::join!(load, killing, consuming);
    servers.restart(leader).await;

    let rows: BTreeMap<String, u64> = (0..KEYS).map(|key| (format!("k{key}"), 0)).collect();
    assert_eq!(seen.rows, rows, "the state at the fence");
    for key in 0..KEYS {
        let changes: Vec<u64> = (1..=CHANGES).filter(|change| change % KEYS == key).collect();
        assert_eq!(seen.live[&format!("k{key}")], changes, "key {key}, in its order");
    }

    // An application that publishes by itself, as no more than a publisher.
    let application = servers.bus("publisher").await;
    let log = application.stream(&format!("events-{REALM}")).await.expect("the log");
    let message = Message::new(format!("events.{REALM}.user.k1"), "1000").expect("a message");
    log.publish(message).await.expect("it is taken");
    let said = stream(&fleet, usize::try_from(KEYS + CHANGES + 1).expect("small")).await;
    assert!(said.contains("event: prefill-end"), "{said}");

    give_up(&fleet).await;
    let (status, shown) = fleet.get("registration", "/v1/subscriptions/people").await;
    assert_eq!((status, &shown["prefill"]["status"]), (200, &json!("done")), "{shown}");
    let (status, _) = fleet.get("registration", "/v1/realms").await;
    assert_eq!(status, 200);
    assert_eq!(fleet.delete("registration", "/v1/subscriptions/people").await.0, 204);
    let logs = fleet.logs();
    assert!(!logs.to_lowercase().contains(REFUSED), "a role lacks a right\n{logs}");
    let logs = servers.logs();
    assert!(!logs.to_lowercase().contains(REFUSED), "a role lacks a right\n{logs}");
}
