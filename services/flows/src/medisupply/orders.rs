//! The order service: takes orders, at once, whatever the external service does.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Site;
use super::http::{listen, now_ms, problem, serve};
use super::order::{NewOrder, Status};
use super::store::{Store, Taken, wait_out};
use crate::flow::Failure;

/// An answer about one order begins within this, so that the gateway's can in two seconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(1400);
/// A listing or clearing may take longer.
const LIST_WITHIN: Duration = Duration::from_secs(30);
/// How many orders one answer lists.
const MOST_LISTED: usize = 10_000;
const DRAIN: Duration = Duration::from_secs(5);

/// Queues what an earlier run had kept and not queued, and serves until the shutdown.
pub(super) async fn run(site: Site) -> Result<(), Failure> {
    let addr = SocketAddr::new(site.listen, site.settings.order_port);
    let listener = listen(addr, "ORDER").await?;
    let store = Store::open(&site).await?;
    let since = Instant::now();
    while let Err(error) = queue_again(&store).await {
        wait_out(error, since).await?;
    }
    let router = Router::new()
        .route("/create_order", post(create_order))
        .route("/get_orders", get(get_orders))
        .route("/clear_orders", delete(clear_orders))
        .route("/health", get(health))
        .with_state(store);
    serve(listener, router, site.shutdown, DRAIN).await;
    Ok(())
}

/// An order is kept first and queued then. Where a crash fell between the two, this queues it; where
/// not, the second job is recognised by its id, or finds its order decided.
async fn queue_again(store: &Store) -> bus::Result<()> {
    let (orders, _) = store.list(usize::MAX).await?;
    for order in orders.iter().filter(|order| order.status == Status::Processing && !order.parked) {
        store.queue(&order.order).await?;
    }
    Ok(())
}

async fn create_order(State(store): State<Store>, body: Bytes) -> Response {
    let order = match NewOrder::parse(&body) {
        Ok(order) => order,
        Err(why) => return problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", why),
    };
    let id = &order.order_id;
    match within(ANSWER_WITHIN, store.take(&order)).await {
        Ok(Taken::New) => placed(id, Status::Processing, false),
        Ok(Taken::Known(known)) => placed(id, known.status, true),
        Ok(Taken::Other(_)) => {
            let detail = format!("order {id} is another order: give a new order an id of its own");
            problem(StatusCode::CONFLICT, "conflict", detail)
        }
        Err(refused) => refused,
    }
}

fn placed(id: &str, status: Status, duplicate: bool) -> Response {
    let mut answer =
        json!({ "message": "Order placed successfully!", "order_id": id, "status": status });
    if duplicate {
        answer["duplicate"] = Value::Bool(true);
    }
    Json(answer).into_response()
}

async fn get_orders(State(store): State<Store>) -> Response {
    match within(LIST_WITHIN, store.list(MOST_LISTED)).await {
        Ok((orders, more)) => Json(json!({ "orders": orders, "more": more })).into_response(),
        Err(refused) => refused,
    }
}

async fn clear_orders(State(store): State<Store>) -> Response {
    match within(LIST_WITHIN, store.clear()).await {
        Ok(removed) => {
            Json(json!({ "message": "Orders cleared", "removed": removed })).into_response()
        }
        Err(refused) => refused,
    }
}

/// Ready when orders can be kept.
async fn health(State(store): State<Store>) -> Response {
    match within(ANSWER_WITHIN, store.get("health")).await {
        Ok(_) => Json(json!({
            "service": "order_service", "status": 200, "timestamp": now_ms(),
        }))
        .into_response(),
        Err(refused) => refused,
    }
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = bus::Result<T>>,
) -> Result<T, Response> {
    let why = match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(why)) => why.to_string(),
        Err(_) => format!("no answer within {limit:?}"),
    };
    tracing::debug!(why, "the bus did not do it");
    let detail = "the bus is away, and nothing is promised: send the order again, with its id";
    Err(problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail))
}
