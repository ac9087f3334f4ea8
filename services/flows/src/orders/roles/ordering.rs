//! Ordering: makes orders and leads each through its stages. The one writer of orders.

use std::sync::Arc;

use axum::http::StatusCode;
use bus::{HandlerError, Outcome};

use super::Setup;
use super::ordering_api;
use crate::flow::Failure;
use crate::http::{Problem, Server};
use crate::orders::crew::Crew;
use crate::orders::desk::{Desk, Sweep};
use crate::orders::event::{Event, Facts, now};
use crate::orders::follow::follow;
use crate::orders::journey::{Journey, Verdict};
use crate::orders::notice::Notices;
use crate::orders::order::{NewOrder, Order, OrderId, Step};
use crate::orders::payment::Payment;
use crate::orders::settings::ORDERING_PORT;
use crate::orders::stage::Stage;
use crate::orders::topic::Topic;
use crate::orders::topology::{Bucket, Topics};

const SYSTEM: &str = "ordering";

/// Runs ordering: its HTTP side, and its instances, which share what is claimed of orders in the
/// group `ordering`. Any number of processes may run it at once.
pub async fn ordering(setup: Setup) -> Result<(), Failure> {
    let Setup { context, settings, .. } = &setup;
    let (ip, port) = (context.listen, settings.ordering_port);
    let server = Server::bind(ip, port, &ORDERING_PORT).await?;
    let ordering = Arc::new(Ordering::open(&setup).await?);
    let mut crew = Crew::new(&context.shutdown);
    for _ in 0..settings.instances {
        for topic in Topic::ALL.into_iter().filter(|topic| topic.claims().is_some()) {
            let ordering = ordering.clone();
            let claim = move |event| {
                let ordering = ordering.clone();
                async move { ordering.claim(event).await }
            };
            crew.add(follow(
                context.clone(),
                (topic, SYSTEM),
                settings.ack_wait,
                crew.stop(),
                claim,
            ));
        }
    }
    let sweep = Sweep::new(ordering.orders.clone(), settings.sweep_after);
    crew.add(sweep.run::<Order>(crew.stop()));
    context.listens("ordering", &server)?;
    crew.add(server.serve(ordering_api::routes(ordering), crew.stop()));
    crew.join().await
}

/// The orders.
pub(super) struct Ordering {
    orders: Desk,
    payments: Desk,
    pub(super) notices: Notices,
    payment_url: String,
}

impl Ordering {
    async fn open(setup: &Setup) -> bus::Result<Self> {
        let Setup { context, settings, .. } = setup;
        let topics = Topics::open(&context.bus).await?;
        let desk = async |bucket: Bucket| -> bus::Result<Desk> {
            Ok(Desk::new(bucket.open(&context.state).await?, topics.clone()))
        };
        let payment = std::net::SocketAddr::new(context.listen, settings.payment_port);
        Ok(Self {
            orders: desk(Bucket::Orders).await?,
            payments: desk(Bucket::Payments).await?,
            notices: Notices::new(Bucket::Notices.open(&context.state).await?),
            payment_url: settings
                .payment_url
                .clone()
                .unwrap_or_else(|| format!("http://{payment}")),
        })
    }

    /// Makes the order of an idempotency key, or finds it: true when this call made it. The same
    /// key with another order is a problem.
    pub(super) async fn create(&self, key: &str, new: NewOrder) -> Result<(Order, bool), Problem> {
        let (id, at) = (OrderId::of_key(key), now());
        let mut created = false;
        let stands = self.orders.change_on_request(&id, |there: Option<Order>| {
            created = there.is_none();
            created.then(|| self.begin(&id, &new, &at))
        });
        let vanished = || Problem::unavailable("the order is gone again: repeat the request");
        let order = stands.await?.ok_or_else(vanished)?;
        if order.ordered != new {
            let detail = "this idempotency key made another order: use a key of its own for each";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Err(Problem::new(status, "idempotency-key-reused", detail));
        }
        // Whoever has the URL can pay at once. After a crash here the payment system makes the
        // payment of the event, which says the same.
        let payment = || Payment::open(id.clone(), new.customer.clone(), new.amount_cents());
        self.payments
            .change(&id, |there: Option<Payment>| there.is_none().then(|| (payment(), Vec::new())))
            .await?;
        Ok((order, created))
    }

    fn begin(&self, id: &OrderId, new: &NewOrder, at: &str) -> (Order, Vec<Event>) {
        let order = Order {
            id: id.clone(),
            ordered: new.clone(),
            payment_url: format!("{}/payments/{id}", self.payment_url),
            journey: Journey::begin(),
            steps: vec![Step { stage: Stage::OrderCreated, at: at.to_owned() }],
        };
        let events = said(&order, Stage::OrderCreated, at);
        (order, events)
    }

    pub(super) async fn get(&self, id: &OrderId) -> bus::Result<Option<Order>> {
        self.orders.get(id).await
    }

    /// Takes what another system says of an order, by the rules of the journey. A repeated event
    /// changes nothing, and finishes what an earlier delivery of it began.
    async fn claim(&self, event: Event) -> Result<Outcome, HandlerError> {
        let Some(stage) = event.topic.claims() else {
            return Ok(Outcome::Reject(String::from("it claims no stage")));
        };
        let at = now();
        let claimed = self.orders.change(&event.order, |there: Option<Order>| {
            let mut order = there?;
            match order.journey.take(stage) {
                Verdict::Known => None,
                Verdict::Held => Some((order, Vec::new())),
                Verdict::Entered(stages) => {
                    let steps = stages.iter().map(|stage| Step { stage: *stage, at: at.clone() });
                    order.steps.extend(steps);
                    let events = stages.iter().flat_map(|stage| said(&order, *stage, &at));
                    let events = events.collect();
                    Some((order, events))
                }
            }
        });
        match claimed.await? {
            Some(_) => Ok(Outcome::Ack),
            None => Ok(Outcome::Reject(format!("there is no order {}", event.order))),
        }
    }
}

/// What ordering says when an order has entered a stage. Of payments the payment system speaks.
fn said(order: &Order, stage: Stage, at: &str) -> Vec<Event> {
    let topic = Topic::of_stage(stage);
    if matches!(topic, Topic::PaymentsCreated | Topic::PaymentsMade) {
        return Vec::new();
    }
    let facts = Facts {
        customer: Some(order.ordered.customer.clone()),
        amount_cents: Some(order.ordered.amount_cents()),
        payment_url: (stage == Stage::OrderCreated).then(|| order.payment_url.clone()),
        ..Facts::of(stage)
    };
    let event = Event::new(SYSTEM, topic, &order.id, at, facts);
    let entry = event.log_entry();
    vec![event, entry]
}
