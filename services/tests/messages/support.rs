//! A small Lockgate and its clients.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bus::Bus;
use bus::fault::Faults;
use http_body_util::BodyExt;
use lockgate::http::Access;
use lockgate::messages::{self, Messages, MessagesOptions};
use lockgate::model::{CloudEvent, SubscriptionName, TopicSet};
use lockgate::platform::{Entropy, Platform};
use lockgate::registration::{self, Registration};
use lockgate::store::{Kept, Store, StoreOptions};
use lockgate::{dispatcher, prefill};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const SECRET: &str = "lg_0123456789abcdef0123456789abcdef";
/// Longer than anything that comes by itself.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn name(name: &str) -> SubscriptionName {
    SubscriptionName::new(name).unwrap()
}

pub struct World {
    pub store: Store,
    pub registration: Registration,
    background: JoinSet<Result<(), bus::Error>>,
    processes: u64,
}

/// One process with the messages role.
pub struct Process {
    pub router: Router,
    messages: Messages,
    stop: CancellationToken,
}

impl World {
    pub async fn new() -> Self {
        Self::on(Bus::connect("embedded:").await.unwrap()).await
    }

    pub async fn on(bus: Bus) -> Self {
        let platform = Platform { entropy: Entropy::seeded(1), ..Platform::new(bus) };
        let store = Store::open(platform, StoreOptions::default()).await.unwrap();
        let registration = Registration::new(store.clone());
        Self { store, registration, background: JoinSet::new(), processes: 0 }
    }

    pub async fn process(&mut self) -> Process {
        self.process_with(MessagesOptions::default()).await
    }

    pub async fn process_with(&mut self, options: MessagesOptions) -> Process {
        self.process_of(self.store.clone(), options).await
    }

    /// A process whose bus these faults disturb.
    pub async fn disturbed_process(&mut self, faults: &Faults) -> Process {
        let platform = Platform::new(faults.wrap(&self.store.platform.bus));
        let store = Store::open(platform, StoreOptions::default()).await.unwrap();
        self.process_of(store, MessagesOptions::default()).await
    }

    async fn process_of(&mut self, mut store: Store, options: MessagesOptions) -> Process {
        self.processes += 1;
        store.platform.entropy = Entropy::seeded(100 + self.processes);
        let stop = CancellationToken::new();
        let messages = Messages::start(store, options, stop.clone()).await.unwrap();
        let topics = messages::topics_router(messages.clone(), Access::open());
        Process { router: messages::router(messages.clone()).merge(topics), messages, stop }
    }

    pub async fn publish(&self, topic: &str, key: &str, data: u64) {
        let id = format!("{topic} {key} {data}");
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/t", "type": topic, "subject": key,
            "data": data,
        });
        let event = CloudEvent::from_json(event.to_string().as_bytes()).unwrap();
        let log = self.store.ensure_realm(&event.topic().realm).await.unwrap();
        log.publish(event.to_message().unwrap()).await.unwrap();
    }

    /// Ends the other roles and lets go of the bus.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub async fn end(mut self) {
        self.background.shutdown().await;
        self.store.bus().close().await.unwrap();
    }

    /// Publishes text, as often as it is asked to.
    pub async fn publish_text(&self, topic: &str, key: &str, text: &str) {
        let event = json!({
            "specversion": "1.0", "id": Entropy::system().uid().unwrap(), "source": "/t",
            "type": topic, "subject": key, "datacontenttype": "text/plain", "data": text,
        });
        let event = CloudEvent::from_json(event.to_string().as_bytes()).unwrap();
        let log = self.store.ensure_realm(&event.topic().realm).await.unwrap();
        log.publish(event.to_message().unwrap()).await.unwrap();
    }

    /// Publishes so many events of one key, not one by one.
    pub async fn publish_many(&self, topic: &str, key: &str, count: u64) {
        let topic: lockgate::model::Topic = topic.parse().unwrap();
        let log = self.store.ensure_realm(&topic.realm).await.unwrap();
        let subject = format!("events.{topic}.{key}");
        let messages =
            (1..=count).map(|data| bus::Message::new(&subject, data.to_string()).unwrap());
        assert!(log.publish_all(messages).await.iter().all(Result::is_ok));
    }

    /// Registers, and has the prefill done if there is one.
    pub async fn subscribe(&mut self, who: &str, topics: &[&str], prefill: bool) -> Kept {
        self.register(who, topics, prefill).await;
        self.finish_prefill(who).await
    }

    /// Registers only.
    pub async fn register(&self, who: &str, topics: &[&str], prefill: bool) {
        self.registration.register(request(who, topics, prefill)).await.unwrap();
    }

    /// Registers a live subscription that gives up after so many failures.
    pub async fn register_with_attempts(&self, who: &str, topics: &[&str], max_attempts: u32) {
        let request = registration::Request {
            max_attempts: Some(max_attempts),
            ..request(who, topics, false)
        };
        self.registration.register(request).await.unwrap();
    }

    /// Runs the other roles from now on, and waits until the subscription is open.
    pub async fn finish_prefill(&mut self, who: &str) -> Kept {
        if self.background.is_empty() {
            let (store, stop) = (self.store.clone(), CancellationToken::new());
            let reports = registration::run(self.registration.clone(), stop.clone());
            self.background.spawn(reports);
            self.background.spawn(prefill::run(store.clone(), stop.clone()));
            self.background.spawn(dispatcher::run(store, stop));
        }
        for _ in 0..600 {
            let kept = self.store.subscription(&name(who)).await.unwrap().unwrap();
            if kept.subscription.is_open() {
                return kept;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the prefill of {who} is not done after a minute");
    }
}

fn request(who: &str, topics: &[&str], prefill: bool) -> registration::Request {
    registration::Request {
        name: name(who),
        topics: TopicSet::parse(topics).unwrap(),
        prefill,
        secret: Some(SECRET.to_owned()),
        ack_wait: Duration::from_secs(30),
        max_attempts: None,
        dead_letters: None,
    }
}

impl Process {
    pub fn new(router: Router, messages: Messages, stop: CancellationToken) -> Self {
        Self { router, messages, stop }
    }

    /// Stops as SIGTERM does.
    pub async fn stop(self) {
        self.stop.cancel();
        self.messages.join().await;
    }

    /// Ends as kill -9 does: nothing is given back.
    pub fn crash(self) {
        drop(self);
    }

    pub fn shutdown(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        post(self.router.clone(), path.to_owned(), body).await
    }

    /// A pull that a task can hold, of one event of a key at a time.
    pub fn pull_later(
        &self,
        who: &str,
        max: u64,
        wait: &str,
    ) -> impl Future<Output = (u16, Value)> + Send + 'static {
        let path = format!("/v1/subscriptions/{who}/pull");
        post(self.router.clone(), path, json!({ "max": max, "wait": wait, "max_per_key": 1 }))
    }

    /// A pull of whole runs.
    pub async fn pull_runs(&self, who: &str, max: u64, wait: &str) -> Pulled {
        let path = format!("/v1/subscriptions/{who}/pull");
        let (status, body) = self.post(&path, json!({ "max": max, "wait": wait })).await;
        assert_eq!(status, 200, "{body}");
        Pulled(body)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let request = Request::get(path).header("authorization", format!("Bearer {SECRET}"));
        read(self.send(request.body(Body::empty()).unwrap()).await).await
    }

    pub async fn pull(&self, who: &str, max: u64, wait: &str) -> Pulled {
        let (status, body) = self.pull_later(who, max, wait).await;
        assert_eq!(status, 200, "{body}");
        Pulled(body)
    }

    /// The status of each settlement, in the order ack, nack, extend.
    pub async fn settle(&self, who: &str, body: Value) -> (u16, Vec<String>) {
        let (status, body) = self.post(&format!("/v1/subscriptions/{who}/acks"), body).await;
        let results = body["results"].as_array().unwrap_or_else(|| panic!("{body}"));
        let of = |result: &Value| result["status"].as_str().unwrap().to_owned();
        (status, results.iter().map(of).collect())
    }

    pub async fn ack(&self, who: &str, ids: &[String]) -> (u16, Vec<String>) {
        self.settle(who, json!({ "ack": ids })).await
    }

    pub async fn stream(&self, who: &str, last_id: Option<&str>) -> Stream {
        let mut request = Request::get(format!("/v1/subscriptions/{who}/events"))
            .header("authorization", format!("Bearer {SECRET}"));
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = self.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Stream::new(response)
    }

    /// Deliveries of the queue as an event stream.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub async fn queue_stream(&self, who: &str, query: &str) -> Stream {
        self.stream_of(&format!("/v1/subscriptions/{who}/events?mode=queue{query}")).await
    }

    /// A stream that begins somewhere.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub async fn stream_from(&self, who: &str, from: &str) -> Stream {
        let from = from.replace('+', "%2B");
        self.stream_of(&format!("/v1/subscriptions/{who}/events?from={from}")).await
    }

    #[allow(dead_code, reason = "not every test that shares this needs it")]
    async fn stream_of(&self, path: &str) -> Stream {
        let request = Request::get(path).header("authorization", format!("Bearer {SECRET}"));
        let response = self.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Stream::new(response)
    }
}

async fn post(router: Router, path: String, body: Value) -> (u16, Value) {
    let request = Request::post(path)
        .header("authorization", format!("Bearer {SECRET}"))
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let response = router.oneshot(request).await.unwrap();
    read(response).await
}

pub async fn read(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The answer to a pull.
pub struct Pulled(pub Value);

impl Pulled {
    fn messages(&self) -> &Vec<Value> {
        self.0["messages"].as_array().unwrap()
    }

    pub fn ids(&self) -> Vec<String> {
        self.messages().iter().map(|m| m["ack"].as_str().unwrap().to_owned()).collect()
    }

    /// `key=data` of each, with `#attempt` where it is not the first.
    pub fn shown(&self) -> Vec<String> {
        let show = |message: &Value| {
            let again = match message["attempt"].as_u64().unwrap() {
                1 => String::new(),
                attempt => format!("#{attempt}"),
            };
            format!("{}{again}", show(&message["event"]))
        };
        self.messages().iter().map(show).collect()
    }

    pub fn phase(&self) -> &str {
        self.0["phase"].as_str().unwrap()
    }
}

/// `key=data`.
pub fn show(event: &Value) -> String {
    format!("{}={}", event["subject"].as_str().unwrap(), event["data"])
}

/// An open event stream.
pub struct Stream {
    pub response: Response<()>,
    body: Body,
    text: String,
    frames: VecDeque<String>,
    /// The last id received.
    pub id: String,
    pub heartbeats: usize,
}

/// An event of a stream.
#[derive(Debug)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

impl Stream {
    pub fn new(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            response: Response::from_parts(parts, ()),
            body,
            text: String::new(),
            frames: VecDeque::new(),
            id: String::new(),
            heartbeats: 0,
        }
    }

    /// The next event within two virtual minutes; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let frame = match self.frames.pop_front() {
                Some(frame) => frame,
                None => {
                    self.more().await?;
                    continue;
                }
            };
            if let Some(event) = self.take(&frame) {
                return Some(event);
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        let next = tokio::time::timeout(PATIENCE, self.body.frame()).await;
        let data = next.expect("nothing for two minutes")?.unwrap().into_data().unwrap();
        self.text.push_str(std::str::from_utf8(&data).unwrap());
        while let Some(end) = self.text.find("\n\n") {
            let frame: String = self.text.drain(..end + 2).collect();
            self.frames.push_back(frame);
        }
        Some(())
    }

    fn take(&mut self, frame: &str) -> Option<Event> {
        let (mut name, mut data) = (None, String::new());
        for line in frame.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => self.id = id.to_owned(),
                Some(("event", event)) => name = Some(event.to_owned()),
                Some(("data", part)) => data.push_str(part),
                Some(("retry", _)) => {}
                _ if line == ":" => self.heartbeats += 1,
                _ => assert_eq!(line, "", "in {frame:?}"),
            }
        }
        let data = || serde_json::from_str(&data).unwrap();
        name.map(|name| Event { name, data: data() })
    }

    /// The next `count` events: `key=data` for a message, else the name.
    pub async fn take_shown(&mut self, count: usize) -> Vec<String> {
        let mut shown = Vec::new();
        for _ in 0..count {
            let event = self.next().await.expect("the stream has ended");
            let is_message = event.name == "message";
            shown.push(if is_message { show(&event.data) } else { event.name });
        }
        shown
    }

    /// Waits for an event of this name, for half a minute at most.
    pub async fn until(&mut self, name: &str) {
        let comes = async { while self.take_shown(1).await[0] != name {} };
        let within = tokio::time::timeout(Duration::from_secs(30), comes).await;
        assert!(within.is_ok(), "no {name} has come");
    }

    /// What has come within `time`, as far as it makes events.
    pub async fn within(&mut self, time: Duration) -> Vec<String> {
        let (mut shown, until) = (Vec::new(), tokio::time::Instant::now() + time);
        while let Ok(Some(event)) = tokio::time::timeout_at(until, self.next()).await {
            let is_message = event.name == "message";
            shown.push(if is_message { show(&event.data) } else { event.name });
        }
        shown
    }
}
