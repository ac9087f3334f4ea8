//! The outside world: a publisher and two kinds of consumer, which never give up.

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

/// How a queue's client dawdles: virtual time costs nothing, real time does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// For how long it gives events back.
    pub(crate) delays: [&'static str; 3],
    /// One batch in so many takes longer than its lease.
    pub(crate) long_work_one_in: u64,
}

/// Reads a subscription as a queue until `stop`: acks most, works on some for longer than a lease,
/// nacks some for longer than one, leaves some to their leases, and takes whole runs or one event
/// of a key at a time.
pub(crate) async fn read_queue(
    wire: Arc<dyn Wire>,
    name: String,
    secret: String,
    dice: (u64, Pace),
    seen: Seen<QueueStep>,
    stop: CancellationToken,
) {
    let (seed, pace) = dice;
    let reader = QueueReader { wire, name, secret, dice: Dice::new(seed), pace, seen };
    let mut answers = 0;
    while !stop.is_cancelled() {
        answers += 1;
        let out = reader.pull(answers).await;
        if out.is_empty() {
            tokio::time::sleep(PAUSE).await;
        } else {
            reader.settle(&out).await;
        }
    }
}

/// A delivery that the client has.
struct Out {
    ack: String,
    prefill: bool,
    realm: Realm,
    sequence: u64,
}

struct QueueReader {
    wire: Arc<dyn Wire>,
    name: String,
    secret: String,
    dice: Dice,
    pace: Pace,
    seen: Seen<QueueStep>,
}

impl QueueReader {
    async fn pull(&self, answer: u64) -> Vec<Out> {
        let path = format!("/v1/subscriptions/{}/pull", self.name);
        let mut pull = json!({"max": 1 + self.dice.roll(8), "wait": "2s"});
        if self.dice.roll(3) == 0 {
            pull["max_per_key"] = json!(1 + self.dice.roll(2));
        }
        let request = request("POST", &path, Some(&self.secret), &pull);
        let answered = call(self.wire.as_ref(), Role::Messages, request);
        let Ok(Some((200, body))) = tokio::time::timeout(PATIENCE, answered).await else {
            return Vec::new();
        };
        let messages = body["messages"].as_array().cloned().unwrap_or_default();
        let mut seen = self.seen.lock().expect("seen");
        let of = |step: &QueueStep| match step {
            QueueStep::Generation(of) => Some(*of),
            _ => None,
        };
        let generation = body["generation"].as_u64().expect("a generation");
        if generation != seen.iter().rev().find_map(of).unwrap_or(1) {
            seen.push(QueueStep::Generation(generation));
        }
        let mut out = Vec::new();
        for message in &messages {
            let (realm, event) = Event::from_json(&message["event"]);
            let prefill = message["phase"] == "prefill";
            let ack = message["ack"].as_str().expect("an ack id").to_owned();
            let attempt = message["attempt"].as_u64().expect("an attempt");
            let sequence = event.sequence;
            out.push(Out { ack, prefill, realm: realm.clone(), sequence });
            seen.push(QueueStep::Delivered { answer, attempt, prefill, realm, event });
        }
        out
    }

    async fn settle(&self, out: &[Out]) {
        if self.dice.roll(self.pace.long_work_one_in) == 0 {
            self.work_for_long(out).await;
        }
        let (mut ack, mut nack, mut extend) = (Vec::new(), Vec::new(), Vec::new());
        for Out { ack: id, .. } in out {
            match self.dice.roll(12) {
                0 => {}
                1 => {
                    let delay = self.pace.delays[self.dice.roll(3) as usize];
                    nack.push(json!({"id": id, "delay": delay}));
                }
                2 => extend.push(id.clone()),
                _ => ack.push(id.clone()),
            }
        }
        let asked = |id: &String| ack.contains(id);
        self.note(out, asked, |prefill, realm, sequence| QueueStep::Acking {
            prefill,
            realm,
            sequence,
        });
        let body = json!({"ack": ack, "nack": nack, "extend": extend});
        let done = self.acks(&body).await;
        self.note(
            out,
            |id| asked(id) && done.contains(id),
            |prefill, realm, sequence| QueueStep::Acked { prefill, realm, sequence },
        );
    }

    /// Extends for longer than the lease was given for: nothing of it may come meanwhile.
    async fn work_for_long(&self, out: &[Out]) {
        let ids: Vec<&String> = out.iter().map(|out| &out.ack).collect();
        for _ in 0..3 {
            self.acks(&json!({ "extend": ids })).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// The ids of which the server says that they are done.
    async fn acks(&self, body: &Value) -> Vec<String> {
        let path = format!("/v1/subscriptions/{}/acks", self.name);
        let request = request("POST", &path, Some(&self.secret), body);
        let answered = call(self.wire.as_ref(), Role::Messages, request);
        let Ok(Some((_, answer))) = tokio::time::timeout(PATIENCE, answered).await else {
            return Vec::new();
        };
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        let done = results.iter().filter(|result| result["status"] == "done");
        done.filter_map(|result| result["id"].as_str().map(str::to_owned)).collect()
    }

    fn note(
        &self,
        out: &[Out],
        which: impl Fn(&String) -> bool,
        step: impl Fn(bool, Realm, u64) -> QueueStep,
    ) {
        let mut seen = self.seen.lock().expect("seen");
        for Out { prefill, realm, sequence, .. } in out.iter().filter(|out| which(&out.ack)) {
            seen.push(step(*prefill, realm.clone(), *sequence));
        }
    }
}
