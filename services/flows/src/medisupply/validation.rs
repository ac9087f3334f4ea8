//! The validation worker: asks the external service about each order, and decides it once.

use std::time::Duration;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use bus::{Backoff, ConsumerBuilder, HandlerError, Jitter, Outcome, Received};
use lockgate_resilience::{
    BoxError, Breaker, BreakerLayer, Bulkhead, Deadline, Retry, RetryBudget, is_refused,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::timeout::TimeoutLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::figures::Figures;
use super::http::{client, ms, ms_of, now_ms, read_json};
use super::order::{NewOrder, Status, key};
use super::resume::Recovery;
use super::settings::VALIDATION_PORT;
use super::store::{CONSUMER, Queue, Store};
use super::{Settings, Site};
use crate::flow::Failure;
use crate::http::MAX_BODY;

/// Parked orders are taken up a few at a time: what has just recovered is not run over.
const PARKED_AT_ONCE: usize = 4;
const DRAIN: Duration = Duration::from_secs(5);

/// What the external service says of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    status: Status,
    reason: Option<String>,
}

type Ask = BoxCloneSyncService<NewOrder, Verdict, BoxError>;

/// Works and serves until the shutdown; what is at work then is settled first.
pub(super) async fn run(site: Site) -> Result<(), Failure> {
    let port = site.settings.validation_port;
    let server = site.serve_at("validation", port, &VALIDATION_PORT).await?;
    let worker = Worker::new(&site).await?;
    let router = Router::new()
        .route("/health", get(health))
        .route("/breaker", get(breaker))
        .with_state(worker.clone());
    let jobs = worker.consume(&site, Queue::Jobs, site.settings.at_once);
    let parked = worker.consume(&site, Queue::Parked, PARKED_AT_ONCE);
    let serving = server.serve(router, site.shutdown.clone());
    tokio::try_join!(jobs, parked, serving)?;
    Ok(())
}

#[derive(Clone)]
struct Worker {
    store: Store,
    ask: Ask,
    breaker: Option<Breaker>,
    recovery: Recovery,
    figures: Figures,
    shutdown: CancellationToken,
}

impl Worker {
    async fn new(site: &Site) -> Result<Self, Failure> {
        let settings = &site.settings;
        let breaker = settings.breaker.clone().map(Breaker::new);
        Ok(Self {
            store: Store::open(site).await?,
            ask: ask(settings, breaker.as_ref())?,
            recovery: Recovery::new(settings, breaker.clone()),
            breaker,
            figures: settings.figures.clone(),
            shutdown: site.shutdown.clone(),
        })
    }

    /// While the breaker is open the handlers wait for it, their leases extended: `at_once` orders
    /// are held, nothing more is pulled, and no attempt is used up.
    async fn consume(&self, site: &Site, queue: Queue, at_once: usize) -> Result<(), Failure> {
        let stream = queue.stream(&site.settings.prefix);
        let pauses = Backoff::exponential(Duration::from_millis(200)).jitter(Jitter::Equal);
        let consumer: ConsumerBuilder = site
            .bus
            .consumer(stream, CONSUMER)
            .ack_wait(site.settings.lease)
            .max_in_flight(at_once)
            .retry(pauses.cap(Duration::from_secs(10)))
            .drain_within(DRAIN);
        let worker = self.clone();
        let handle = move |received: Received| worker.clone().handle(queue, received);
        consumer.run(site.shutdown.clone(), handle).await.map_err(Failure::from)
    }

    async fn handle(self, queue: Queue, received: Received) -> Result<Outcome, HandlerError> {
        let body = received.message.payload.as_deref().unwrap_or_default();
        let order = match NewOrder::parse(body) {
            Ok(order) => order,
            Err(why) => return Ok(Outcome::Reject(why)),
        };
        tokio::select! { biased;
            decided = self.clone().decide(queue, order) => decided,
            // What waits for the breaker is given back; what is being asked ends within the drain.
            () = self.given_back(queue) => Ok(Outcome::Retry(Duration::ZERO)),
        }
    }

    /// Resolves at the shutdown, when whoever waits would wait for too long.
    async fn given_back(&self, queue: Queue) {
        self.shutdown.cancelled().await;
        if queue == Queue::Jobs {
            tokio::time::sleep(DRAIN / 2).await;
        }
    }

    async fn decide(self, queue: Queue, order: NewOrder) -> Result<Outcome, HandlerError> {
        if queue == Queue::Parked {
            self.recovery.wait().await;
        }
        let answer = loop {
            if let Some(breaker) = &self.breaker {
                breaker.ready().await;
            }
            // As late as possible: another copy of the job may have been quicker.
            match self.store.get(&order.order_id).await? {
                Some(known) if known.status == Status::Processing => {}
                // Decided, or cleared: nothing is left to do.
                _ => return Ok(Outcome::Ack),
            }
            match self.ask.clone().oneshot(order.clone()).await {
                // Nothing was sent: wait again.
                Err(why) if is_refused(&why) => {}
                answer => break answer,
            }
        };
        match answer {
            Ok(verdict) => {
                let reason = verdict.reason.as_deref();
                if self.store.decide(&order.order_id, verdict.status, reason).await? {
                    self.figures.decided(verdict.status);
                }
                Ok(Outcome::Ack)
            }
            Err(why) => {
                tracing::debug!(order = order.order_id, %why, "parked");
                self.figures.parked.add(1);
                Ok(self.store.park(&order).await?)
            }
        }
    }
}

/// The call, behind its layers, from the outside in.
fn ask(settings: &Settings, breaker: Option<&Breaker>) -> Result<Ask, Failure> {
    let Settings { attempt, deadline, at_once, retry, retry_budget, figures, .. } = settings;
    let (client, url) = (client()?, settings.url(settings.external_port, "/validate"));
    let budget = retry_budget.map(|(share, most)| RetryBudget::new(share, most));
    let figures = figures.clone();
    let service = ServiceBuilder::new()
        .layer(Deadline::new(*deadline))
        .layer(Bulkhead::new(*at_once, *deadline))
        .option_layer(breaker.cloned().map(BreakerLayer::new))
        .layer(Retry::layer(retry.clone(), budget, |_: &BoxError| true)?)
        .layer(TimeoutLayer::new(*attempt))
        .service(service_fn(move |order: NewOrder| {
            figures.calls.add(1);
            // The service may ask for it: a repeated question is the same one. Not every id can be a
            // header as it is.
            let question = client.post(&url).header("idempotency-key", key(&order.order_id));
            let question = question.json(&order);
            async move { answer(question.send().await?).await }
        }));
    Ok(BoxCloneSyncService::new(service))
}

/// A verdict, or a reason to ask again. That a question is refused for good is a verdict.
async fn answer(answer: reqwest::Response) -> Result<Verdict, BoxError> {
    let status = answer.status();
    let again = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status);
    if again || !(status.is_success() || status.is_client_error()) {
        return Err(format!("the external service answered {status}").into());
    }
    let body = read_json(answer, MAX_BODY).await?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    if status.is_client_error() {
        return Ok(Verdict { status: Status::Failed, reason: text("detail") });
    }
    match body.get("valid").and_then(Value::as_bool) {
        Some(true) => Ok(Verdict { status: Status::Validated, reason: None }),
        Some(false) => Ok(Verdict { status: Status::Rejected, reason: text("message") }),
        None => Err("the external service answered without `valid`".into()),
    }
}

/// That it cannot ask is no fault of its own: it is well, and says how the breaker is.
async fn health(State(worker): State<Worker>) -> Json<Value> {
    let Figures { calls, validated, rejected, failed, parked, .. } = &worker.figures;
    let breaker = worker.breaker.as_ref().map(|breaker| {
        let now = breaker.snapshot();
        json!({
            "state": now.state.as_str(),
            "age_ms": ms(now.age),
            "failure_rate": now.failure_rate,
        })
    });
    Json(json!({
        "service": "validation_service", "status": "healthy", "timestamp": now_ms(),
        "breaker": breaker, "calls": calls.get(), "validated": validated.get(),
        "rejected": rejected.get(), "failed": failed.get(), "parked": parked.get(),
    }))
}

/// The last changes of the breaker, oldest first.
async fn breaker(State(worker): State<Worker>) -> Json<Value> {
    let history = worker.breaker.as_ref().map(Breaker::history).unwrap_or_default();
    let changes =
        history.iter().map(|change| json!({ "to": change.to.as_str(), "at_ms": ms_of(change.at) }));
    Json(Value::Array(changes.collect()))
}
