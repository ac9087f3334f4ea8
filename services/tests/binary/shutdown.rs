//! SIGTERM drains: requests at work are answered, streams end, and the process exits with 0.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Lockgate;

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";
/// What the README promises.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn sigterm_answers_what_waits_and_exits_with_0() {
    let mut lockgate = Lockgate::start("embedded:").await;
    let body = json!({"name": "people", "topics": ["a.b"], "secret": SECRET});
    assert_eq!(lockgate.post("/v1/subscriptions", "", &body).await.0, 201);
    let url = format!("{}/v1/subscriptions/people/events", lockgate.url);
    let stream = lockgate.client.get(url).bearer_auth(SECRET).send().await.expect("a stream");
    assert_eq!(stream.status(), 200);
    let streaming = tokio::spawn(stream.bytes());
    let pull = lockgate.request(
        "/v1/subscriptions/people/pull",
        SECRET,
        &json!({"max": 10, "wait": "60s"}),
    );
    let pulling = tokio::spawn(pull.send());
    // Nothing tells from outside that a pull waits: give it time to arrive.
    tokio::time::sleep(Duration::from_millis(500)).await;

    let told = Instant::now();
    lockgate.terminate().await;
    let status = tokio::time::timeout(DRAIN, lockgate.child.wait()).await;
    let status = status.expect("it ends within ten seconds").expect("it is ours to wait for");
    assert!(status.success(), "{status:?} after {:?}", told.elapsed());
    let pulled = pulling.await.expect("no panic").expect("the pull was answered");
    assert_eq!(pulled.status(), 200);
    let pulled: Value = pulled.json().await.expect("JSON");
    assert_eq!(pulled["messages"], json!([]));
    streaming.await.expect("no panic").expect("the stream ended in order");
}
