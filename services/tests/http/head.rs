//! HEAD: the headers of a GET, at once, and nothing else happens.

use axum::body::Body;
use serde_json::json;

use crate::support::{World, to};

const SECRET: &str = "a-secret-of-at-least-32-characters";

#[tokio::test(start_paused = true)]
async fn head_ends_at_once_on_every_route_that_takes_get_and_changes_nothing() {
    let world = World::whole().await;
    let body = json!({"name": "people", "topics": ["orders.*"], "secret": SECRET});
    assert_eq!(world.call("POST", "/v1/subscriptions", None, &body).await.status, 201);
    let head = |path: &str| {
        let request = to("HEAD", path).header("authorization", format!("Bearer {SECRET}"));
        request.body(Body::empty()).unwrap()
    };
    for (path, media_type) in [
        ("/livez", "application/json"),
        ("/readyz", "application/json"),
        ("/v1/subscriptions", "application/json"),
        ("/v1/subscriptions/people", "application/json"),
        ("/v1/subscriptions/people/events", "text/event-stream"),
    ] {
        let before = world.call("GET", "/v1/subscriptions/people", None, &json!(null)).await.json;
        for _ in 0..3 {
            let answer = world.send(head(path)).await;
            assert_eq!((answer.status, answer.bytes), (200, 0), "{path}");
            let said = answer.headers["content-type"].to_str().unwrap();
            assert!(said.starts_with(media_type), "{path}: {said}");
        }
        let after = world.call("GET", "/v1/subscriptions/people", None, &json!(null)).await.json;
        assert_eq!(after, before, "{path}");
    }
    for path in ["pull", "acks", "tickets", "prefill"] {
        let answer = world.send(head(&format!("/v1/subscriptions/people/{path}"))).await;
        assert_eq!((answer.status, answer.bytes), (405, 0), "{path}");
        assert_eq!(answer.headers["allow"], "POST");
    }
}
