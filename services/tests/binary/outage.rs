//! A broker that goes away and comes back under a running process.

use bus::testkit::NatsServer;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::support::{LIMIT, Lockgate};

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": "dir.user", "subject": id,
        "data": id,
    })
}

async fn publish(lockgate: &Lockgate, id: &str) -> u16 {
    let request = lockgate
        .client
        .post(format!("{}/v1/events", lockgate.url))
        .header("content-type", "application/cloudevents+json")
        .body(event(id).to_string());
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            if status == 503 {
                assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
            }
            status
        }
        Err(_) => 0,
    }
}

#[tokio::test]
async fn a_broker_that_is_away_is_503_and_everything_goes_on_when_it_is_back() {
    let mut server = NatsServer::start().await.expect("a NATS server");
    let lockgate = Lockgate::start(&server.url()).await;
    assert_eq!(publish(&lockgate, "before").await, 202);
    let body = json!({"name": "people", "topics": ["dir.*"], "prefill": true, "secret": SECRET});
    assert_eq!(lockgate.post("/v1/subscriptions", "", &body).await.0, 201);
    let url = format!("{}/v1/subscriptions/people/events", lockgate.url);
    let stream = lockgate.client.get(url).bearer_auth(SECRET).send().await.expect("a stream");
    let mut stream = stream.bytes_stream();
    let mut seen = String::new();
    let mut until = async |text: &str| {
        let read = async {
            while !seen.contains(text) {
                let chunk = stream.next().await.expect("the stream goes on").expect("unbroken");
                seen.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            }
        };
        let read = tokio::time::timeout(LIMIT, read).await;
        assert!(read.is_ok(), "{text:?} did not come");
    };
    until("event: prefill-end").await;

    server.stop().await.expect("the server stops");
    let refused = tokio::time::timeout(LIMIT, publish(&lockgate, "during")).await;
    assert_eq!(refused.expect("an answer, not silence"), 503);
    let other = json!({"name": "other", "topics": ["dir.*"]});
    let (status, problem) = lockgate.post("/v1/subscriptions", "", &other).await;
    assert_eq!((status, &problem["retryable"]), (503, &json!(true)), "{problem}");
    assert_eq!(lockgate.get("/livez").await.0, 200, "a broker that is away kills no process");
    lockgate.until("unready", async |l| l.get("/readyz").await.0 == 503).await;

    server.restart().await.expect("the server comes back");
    lockgate.until("ready again", async |l| l.get("/readyz").await.0 == 200).await;
    lockgate.until("publishing", async |l| publish(l, "after").await == 202).await;
    until("\"after\"").await;
    assert_eq!(lockgate.post("/v1/subscriptions", "", &other).await.0, 201);
}
