//! What is done to the server.

use std::fmt;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::server::Lockgate;

/// Events in one request, and requests at once.
const BATCH: usize = 1000;
const BATCHES_AT_ONCE: usize = 4;
/// Registrations at once.
const AT_ONCE: usize = 16;
/// The part of the registrations whose speed is told apart.
const PART: usize = 500;
const LISTS: usize = 20;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) subscriptions: usize,
    pub(crate) keys: usize,
    pub(crate) idle: Duration,
}

impl Sizes {
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str, default: usize| match std::env::var(name) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
            Err(_) => default,
        };
        Self {
            subscriptions: number("SCALE_SUBSCRIPTIONS", 10_000),
            keys: number("SCALE_KEYS", 200_000),
            idle: Duration::from_secs(number("SCALE_IDLE_SECONDS", 20) as u64),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscriptions, keys, idle } = self;
        write!(f, "{subscriptions} subscriptions, {keys} keys, idle for {} s", idle.as_secs())
    }
}

/// Registrations a second.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rates {
    /// Over all of them.
    pub(crate) all: f64,
    /// Over the first and the last part.
    pub(crate) first: f64,
    pub(crate) last: f64,
}

/// Publishes one event of each key; events a second.
pub(crate) async fn publish(lockgate: &Lockgate, keys: usize) -> f64 {
    let started = Instant::now();
    let batches =
        (0..keys).step_by(BATCH).map(|from| publish_batch(lockgate, from..keys.min(from + BATCH)));
    stream::iter(batches).buffer_unordered(BATCHES_AT_ONCE).for_each(std::future::ready).await;
    per_second(keys, started)
}

async fn publish_batch(lockgate: &Lockgate, keys: std::ops::Range<usize>) {
    let event = |key: usize| {
        json!({
            "specversion": "1.0", "id": format!("e{key}"), "source": "/scale",
            "type": "scale.item", "subject": format!("key-{key}"), "data": {"value": key},
        })
    };
    let batch: Vec<Value> = keys.map(event).collect();
    let request = lockgate.client.post(format!("{}/v1/events", lockgate.url));
    let request = request.header("content-type", "application/cloudevents-batch+json");
    let answer = request.body(Value::from(batch).to_string()).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
}

/// Registers subscriptions that read everything from now on.
pub(crate) async fn register(lockgate: &Lockgate, prefix: &str, count: usize) -> Rates {
    let started = Instant::now();
    let registrations = (0..count).map(|n| register_one(lockgate, format!("{prefix}-{n:06}")));
    let mut registrations = stream::iter(registrations).buffer_unordered(AT_ONCE);
    let mut done = Vec::with_capacity(count);
    while let Some(at) = registrations.next().await {
        done.push(at);
    }
    let part = PART.min(count).max(1);
    let between = |from: Instant, to: Option<&Instant>| {
        let took = to.map_or(Duration::ZERO, |to| to.duration_since(from));
        part as f64 / took.as_secs_f64().max(f64::EPSILON)
    };
    let before_last = count.checked_sub(part + 1).and_then(|at| done.get(at)).copied();
    Rates {
        all: per_second(count, started),
        first: between(started, done.get(part - 1)),
        last: between(before_last.unwrap_or(started), done.last()),
    }
}

async fn register_one(lockgate: &Lockgate, name: String) -> Instant {
    let body = json!({"name": name, "topics": ["scale.*"], "prefill": false});
    let request = lockgate.client.post(format!("{}/v1/subscriptions", lockgate.url)).json(&body);
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    assert_eq!(status, 201, "{}", answer.text().await.unwrap_or_default());
    Instant::now()
}

/// How long each of some pages of 100 took, from the first on.
pub(crate) async fn list(lockgate: &Lockgate) -> Vec<Duration> {
    let (mut took, mut token) = (Vec::new(), None::<String>);
    for _ in 0..LISTS {
        let query = token.map(|token| format!("&page_token={token}")).unwrap_or_default();
        let url = format!("{}/v1/subscriptions?page_size=100{query}", lockgate.url);
        let started = Instant::now();
        let page: Value =
            lockgate.client.get(url).send().await.expect("an answer").json().await.expect("a page");
        took.push(started.elapsed());
        assert!(page["subscriptions"].is_array(), "{page}");
        token = page["next_page_token"].as_str().map(str::to_owned);
    }
    took
}

fn per_second(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64().max(f64::EPSILON)
}
