//! Ordering over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::try_join_all;
use serde::Serialize;

use super::ordering::Ordering;
use crate::http::{JsonBody, Problem};
use crate::orders::http::{PathOrder, idempotency_key};
use crate::orders::order::{NewOrder, Order, OrderId};
use crate::orders::stage::Stage;

pub(super) fn routes(ordering: Arc<Ordering>) -> Router {
    Router::new()
        .route("/orders", post(create))
        .route("/orders/{order}", get(journey))
        .with_state(ordering)
}

/// An order as its customer sees it. Who ordered is not shown: whoever knows the id may ask.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    order_id: OrderId,
    status: Stage,
    amount_cents: u64,
    payment_url: String,
    journey: Vec<ShownStep>,
    /// Stages that were claimed too early and wait for their turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<Stage>,
}

/// A stage that was entered, and when the customer was told of it.
#[derive(Serialize)]
struct ShownStep {
    stage: Stage,
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    texted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mailed: Option<String>,
}

async fn create(
    State(ordering): State<Arc<Ordering>>,
    headers: HeaderMap,
    JsonBody(new): JsonBody<NewOrder>,
) -> Result<Response, Problem> {
    let key = idempotency_key(&headers)?;
    new.check().map_err(|bad| Problem::invalid(bad.to_string()).with("field", bad.field))?;
    let (order, created) = ordering.create(key, new).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/orders/{}", order.id);
    let shown = show(&ordering, order).await?;
    Ok((status, [(header::LOCATION, location)], Json(shown)).into_response())
}

async fn journey(
    State(ordering): State<Arc<Ordering>>,
    PathOrder(id): PathOrder,
) -> Result<Json<Shown>, Problem> {
    let order = ordering.get(&id).await?;
    let order = order.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))?;
    show(&ordering, order).await.map(Json)
}

async fn show(ordering: &Ordering, order: Order) -> Result<Shown, Problem> {
    let steps = order.steps.iter().map(async |step| {
        let notice = ordering.notices.get(&order.id, step.stage).await?;
        let (texted, mailed) = notice.map(|told| (told.texted, told.mailed)).unwrap_or_default();
        Ok::<_, bus::Error>(ShownStep { stage: step.stage, at: step.at.clone(), texted, mailed })
    });
    Ok(Shown {
        journey: try_join_all(steps).await?,
        status: order.journey.stage(),
        held: order.journey.held().collect(),
        amount_cents: order.ordered.amount_cents(),
        payment_url: order.payment_url,
        order_id: order.id,
    })
}
