//! The gateway: the one door for clients. It keeps nothing; what it takes longer than two seconds
//! for it refuses.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use lockgate_resilience::{
    BoxError, Bulkhead, BulkheadFull, Deadline, DeadlinePassed, Retry, RetryBudget, RetryConfig,
};
use reqwest::Method;
use serde_json::{Value, json};
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::Site;
use super::http::{client, read_json};
use super::settings::GATEWAY_PORT;
use crate::flow::Failure;
use crate::http::Problem;

/// A client has its answer within two seconds, come what may.
const DEADLINE: Duration = Duration::from_millis(1800);
const ATTEMPT: Duration = Duration::from_millis(1500);
const AT_ONCE: usize = 512;
/// Ten thousand orders are about a fifth of it.
const MAX_ANSWER: usize = 8 << 20;

type Forward = BoxCloneSyncService<(Method, String, Bytes), (StatusCode, Value), BoxError>;

/// Serves until the shutdown.
pub(super) async fn run(site: Site) -> Result<(), Failure> {
    let server = site.serve_at("gateway", site.settings.gateway_port, &GATEWAY_PORT).await?;
    let Site { shutdown, settings, .. } = site;
    let door = Door { forward: forward(client()?)?, orders: settings.url(settings.order_port, "") };
    let router = Router::new()
        .route("/create_order", post(create_order))
        .route("/get_orders", get(get_orders))
        .route("/health", get(health))
        .with_state(door);
    server.serve(router, shutdown).await
}

#[derive(Clone)]
struct Door {
    forward: Forward,
    orders: String,
}

/// A request to the order service may be repeated: an order id is one order.
fn forward(client: reqwest::Client) -> Result<Forward, Failure> {
    let pauses = RetryConfig { pause: Duration::from_millis(50), ..RetryConfig::default() };
    let service = ServiceBuilder::new()
        .layer(Deadline::new(DEADLINE))
        .layer(Bulkhead::new(AT_ONCE, Duration::from_millis(500)))
        .layer(Retry::layer(pauses, Some(RetryBudget::new(0.1, 20)), |_: &BoxError| true)?)
        .layer(TimeoutLayer::new(ATTEMPT))
        .service(service_fn(move |(method, url, body): (Method, String, Bytes)| {
            let asked = client.request(method, url).header("content-type", "application/json");
            async move {
                let answer = asked.body(body).send().await?;
                let status = answer.status();
                Ok::<_, BoxError>((status, read_json(answer, MAX_ANSWER).await?))
            }
        }));
    Ok(BoxCloneSyncService::new(service))
}

async fn create_order(State(door): State<Door>, body: Bytes) -> Response {
    door.pass(Method::POST, "/create_order", body).await
}

async fn get_orders(State(door): State<Door>) -> Response {
    door.pass(Method::GET, "/get_orders", Bytes::new()).await
}

async fn health() -> Json<Value> {
    Json(json!({ "service": "api_gateway", "status": "healthy" }))
}

impl Door {
    async fn pass(self, method: Method, path: &str, body: Bytes) -> Response {
        let url = format!("{}{path}", self.orders);
        match self.forward.oneshot((method, url, body)).await {
            Ok((status, answer)) => (status, Json(answer)).into_response(),
            Err(why) => refused(&why).into_response(),
        }
    }
}

fn refused(why: &BoxError) -> Problem {
    tracing::debug!(%why, "the order service gave no answer");
    let late = why.is::<DeadlinePassed>() || why.is::<tower::timeout::error::Elapsed>();
    let (status, slug, detail) = if why.is::<BulkheadFull>() {
        (StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests are at work: send it again")
    } else if late {
        let detail = "the order service gave no answer in time: send the order again, with its id";
        (StatusCode::GATEWAY_TIMEOUT, "timeout", detail)
    } else {
        let detail = "the order service cannot be reached: send the order again, with its id";
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    };
    Problem::new(status, slug, detail)
}
