//! The order service: takes orders, at once, whatever the external service does.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Site;
use super::http::now_ms;
use super::order::{NewOrder, Status};
use super::settings::ORDER_PORT;
use super::store::{Store, Taken, wait_out};
use crate::flow::Failure;
use crate::http::Problem;

/// An answer about one order begins within this, so that the gateway's can in two seconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(1400);
/// A listing or clearing may take longer.
const LIST_WITHIN: Duration = Duration::from_secs(30);
/// How many orders one answer lists.
const MOST_LISTED: usize = 10_000;

/// Queues what an earlier run had kept and not queued, and serves until the shutdown.
pub(super) async fn run(site: Site) -> Result<(), Failure> {
    let port = site.settings.order_port;
    let server = site.serve_at("orders", port, &ORDER_PORT).await?;
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
    server.serve(router, site.shutdown).await
}

/// An order is kept first and queued then. Where a crash fell between the two, this queues it; where
/// not, the second job is recognised by its id, or finds its order decided.
async fn queue_again(store: &Store) -> bus::Result<()> {
    let (orders, _) = store.list(usize::MAX).await?;
    for (order, revision) in &orders {
        if order.status == Status::Processing && !order.parked {
            store.queue(&order.order, *revision).await?;
        }
    }
    Ok(())
}

type Answer = Result<Json<Value>, Problem>;

async fn create_order(State(store): State<Store>, body: Bytes) -> Answer {
    let order = NewOrder::parse(&body).map_err(Problem::invalid)?;
    let id = &order.order_id;
    match within(ANSWER_WITHIN, store.take(&order)).await? {
        Taken::New => Ok(placed(id, Status::Processing, false)),
        Taken::Known(known) => Ok(placed(id, known.status, true)),
        Taken::Other => {
            let detail = format!("order {id} is another order: give a new order an id of its own");
            Err(Problem::new(StatusCode::CONFLICT, "conflict", detail))
        }
    }
}

fn placed(id: &str, status: Status, duplicate: bool) -> Json<Value> {
    let mut answer =
        json!({ "message": "Order placed successfully!", "order_id": id, "status": status });
    if duplicate {
        answer["duplicate"] = Value::Bool(true);
    }
    Json(answer)
}

async fn get_orders(State(store): State<Store>) -> Answer {
    let (orders, more) = within(LIST_WITHIN, store.list(MOST_LISTED)).await?;
    let orders: Vec<_> = orders.into_iter().map(|(order, _)| order).collect();
    Ok(Json(json!({ "orders": orders, "more": more })))
}

async fn clear_orders(State(store): State<Store>) -> Answer {
    let removed = within(LIST_WITHIN, store.clear()).await?;
    Ok(Json(json!({ "message": "Orders cleared", "removed": removed })))
}

/// Ready when orders can be kept.
async fn health(State(store): State<Store>) -> Answer {
    within(ANSWER_WITHIN, store.get("health")).await?;
    Ok(Json(json!({ "service": "order_service", "status": 200, "timestamp": now_ms() })))
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = bus::Result<T>>,
) -> Result<T, Problem> {
    let why = match tokio::time::timeout(limit, work).await {
        Ok(Ok(done)) => return Ok(done),
        Ok(Err(why)) => why.to_string(),
        Err(_) => format!("no answer within {limit:?}"),
    };
    tracing::debug!(why, "the bus did not do it");
    let detail = "the bus is away, and nothing is promised: send the order again, with its id";
    Err(Problem::unavailable(detail))
}
