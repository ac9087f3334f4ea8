//! Payment: opens the payment of each order and takes it over HTTP, once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use bus::{HandlerError, Outcome};
use serde::Serialize;

use super::Setup;
use crate::flow::Failure;
use crate::http::{JsonBody, Problem, Server};
use crate::orders::crew::Crew;
use crate::orders::desk::{Desk, Sweep};
use crate::orders::event::{Event, now};
use crate::orders::follow::follow;
use crate::orders::http::PathOrder;
use crate::orders::order::OrderId;
use crate::orders::payment::{Attempt, Pay, Payment, Refused};
use crate::orders::settings::PAYMENT_PORT;
use crate::orders::topic::Topic;
use crate::orders::topology::{Bucket, Topics};

const SYSTEM: &str = "payment";

/// Runs payment: its HTTP side, and its instances, which share the new orders in the group
/// `payment`. Any number of processes may run it at once.
pub async fn payment(setup: Setup) -> Result<(), Failure> {
    let Setup { context, settings, .. } = &setup;
    let (ip, port) = (context.listen, settings.payment_port);
    let server = Server::bind(ip, port, &PAYMENT_PORT).await?;
    let topics = Topics::open(&context.bus).await?;
    let payments = Desk::new(Bucket::Payments.open(&context.state).await?, topics);
    let mut crew = Crew::new(&context.shutdown);
    for _ in 0..settings.instances {
        let payments = payments.clone();
        let announce = move |event| announce(payments.clone(), event);
        let topic = (Topic::OrdersCreated, SYSTEM);
        crew.add(follow(context.clone(), topic, settings.ack_wait, crew.stop(), announce));
    }
    let sweep = Sweep::new(payments.clone(), settings.sweep_after);
    crew.add(sweep.run::<Payment>(crew.stop()));
    context.listens("payment", &server)?;
    crew.add(server.serve(routes(payments), crew.stop()));
    crew.join().await
}

/// Opens the payment of a new order and says so.
async fn announce(payments: Desk, event: Event) -> Result<Outcome, HandlerError> {
    let (Some(customer), Some(amount)) = (event.data.customer, event.data.amount_cents) else {
        return Ok(Outcome::Reject(String::from("it names no customer or no amount to pay")));
    };
    let at = now();
    let opening = payments.change(&event.order, |there: Option<Payment>| {
        let open = || Payment::open(event.order.clone(), customer.clone(), amount);
        let mut payment = there.unwrap_or_else(open);
        let events = payment.announce(&at);
        (!events.is_empty()).then_some((payment, events))
    });
    opening.await?;
    Ok(Outcome::Ack)
}

fn routes(payments: Desk) -> Router {
    let take_or_show = get(show).post(take);
    Router::new().route("/payments/{order}", take_or_show).with_state(Arc::new(payments))
}

/// A payment as its customer sees it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    order_id: OrderId,
    amount_cents: u64,
    /// `open` or `made`.
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_id: Option<String>,
    attempts: Vec<Attempt>,
}

impl From<Payment> for Shown {
    fn from(payment: Payment) -> Self {
        let made = payment.made().map(|attempt| attempt.number);
        Self {
            status: if made.is_some() { "made" } else { "open" },
            payment_id: made.map(|number| payment.id(number)),
            order_id: payment.order,
            amount_cents: payment.amount_cents,
            attempts: payment.attempts,
        }
    }
}

async fn show(
    State(payments): State<Arc<Desk>>,
    PathOrder(id): PathOrder,
) -> Result<Json<Shown>, Problem> {
    let payment = payments.get::<Payment>(&id).await?;
    payment.map(|payment| Json(payment.into())).ok_or_else(|| unknown(&id))
}

async fn take(
    State(payments): State<Arc<Desk>>,
    PathOrder(id): PathOrder,
    JsonBody(pay): JsonBody<Pay>,
) -> Result<Json<Shown>, Problem> {
    let (at, mut refused) = (now(), None);
    let paying = payments.change_on_request(&id, |there: Option<Payment>| {
        let mut payment = there?;
        match payment.pay(&pay, &at) {
            Ok(events) => {
                refused = None;
                Some((payment, events?))
            }
            Err(why) => {
                refused = Some(why);
                None
            }
        }
    });
    let payment = paying.await?.ok_or_else(|| unknown(&id))?;
    if let Some(why) = refused {
        return Err(refusal(&why));
    }
    let declined = |attempt: &Attempt| attempt.number == pay.attempt && !attempt.made;
    if payment.attempts.iter().any(declined) {
        let detail = "the card is declined, as its number is none: try another as the next attempt";
        let problem = Problem::new(StatusCode::PAYMENT_REQUIRED, "payment-declined", detail);
        return Err(problem.with("nextAttempt", payment.attempts.len() + 1));
    }
    Ok(Json(payment.into()))
}

fn refusal(why: &Refused) -> Problem {
    let slug = match why {
        Refused::Paid { .. } => "paid-already",
        Refused::OutOfTurn { .. } | Refused::OtherCard { .. } => "wrong-attempt",
        Refused::TooMany => "too-many-attempts",
    };
    let problem = Problem::new(StatusCode::CONFLICT, slug, why.to_string());
    match why {
        Refused::OutOfTurn { next } | Refused::OtherCard { next, .. } => {
            problem.with("nextAttempt", *next)
        }
        _ => problem,
    }
}

fn unknown(id: &OrderId) -> Problem {
    Problem::not_found(format!("there is no payment of an order {id}"))
}
