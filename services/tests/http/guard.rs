//! Host, origin, unknown paths, panics and the bound on requests.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use lockgate::http::{Access, Guard, Health, app};
use lockgate::platform::Platform;
use lockgate::store::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

use crate::support::{ADMIN, World, send, to};

const APP: &str = "https://app.example.org";

async fn with_routes(routes: Router, guard: Guard) -> Router {
    let bus = bus::Bus::connect("embedded:").await.unwrap();
    let store = Store::open(Platform::new(bus), StoreOptions::default()).await.unwrap();
    app(routes, guard, Health::new(store, CancellationToken::new()))
}

fn from(host: Option<&str>, origin: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().uri("/hello");
    if let Some(host) = host {
        request = request.header("host", host);
    }
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    request.body(Body::empty()).unwrap()
}

async fn hello(guard: Guard) -> Router {
    with_routes(Router::new().route("/hello", get(async || "hello")), guard).await
}

#[tokio::test(start_paused = true)]
async fn without_tokens_only_loopback_names_are_answered_for() {
    let app = hello(Guard::new(true, &["Laptop.local".into()], &[])).await;
    for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "laptop.local"] {
        assert_eq!(send(&app, from(Some(host), None)).await.status, 200, "{host}");
    }
    for host in [Some("evil.example"), Some("localhost.evil.example"), Some(""), None] {
        send(&app, from(host, None)).await.is_problem(421, "host-refused");
    }
    let absolute = Request::builder().uri("http://evil.example/hello").header("host", "localhost");
    let absolute = send(&app, absolute.body(Body::empty()).unwrap()).await;
    absolute.is_problem(421, "host-refused");
}

#[tokio::test(start_paused = true)]
async fn with_tokens_every_host_is_answered_for_unless_some_are_named() {
    let every = hello(Guard::new(false, &[], &[])).await;
    assert_eq!(send(&every, from(Some("any.example"), None)).await.status, 200);
    let named = hello(Guard::new(false, &["api.example".into()], &[])).await;
    assert_eq!(send(&named, from(Some("api.example:443"), None)).await.status, 200);
    send(&named, from(Some("localhost"), None)).await.is_problem(421, "host-refused");
}

#[tokio::test(start_paused = true)]
async fn an_origin_must_be_the_host_or_allowed() {
    let app = hello(Guard::new(true, &[], &[format!("{APP}/")])).await;
    let host = Some("localhost:8080");
    let same = send(&app, from(host, Some("http://localhost:8080"))).await;
    assert_eq!(same.status, 200);
    assert!(!same.headers.contains_key("access-control-allow-origin"));
    let allowed = send(&app, from(host, Some(APP))).await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], APP);
    assert_eq!(allowed.headers["vary"], "origin");
    for origin in ["http://localhost:3000", "https://evil.example", "null", ""] {
        let answer = send(&app, from(host, Some(origin))).await;
        answer.is_problem(403, "origin-refused");
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_preflight_is_answered_for_allowed_origins_and_problems_can_be_read() {
    let access = Access::new(&[ADMIN.into()], &[]).unwrap();
    let world = World::with(access, StoreOptions::default(), 1).await;
    let preflight = |origin: &str| {
        let request = to("OPTIONS", "/v1/events").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let headers = "authorization, content-type, ce-id";
        request.header("access-control-request-headers", headers).body(Body::empty()).unwrap()
    };
    let answer = world.send(preflight(APP)).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.headers["access-control-allow-origin"], APP);
    assert!(answer.headers["access-control-allow-methods"].to_str().unwrap().contains("POST"));
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("ce-id") && allowed.contains("authorization"));
    world.send(preflight("https://evil.example")).await.is_problem(403, "origin-refused");
    let post = to("POST", "/v1/events").header("origin", APP).body(Body::empty()).unwrap();
    let refused = world.send(post).await;
    refused.is_problem(401, "unauthorized");
    assert_eq!(refused.headers["access-control-allow-origin"], APP);
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::open().await;
    let request = |method, path| to(method, path).body(Body::empty()).unwrap();
    world.send(request("GET", "/v1/nothing")).await.is_problem(404, "unknown-path");
    world.send(request("GET", "/")).await.is_problem(404, "unknown-path");
    let method = world.send(request("GET", "/v1/events")).await;
    method.is_problem(405, "method-not-allowed");
    assert_eq!(method.headers["allow"], "POST");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_problem_and_the_next_request_is_served() {
    async fn bug() -> &'static str {
        panic!("on purpose")
    }
    let routes = Router::new().route("/bug", get(bug)).route("/hello", get(async || "hello"));
    let app = with_routes(routes, Guard::new(true, &[], &[])).await;
    let request = to("GET", "/bug").body(Body::empty()).unwrap();
    send(&app, request).await.is_problem(500, "internal");
    assert_eq!(send(&app, from(Some("localhost"), None)).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_the_bound_are_turned_away_and_places_come_back() {
    let routes = Router::new()
        .route("/wait", get(std::future::pending::<()>))
        .route("/hello", get(async || "hello"));
    let app = with_routes(routes, Guard::new(true, &[], &[])).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..4096 {
        let (app, request) = (app.clone(), to("GET", "/wait").body(Body::empty()).unwrap());
        waiting.spawn(async move { send(&app, request).await.status });
    }
    // On a paused clock a sleep ends when every other task waits.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    send(&app, from(Some("localhost"), None)).await.is_problem(503, "busy");
    let live = to("GET", "/livez").body(Body::empty()).unwrap();
    assert_eq!(send(&app, live).await.status, 200);
    waiting.shutdown().await;
    assert_eq!(send(&app, from(Some("localhost"), None)).await.status, 200);
}
