//! Delivery: takes paid orders over, and passes on what its couriers report over HTTP.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use axum::{Json, Router};
use bus::{HandlerError, Outcome};
use serde::{Deserialize, Serialize};

use super::Setup;
use crate::flow::Failure;
use crate::http::{Problem, Server};
use crate::orders::crew::Crew;
use crate::orders::desk::{Desk, Sweep};
use crate::orders::event::{Event, Facts, now};
use crate::orders::follow::follow;
use crate::orders::order::{OrderId, Step};
use crate::orders::settings::DELIVERY_PORT;
use crate::orders::stage::Stage;
use crate::orders::topic::Topic;
use crate::orders::topology::{Bucket, Topics};

const SYSTEM: &str = "delivery";

/// An order that delivery has taken over. Persisted: keep the JSON stable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parcel {
    order_id: OrderId,
    /// What was reported, in the order in which it was.
    reported: Vec<Step>,
}

/// Runs delivery. Any number of processes may run it at once.
pub async fn delivery(setup: Setup) -> Result<(), Failure> {
    let Setup { context, settings, .. } = &setup;
    let (ip, port) = (context.listen, settings.delivery_port);
    let server = Server::bind(ip, port, &DELIVERY_PORT).await?;
    let topics = Topics::open(&context.bus).await?;
    let parcels = Desk::new(Bucket::Deliveries.open(&context.state).await?, topics);
    let mut crew = Crew::new(&context.shutdown);
    let take_over = {
        let parcels = parcels.clone();
        move |event| take_over(parcels.clone(), event)
    };
    let topic = (Topic::OrdersReadyToShip, SYSTEM);
    crew.add(follow(context.clone(), topic, settings.ack_wait, crew.stop(), take_over));
    let sweep = Sweep::new(parcels.clone(), settings.sweep_after);
    crew.add(sweep.run::<Parcel>(crew.stop()));
    context.listens("delivery", &server)?;
    crew.add(server.serve(routes(parcels), crew.stop()));
    crew.join().await
}

/// Takes an order over and says so.
async fn take_over(parcels: Desk, event: Event) -> Result<Outcome, HandlerError> {
    let at = now();
    let taking = parcels.change(&event.order, |there: Option<Parcel>| {
        let parcel = Parcel { order_id: event.order.clone(), reported: Vec::new() };
        there.is_none().then(|| report(parcel, Stage::Shipping, &at))
    });
    taking.await?;
    Ok(Outcome::Ack)
}

/// The parcel with one more report, and what is said of it.
fn report(mut parcel: Parcel, stage: Stage, at: &str) -> (Parcel, Vec<Event>) {
    let topic = match stage {
        Stage::Shipped => Topic::DeliveryShipped,
        Stage::Delivered => Topic::DeliveryDelivered,
        _ => Topic::DeliveryShipping,
    };
    let event = Event::new(SYSTEM, topic, &parcel.order_id, at, Facts::of(stage));
    parcel.reported.push(Step { stage, at: at.to_owned() });
    let entry = event.log_entry();
    (parcel, vec![event, entry])
}

/// By PUT, as a report that is repeated is the same report; and no page of another origin can send
/// one unasked.
fn routes(parcels: Desk) -> Router {
    Router::new()
        .route("/deliveries/{order}/{stage}", put(take_report))
        .with_state(Arc::new(parcels))
}

/// Takes a report. Where the courier is faster than the order, ordering holds it: it is accepted
/// here and takes effect in its turn.
async fn take_report(
    State(parcels): State<Arc<Desk>>,
    Path((order, stage)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Parcel>), Problem> {
    let order = order.parse::<OrderId>().map_err(Problem::not_found)?;
    let stage = match stage.as_str() {
        "shipped" => Stage::Shipped,
        "delivered" => Stage::Delivered,
        other => {
            let detail = format!("{other:?} is no report: put shipped or delivered");
            return Err(Problem::not_found(detail));
        }
    };
    let at = now();
    let reporting = parcels.change_on_request(&order, |there: Option<Parcel>| {
        let parcel = there?;
        let known = parcel.reported.iter().any(|step| step.stage == stage);
        (!known).then(|| report(parcel, stage, &at))
    });
    let unknown = || {
        let detail = "it may not be paid yet, or is on its way here: look at the order";
        Problem::not_found(format!("delivery has no order {order}: {detail}"))
    };
    Ok((StatusCode::ACCEPTED, Json(reporting.await?.ok_or_else(unknown)?)))
}
