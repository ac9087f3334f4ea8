//! The outside world: a publisher and two kinds of consumer, which never give up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use lockgate::model::{Fence, Manifest, Realm};
use lockgate::platform::Entropy;
use lockgate::roles::Role;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::checker::{QueueStep, Step};
use super::truth::Event;
use super::wire::{Wire, call, request};

const PAUSE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);
const TRIES: usize = 600;

/// Random decisions of a client.
pub(crate) struct Dice(Entropy);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Entropy::seeded(seed))
    }

    /// A number below `sides`.
    pub(crate) fn roll(&self, sides: u64) -> u64 {
        u64::from_le_bytes(self.0.bytes().expect("seeded bytes")) % sides
    }
}

/// Sends until the answer is final: a broken connection or a 5xx is tried again.
async fn insist(
    wire: &dyn Wire,
    role: Role,
    make: impl Fn() -> axum::http::Request<bytes::Bytes>,
) -> (u16, Value) {
    for _ in 0..TRIES {
        let answer = tokio::time::timeout(PATIENCE, call(wire, role, make())).await;
        match answer {
            Ok(Some((status, body))) if !matches!(status, 500..=504) => return (status, body),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    panic!("{role} did not answer in {TRIES} tries");
}

/// Publishes one event and does not return before it is accepted.
pub(crate) async fn publish(wire: &dyn Wire, topic: &str, key: &str, id: &str, data: Option<&str>) {
    let mut event = json!({
        "specversion": "1.0", "id": id, "source": "/test", "type": topic, "subject": key,
    });
    if let Some(data) = data {
        event["data"] = json!(data);
    }
    let make = || {
        let mut request = request("POST", "/v1/events", None, &event);
        let structured = "application/cloudevents+json".parse().expect("a header");
        request.headers_mut().insert("content-type", structured);
        request
    };
    let (status, body) = insist(wire, Role::Events, make).await;
    assert_eq!(status, 202, "{body}");
}

/// Publishes `count` changes of a few keys in two realms, one of them born on the way.
pub(crate) async fn publish_changes(wire: &dyn Wire, seed: u64, count: u64) {
    let dice = Dice::new(seed);
    for at in 0..count {
        let topic = match dice.roll(10) {
            0 if at > count / 2 => "late.thing",
            1..=3 => "dir.group",
            _ => "dir.user",
        };
        let key = format!("k{}", dice.roll(6));
        let value = format!("v{at}");
        let data = (dice.roll(5) > 0).then_some(value.as_str());
        publish(wire, topic, &key, &format!("e{at}"), data).await;
        tokio::time::sleep(Duration::from_millis(dice.roll(40))).await;
    }
}

/// Registers a subscription under a secret of its own, so that a lost answer costs nothing.
pub(crate) async fn register(
    wire: &dyn Wire,
    name: &str,
    secret: &str,
    topics: &[&str],
    prefill: bool,
) {
    let body = json!({
        "name": name, "topics": topics, "prefill": prefill, "secret": secret, "ack_wait": "5s",
    });
    let make = || request("POST", "/v1/subscriptions", None, &body);
    let (status, body) = insist(wire, Role::Registration, make).await;
    assert!(status == 201 || status == 200, "{status} {body}");
}

/// A subscription as the API shows it.
pub(crate) async fn status(wire: &dyn Wire, name: &str) -> Value {
    let path = format!("/v1/subscriptions/{name}");
    let (status, body) =
        insist(wire, Role::Registration, || request("GET", &path, None, &Value::Null)).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// What a consumer has seen so far, for others to look at.
pub(crate) type Seen<T> = Arc<Mutex<Vec<T>>>;

/// Reads a subscription as a stream until `stop`, dropping the connection now and then and
/// resuming by the last id.
pub(crate) async fn read_stream(
    wire: Arc<dyn Wire>,
    name: String,
    secret: String,
    seed: u64,
    seen: Seen<Step>,
    stop: CancellationToken,
) {
    let dice = Dice::new(seed);
    let mut last_id: Option<String> = None;
    while !stop.is_cancelled() {
        let path = format!("/v1/subscriptions/{name}/events");
        let mut request = request("GET", &path, Some(&secret), &Value::Null);
        if let Some(id) = &last_id {
            let value = axum::http::HeaderValue::from_str(id).expect("a resume token");
            request.headers_mut().insert("last-event-id", value);
        }
        let opened = tokio::time::timeout(PATIENCE, wire.send(Role::Messages, request)).await;
        if let Ok(Some(response)) = opened {
            let status = response.status().as_u16();
            assert!(status == 200 || status >= 500, "stream answered {status}");
            if status == 200 {
                let frames = 1 + dice.roll(60);
                read_frames(response.into_body(), frames, &mut last_id, &seen, &stop).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read_frames(
    mut body: axum::body::Body,
    mut frames: u64,
    last_id: &mut Option<String>,
    seen: &Seen<Step>,
    stop: &CancellationToken,
) {
    let mut text = String::new();
    while frames > 0 {
        let chunk = tokio::select! { biased;
            () = stop.cancelled() => return,
            chunk = body.frame() => chunk,
        };
        let Some(Ok(frame)) = chunk else { return };
        let Ok(data) = frame.into_data() else { continue };
        text.push_str(std::str::from_utf8(&data).expect("UTF-8 frames"));
        while let Some(end) = text.find("\n\n") {
            let frame: String = text.drain(..end + 2).collect();
            frames = frames.saturating_sub(take_frame(&frame, last_id, seen));
            if frames == 0 {
                return;
            }
        }
    }
}

/// Takes one frame; returns 1 if it was an event.
fn take_frame(frame: &str, last_id: &mut Option<String>, seen: &Seen<Step>) -> u64 {
    let (mut name, mut data) = (String::new(), String::new());
    for line in frame.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => *last_id = Some(id.to_owned()),
            Some(("event", event)) => name = event.to_owned(),
            Some(("data", part)) => data.push_str(part),
            _ => {}
        }
    }
    if name.is_empty() {
        return 0;
    }
    let json: Value = serde_json::from_str(&data).unwrap_or(Value::Null);
    let step = match name.as_str() {
        "message" => {
            let (realm, event) = Event::from_json(&json);
            Step::Message { realm, event }
        }
        "prefill-start" => {
            let fence: Fence = serde_json::from_value(json["fence"].clone()).expect("a fence");
            Step::PrefillStart { fence }
        }
        "prefill-end" => {
            let manifest: Manifest = serde_json::from_value(json).expect("a manifest");
            Step::PrefillEnd { manifest }
        }
        "expired" => Step::Expired,
        "progress" | "up-to-date" => return 1,
        other => panic!("unexpected event {other}: {data}"),
    };
    seen.lock().expect("seen").push(step);
    1
}

/// Reads a subscription as a queue until `stop`: acks most, nacks some, extends some, leaves some
/// to their leases.
pub(crate) async fn read_queue(
    wire: Arc<dyn Wire>,
    name: String,
    secret: String,
    seed: u64,
    seen: Seen<QueueStep>,
    stop: CancellationToken,
) {
    let dice = Dice::new(seed);
    while !stop.is_cancelled() {
        let path = format!("/v1/subscriptions/{name}/pull");
        let pull = json!({"max": 1 + dice.roll(8), "wait": "2s"});
        let request = request("POST", &path, Some(&secret), &pull);
        let answer = call(wire.as_ref(), Role::Messages, request);
        let Ok(Some((200, body))) = tokio::time::timeout(PATIENCE, answer).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let messages = body["messages"].as_array().cloned().unwrap_or_default();
        if messages.is_empty() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let mut out = BTreeMap::new();
        for message in &messages {
            let (realm, event) = Event::from_json(&message["event"]);
            let prefill = message["phase"] == "prefill";
            let ack = message["ack"].as_str().expect("an ack id").to_owned();
            out.insert(ack, (prefill, realm.clone(), event.sequence));
            seen.lock().expect("seen").push(QueueStep::Delivered { prefill, realm, event });
        }
        settle(wire.as_ref(), &name, &secret, &dice, out, &seen).await;
    }
}

async fn settle(
    wire: &dyn Wire,
    name: &str,
    secret: &str,
    dice: &Dice,
    out: BTreeMap<String, (bool, Realm, u64)>,
    seen: &Seen<QueueStep>,
) {
    let (mut ack, mut nack, mut extend) = (Vec::new(), Vec::new(), Vec::new());
    for id in out.keys() {
        match dice.roll(12) {
            0 => {}
            1 => nack.push(json!({"id": id, "delay": "1s"})),
            2 => extend.push(id),
            _ => ack.push(id),
        }
    }
    let body = json!({"ack": ack, "nack": nack, "extend": extend});
    let path = format!("/v1/subscriptions/{name}/acks");
    let answer = call(wire, Role::Messages, request("POST", &path, Some(secret), &body));
    let Ok(Some((_, answer))) = tokio::time::timeout(PATIENCE, answer).await else { return };
    for result in answer["results"].as_array().into_iter().flatten() {
        let id = result["id"].as_str().unwrap_or_default();
        let was_ack = ack.iter().any(|acked| acked.as_str() == id);
        if was_ack
            && result["status"] == "done"
            && let Some((prefill, realm, sequence)) = out.get(id)
        {
            let (prefill, realm, sequence) = (*prefill, realm.clone(), *sequence);
            seen.lock().expect("seen").push(QueueStep::Acked { prefill, realm, sequence });
        }
    }
}
