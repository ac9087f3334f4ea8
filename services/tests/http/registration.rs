//! `/v1/subscriptions`: registering, repeating, listing, deleting, and what is refused.

use axum::body::Body;
use bus::fault::FaultRates;
use lockgate::http::Access;
use lockgate::store::StoreOptions;
use serde_json::{Value, json};

use crate::support::{ADMIN, Answer, PUBLISH, World, to};

const PATH: &str = "/v1/subscriptions";
const OWN_SECRET: &str = "a-secret-of-at-least-32-characters";

fn people() -> Value {
    json!({"name": "people", "topics": ["directory.*"], "prefill": true})
}

async fn register(world: &World, body: &Value) -> Answer {
    world.call("POST", PATH, None, body).await
}

#[tokio::test(start_paused = true)]
async fn a_new_subscription_is_201_with_its_secret_once() {
    let world = World::open().await;
    let first = register(&world, &people()).await;
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(first.headers["location"], "/v1/subscriptions/people");
    assert!(first.headers["etag"].to_str().unwrap().starts_with('"'));
    let secret = first.json["secret"].as_str().unwrap();
    assert!(secret.starts_with("lg_") && secret.len() > 40);
    assert_eq!(first.json["prefill"]["status"], "pending");
    assert_eq!((&first.json["fence"], &first.json["generation"]), (&json!({}), &json!(1)));

    let again = register(&world, &people()).await;
    assert_eq!(again.status, 200);
    assert!(again.json.get("secret").is_none(), "shown twice: {again:?}");
    let shown = world.call("GET", "/v1/subscriptions/people", None, &Value::Null).await;
    assert!(!shown.json.to_string().contains("secret"), "{shown:?}");
    assert_eq!(shown.headers["etag"], first.headers["etag"]);
}

#[tokio::test(start_paused = true)]
async fn the_fence_is_where_the_logs_stand() {
    let world = World::open().await;
    for id in 1..=3 {
        let event = json!({
            "specversion": "1.0", "id": id.to_string(), "source": "/t", "type": "directory.user",
        });
        assert_eq!(world.post("application/cloudevents+json", event.to_string()).await.status, 202);
    }
    let answer = register(&world, &people()).await;
    assert_eq!(answer.json["fence"], json!({"directory": 3}));
}

#[tokio::test(start_paused = true)]
async fn a_client_may_bring_its_secret_and_then_a_lost_answer_costs_nothing() {
    let world = World::open().await;
    let mut body = people();
    body["secret"] = json!(OWN_SECRET);
    let first = register(&world, &body).await;
    assert_eq!(first.status, 201);
    assert!(first.json.get("secret").is_none(), "its own secret needs no showing: {first:?}");
    assert_eq!(register(&world, &body).await.status, 200);
    body["secret"] = json!("another-secret-of-at-least-32-characters");
    register(&world, &body).await.is_problem(409, "conflict");
}

#[tokio::test(start_paused = true)]
async fn a_different_subscription_of_the_name_is_409_and_says_in_what() {
    let world = World::open().await;
    register(&world, &people()).await;
    let mut other = people();
    other["topics"] = json!(["orders.*"]);
    other["prefill"] = json!(false);
    let answer = register(&world, &other).await;
    answer.is_problem(409, "conflict");
    assert_eq!(answer.json["differs"], json!(["topics", "prefill"]));
    // The same topics in other words are no difference.
    let mut same = people();
    same["topics"] = json!(["directory.user", "directory.*"]);
    assert_eq!(register(&world, &same).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_named() {
    let world = World::open().await;
    for (change, field) in [
        (json!({"name": "People!"}), "name"),
        (json!({"name": "-a"}), "name"),
        (json!({"topics": []}), "topics"),
        (json!({"topics": ["a.b", "orders"]}), "topics"),
        (json!({"topics": "a.b"}), "topics"),
        (json!({"prefill": "yes"}), "prefill"),
        (json!({"secret": "short"}), "secret"),
        (json!({"ack_wait": "soon"}), "ack_wait"),
        (json!({"ack_wait": "1ms"}), "ack_wait"),
        (json!({"colour": "red"}), "colour"),
    ] {
        let mut body = people();
        for (name, value) in change.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = register(&world, &body).await;
        answer.is_problem(422, "invalid-input").names(field);
    }
    let answer = register(&world, &json!({"name": "a", "topics": ["a.b", "orders"]})).await;
    assert!(answer.detail().contains("topics[1] is \"orders\""), "{}", answer.detail());
    let request = to("POST", PATH).header("content-type", "application/json");
    let broken = world.send(request.body(Body::from("{")).unwrap()).await;
    broken.is_problem(400, "malformed-body");
    let missing = register(&world, &json!({"name": "a"})).await;
    missing.is_problem(422, "invalid-input").names("topics");
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_that_nothing_moves() {
    let world = World::open().await;
    for name in ["a", "b", "c", "d", "e"] {
        register(&world, &json!({"name": name, "topics": ["x.y"]})).await;
    }
    let page =
        async |query: &str| world.call("GET", &format!("{PATH}{query}"), None, &Value::Null).await;
    let names = |answer: &Answer| -> Vec<String> {
        let listed = answer.json["subscriptions"].as_array().unwrap();
        listed.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = page("?page_size=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    world.call("DELETE", "/v1/subscriptions/b", None, &Value::Null).await;
    let token = first.json["next_page_token"].as_str().unwrap();
    let second = page(&format!("?page_size=2&page_token={token}")).await;
    assert_eq!(names(&second), ["c", "d"]);
    let token = second.json["next_page_token"].as_str().unwrap();
    let last = page(&format!("?page_size=2&page_token={token}")).await;
    assert_eq!((names(&last), last.json.get("next_page_token")), (vec!["e".into()], None));
    page("?page_size=0").await.is_problem(422, "invalid-input").names("page_size");
    page("?page_token=!").await.is_problem(422, "invalid-input").names("page_token");
}

#[tokio::test(start_paused = true)]
async fn the_lag_is_what_matches_in_the_log_behind_the_fence() {
    let world = World::open().await;
    let publish = async |id: u32, topic: &str| {
        let event = json!({
            "specversion": "1.0", "id": id.to_string(), "source": "/t", "type": topic,
        });
        assert_eq!(world.post("application/cloudevents+json", event.to_string()).await.status, 202);
    };
    for id in 0..5 {
        publish(id, "directory.user").await;
    }
    let registered = register(&world, &people()).await;
    assert!(registered.json.get("lag").is_none(), "it is not known yet: {registered:?}");
    register(&world, &json!({"name": "users", "topics": ["directory.user", "x.y"]})).await;
    for (id, topic) in [(5, "directory.user"), (6, "directory.group"), (7, "other.user")] {
        publish(id, topic).await;
    }
    let listed = world.call("GET", PATH, None, &Value::Null).await;
    for (at, (name, lag)) in [("people", 2), ("users", 1)].into_iter().enumerate() {
        let path = format!("{PATH}/{name}");
        let shown = world.call("GET", &path, None, &Value::Null).await;
        let queue = json!({
            "realm": "directory", "pending": lag, "unsettled": 0, "delivered_sequence": 5,
        });
        assert_eq!((&shown.json["lag"], &shown.json["queues"]), (&json!(lag), &json!([queue])));
        assert_eq!(listed.json["subscriptions"][at], shown.json);
    }
}

#[tokio::test(start_paused = true)]
async fn deleting_is_final_and_checks_the_version() {
    let world = World::open().await;
    let etag = register(&world, &people()).await.headers["etag"].clone();
    let path = "/v1/subscriptions/people";
    let stale = to("DELETE", path).header("if-match", "\"999\"").body(Body::empty()).unwrap();
    world.send(stale).await.is_problem(412, "precondition-failed");
    let right = to("DELETE", path).header("if-match", etag).body(Body::empty()).unwrap();
    assert_eq!(world.send(right).await.status, 204);
    world.call("GET", path, None, &Value::Null).await.is_problem(404, "not-found");
    world.call("DELETE", path, None, &Value::Null).await.is_problem(404, "not-found");
    assert_eq!(register(&world, &people()).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn prefilling_again_raises_the_generation() {
    let world = World::open().await;
    let first = register(&world, &people()).await;
    let path = "/v1/subscriptions/people/prefill";
    let again = world.call("POST", path, None, &Value::Null).await;
    assert_eq!((again.status, &again.json["generation"]), (202, &json!(2)), "{again:?}");
    assert_ne!(again.json["uid"], first.json["uid"]);
    let path = "/v1/subscriptions/nobody/prefill";
    world.call("POST", path, None, &Value::Null).await.is_problem(404, "not-found");
}

#[tokio::test(start_paused = true)]
async fn every_principal_may_do_its_own_and_no_more() {
    let access = Access::new(&[ADMIN.into()], &[PUBLISH.into()]).unwrap();
    let world = World::with(access, StoreOptions::default(), 1).await;
    let registered = world.call("POST", PATH, Some(ADMIN), &people()).await;
    let secret = registered.json["secret"].as_str().unwrap().to_owned();
    let other = json!({"name": "other", "topics": ["a.b"]});
    let other = world.call("POST", PATH, Some(ADMIN), &other).await;
    let other = other.json["secret"].as_str().unwrap().to_owned();

    let one = "/v1/subscriptions/people";
    let again = "/v1/subscriptions/people/prefill";
    for (method, path, body, owner) in [
        ("POST", PATH, people(), false),
        ("GET", PATH, Value::Null, false),
        ("GET", one, Value::Null, true),
        ("POST", again, Value::Null, true),
        ("DELETE", one, Value::Null, true),
    ] {
        for wrong in [None, Some("nonsense"), Some(other.as_str())] {
            let answer = world.call(method, path, wrong, &body).await;
            answer.is_problem(401, "unauthorized");
        }
        let published = world.call(method, path, Some(PUBLISH), &body).await;
        assert!([401, 403].contains(&published.status), "{method} {path}: {published:?}");
        if owner {
            let answer = world.call(method, path, Some(&secret), &body).await;
            assert!(answer.status < 300, "{method} {path}: {answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_is_503_and_registration_recovers() {
    let world = World::open().await;
    world.faults.set_rates(FaultRates { fail_before: 1000, ..FaultRates::NONE });
    register(&world, &people()).await.is_problem(503, "unavailable");
    world.faults.set_rates(FaultRates::NONE);
    assert_eq!(register(&world, &people()).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_hides_no_other_and_can_be_deleted() {
    let world = World::open().await;
    register(&world, &people()).await;
    let records = world.bus.kv("lockgate-subscriptions").await.unwrap();
    records.put("broken", "not json").await.unwrap();
    let listed = world.call("GET", PATH, None, &Value::Null).await;
    assert_eq!(listed.json["subscriptions"].as_array().unwrap().len(), 1);
    let path = "/v1/subscriptions/broken";
    world.call("GET", path, None, &Value::Null).await.is_problem(500, "internal");
    assert_eq!(world.call("DELETE", path, None, &Value::Null).await.status, 204);
    world.call("GET", path, None, &Value::Null).await.is_problem(404, "not-found");
}
