//! The embedded bus in a folder: a server that was killed goes on where it was.

use serde_json::{Value, json};

use crate::support::{LIMIT, Lockgate, command};

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";

async fn publish(lockgate: &Lockgate, id: &str) {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": "dir.user", "subject": id,
        "data": id,
    });
    let request = lockgate.client.post(format!("{}/v1/events", lockgate.url));
    let request = request.header("content-type", "application/cloudevents+json");
    let answer = request.body(event.to_string()).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 202, "{id}");
}

/// The ids that a subscription is served from the beginning.
async fn served(lockgate: &Lockgate, last: &str) -> String {
    let url = format!("{}/v1/subscriptions/people/events", lockgate.url);
    let mut answer = lockgate.client.get(url).bearer_auth(SECRET).send().await.expect("a stream");
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(&format!("\"{last}\"")) {
            let chunk = answer.chunk().await.expect("unbroken").expect("the stream goes on");
            seen.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    };
    let read = tokio::time::timeout(LIMIT, reading).await;
    assert!(read.is_ok(), "{last} did not come: {seen}");
    seen
}

#[tokio::test]
async fn a_server_that_was_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = format!("embedded://{}", folder.path().display());
    let mut lockgate = Lockgate::start(&bus).await;
    publish(&lockgate, "before").await;
    let body = json!({"name": "people", "topics": ["dir.*"], "prefill": true, "secret": SECRET});
    assert_eq!(lockgate.post("/v1/subscriptions", "", &body).await.0, 201);
    publish(&lockgate, "live").await;
    served(&lockgate, "live").await;

    let second = command(&["--bus", &bus, "--listen", "127.0.0.1:0"]).status().await;
    assert_eq!(second.expect("it runs").code(), Some(3), "the folder is in use");

    lockgate.child.kill().await.expect("SIGKILL");
    let lockgate = Lockgate::start(&bus).await;
    assert_eq!(lockgate.post("/v1/subscriptions", "", &body).await.0, 200, "it is registered");
    publish(&lockgate, "after").await;
    let seen = served(&lockgate, "after").await;
    let position = |id: &str| seen.find(&format!("\"{id}\"")).unwrap_or(usize::MAX);
    assert!(
        position("before") < position("live") && position("live") < position("after"),
        "{seen}"
    );
    let (status, list): (u16, Value) = lockgate.get("/v1/subscriptions").await;
    assert_eq!(status, 200, "{list}");
}
