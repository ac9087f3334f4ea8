//! What a process counts, as it is scraped.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use bus::Bus;
use lockgate::http::{Access, Guard, Health, app};
use lockgate::platform::Platform;
use lockgate::roles::{Role, Roles};
use lockgate::store::{Store, StoreOptions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::support::{ADMIN, PUBLISH, send, text};

/// Every role on the embedded bus.
async fn every_role(access: Access, stop: &CancellationToken) -> (axum::Router, Roles) {
    let bus = Bus::connect("embedded:").await.unwrap();
    let store = Store::open(Platform::new(bus), StoreOptions::default()).await.unwrap();
    let roles = Roles::start(&store, &Role::ALL, &access, stop).await.unwrap();
    let health = Health::new(store, stop.clone());
    (app(roles.router(), Guard::new(access.is_open(), &[], &[]), health), roles)
}

fn request(method: &str, path: &str, token: Option<&str>, body: &Value) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let kind = match path {
        "/v1/events" => "application/cloudevents+json",
        _ => "application/json",
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request.header(header::CONTENT_TYPE, kind).body(Body::from(body)).unwrap()
}

/// The value of a series, or 0 where there is none yet.
fn value(page: &str, series: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn events_deliveries_acks_and_lag_are_counted() {
    let stop = CancellationToken::new();
    let (app, roles) = every_role(Access::open(), &stop).await;
    let page = || async { text(&app, request("GET", "/metrics", None, &Value::Null)).await };
    // The first scrape says that figures are wanted.
    assert!(page().await.ends_with("# EOF\n"));
    for id in ["1", "2", "2", "3"] {
        let event = json!({"specversion": "1.0", "id": id, "source": "/s", "type": "orders.new",
                           "subject": format!("key {id}"), "data": 1});
        assert_eq!(send(&app, request("POST", "/v1/events", None, &event)).await.status, 202);
    }
    let secret = "a secret of thirty-two characters!";
    let body = json!({"name": "s", "topics": ["orders.*"], "prefill": true,
                      "secret": secret.replace(' ', "-"), "max_attempts": 2});
    assert_eq!(send(&app, request("POST", "/v1/subscriptions", None, &body)).await.status, 201);
    let secret = secret.replace(' ', "-");
    let pull = |max: u32| {
        let body = json!({"max": max, "wait": "30s"});
        send(&app, request("POST", "/v1/subscriptions/s/pull", Some(&secret), &body))
    };
    let acks =
        |body: Value| send(&app, request("POST", "/v1/subscriptions/s/acks", Some(&secret), &body));
    // Three rows of the prefill, of which one is given back, and is given up then.
    let rows = pull(10).await.json;
    let id = |at: usize| rows["messages"][at]["ack"].as_str().unwrap().to_owned();
    acks(json!({"ack": [id(0), id(1)], "nack": [{"id": id(2)}]})).await;
    let again = pull(10).await.json;
    let id = again["messages"][0]["ack"].as_str().unwrap();
    assert_eq!(again["messages"][0]["attempt"], 2);
    acks(json!({"nack": [{"id": id, "reason": "no"}, {"id": "nonsense"}]})).await;
    let event = json!({"specversion": "1.0", "id": "9", "source": "/s", "type": "orders.new"});
    assert_eq!(send(&app, request("POST", "/v1/events", None, &event)).await.status, 202);
    // Figures of queues are measured in the background.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let page = page().await;
    for (series, expected) in [
        ("lockgate_events_published_total{realm=\"orders\"}", 4.0),
        ("lockgate_events_duplicate_total{realm=\"orders\"}", 1.0),
        ("lockgate_prefill_rows_total", 3.0),
        ("lockgate_prefills_total{outcome=\"done\"}", 1.0),
        ("lockgate_prefill_duration_seconds_count", 1.0),
        ("lockgate_deliveries_total{mode=\"queue\"}", 4.0),
        ("lockgate_redeliveries_total", 1.0),
        ("lockgate_acks_total{outcome=\"done\"}", 4.0),
        ("lockgate_acks_total{outcome=\"unknown\"}", 1.0),
        ("lockgate_dead_letters_total{reason=\"attempts-exhausted\"}", 1.0),
        ("lockgate_subscription_lag_events{subscription=\"s\"}", 1.0),
        ("lockgate_queue_sessions", 1.0),
        ("lockgate_http_requests_total{route=\"/v1/events\",method=\"POST\",status=\"202\"}", 5.0),
    ] {
        assert_eq!(value(&page, series), expected, "{series} in\n{page}");
    }
    assert!(
        value(&page, "lockgate_subscription_oldest_unacked_seconds{subscription=\"s\"}") > 10.0
    );
    assert!(value(&page, "bus_published_total{stream=\"events-orders\"}") > 0.0, "{page}");
    // A route is a series, whatever names are asked for.
    for name in ["a", "b"] {
        send(&app, request("GET", &format!("/v1/subscriptions/{name}"), None, &Value::Null)).await;
    }
    let path = "route=\"/v1/subscriptions/{name}\",method=\"GET\",status=\"404\"";
    let page = text(&app, request("GET", "/metrics", None, &Value::Null)).await;
    assert_eq!(value(&page, &format!("lockgate_http_requests_total{{{path}}}")), 2.0, "{page}");
    stop.cancel();
    roles.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_numbers_take_an_admin_token_where_there_are_tokens() {
    let stop = CancellationToken::new();
    let access = Access::new(&[ADMIN.into()], &[PUBLISH.into()]).unwrap();
    let (app, roles) = every_role(access, &stop).await;
    for (token, status) in [(None, 401), (Some(PUBLISH), 403), (Some(ADMIN), 200)] {
        let answer = send(&app, request("GET", "/metrics", token, &Value::Null)).await;
        assert_eq!(answer.status, status, "{token:?}");
    }
    stop.cancel();
    roles.join().await.unwrap();
}
