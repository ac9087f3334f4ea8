//! The external service: the validation of somebody else, which fails on request.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Site;
use super::http::now_ms;
use super::order::NewOrder;
use super::settings::{CONTROL_PORT, EXTERNAL_PORT};
use crate::flow::Context;
use crate::flow::Failure;
use crate::http::{Problem, Server};

/// It validates at most this many of a product; none at all it cannot judge.
const MOST: u32 = 1000;
/// Answers that are under way when it goes down have this long; one of them says that it does.
const GOING_DOWN: Duration = Duration::from_millis(150);
/// The port may be somebody else's for a moment when it comes back.
const LISTEN_AGAIN: Duration = Duration::from_millis(50);
const LISTEN_ATTEMPTS: u32 = 100;

/// How it behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It answers at once.
    #[default]
    Normal,
    /// It answers late.
    Slow,
    /// Nobody listens: connections are refused.
    Down,
    /// It answers 500.
    Error,
    /// It answers 500 for a while, then well for a while, and again.
    Flapping,
}

/// A mode, as it is set: `{"mode":"error","rate":0.4,"for_ms":20000}`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// How it behaves.
    pub mode: Mode,
    /// The share of answers that are errors in mode `error`; all of them where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// For how many milliseconds, before it is `normal` again; until told where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
}

impl From<Mode> for Fault {
    fn from(mode: Mode) -> Self {
        Self { mode, rate: None, for_ms: None }
    }
}

#[derive(Debug, Clone, Copy)]
struct Set {
    fault: Fault,
    at: Instant,
}

#[derive(Clone)]
struct External {
    set: Arc<watch::Sender<Set>>,
    answers: Arc<AtomicU64>,
    slow_for: Duration,
    flap_every: Duration,
}

/// Serves until the shutdown. Its mode is also taken on a port of its own, which stays open while
/// it is down.
pub(super) async fn run(site: Site) -> Result<(), Failure> {
    let port = site.settings.control_port;
    let control = site.serve_at("external's mode", port, &CONTROL_PORT).await?;
    let Site { listen: host, shutdown, settings, told, .. } = site;
    let set = Set { fault: Mode::Normal.into(), at: Instant::now() };
    let external = External {
        set: Arc::new(watch::Sender::new(set)),
        answers: Arc::default(),
        slow_for: settings.slow_for,
        flap_every: settings.flap_every,
    };
    let control = control.serve(external.control(), shutdown.clone());
    tokio::try_join!(control, external.serve((host, settings.external_port), told, shutdown))?;
    Ok(())
}

impl External {
    fn control(&self) -> Router {
        Router::new()
            .route("/set_failure_mode", post(set_failure_mode).get(failure_mode))
            .with_state(self.clone())
    }

    /// Listens and does not, by turns.
    async fn serve(
        self,
        (host, port): (IpAddr, u16),
        mut told: Option<Context>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let routes = Router::new()
            .route("/validate", post(validate))
            .route("/health", get(health))
            .with_state(self.clone())
            .merge(self.control());
        while !shutdown.is_cancelled() {
            let server = bind(host, port).await?.close_after(GOING_DOWN);
            if let Some(context) = told.take() {
                context.listens("external", &server)?;
            }
            let down = shutdown.child_token();
            let turn = async {
                self.until(&shutdown, |mode| mode == Mode::Down).await;
                down.cancel();
            };
            let ((), served) = tokio::join!(turn, server.serve(routes.clone(), down.clone()));
            served?;
            self.until(&shutdown, |mode| mode != Mode::Down).await;
        }
        Ok(())
    }

    /// Waits for a mode, and ends the one whose time is over.
    async fn until(&self, shutdown: &CancellationToken, is: impl Fn(Mode) -> bool) {
        let mut told = self.set.subscribe();
        loop {
            let Set { fault, at } = *told.borrow_and_update();
            if is(fault.mode) {
                return;
            }
            let over = async {
                match fault.for_ms {
                    Some(ms) => tokio::time::sleep_until(at + Duration::from_millis(ms)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { biased;
                () = shutdown.cancelled() => return,
                _ = told.changed() => {}
                () = over => self.set(Mode::Normal.into()),
            }
        }
    }

    fn set(&self, fault: Fault) {
        tracing::info!(mode = ?fault.mode, "the external service changes");
        self.set.send_replace(Set { fault, at: Instant::now() });
    }

    /// Behaves as its mode is; an answer where that is an error.
    async fn behave(&self) -> Option<Response> {
        let Set { fault, at } = *self.set.borrow();
        let fails = match fault.mode {
            Mode::Normal | Mode::Down => false,
            Mode::Slow => {
                tokio::time::sleep(self.slow_for).await;
                false
            }
            Mode::Error => self.nth_fails(fault.rate.unwrap_or(1.0)),
            Mode::Flapping => {
                let turns = at.elapsed().as_millis() / self.flap_every.as_millis().max(1);
                turns.is_multiple_of(2)
            }
        };
        fails.then(|| {
            let why = Json(json!({ "error": "Validation failed" }));
            (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        })
    }

    /// Errors in a sequence without a pattern, and in the share that is asked for also of a few.
    fn nth_fails(&self, rate: f64) -> bool {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let n = self.answers.fetch_add(1, Ordering::Relaxed) % (1 << 30);
        #[allow(clippy::cast_precision_loss, reason = "below 2^30")]
        let place = (n as f64 * GOLDEN).fract();
        place < rate
    }
}

async fn bind(host: IpAddr, port: u16) -> Result<Server, Failure> {
    let mut left = LISTEN_ATTEMPTS;
    loop {
        left -= 1;
        match Server::bind(host, port, &EXTERNAL_PORT).await {
            Err(why) if left > 0 => tracing::debug!(%why, "trying again"),
            bound => return bound,
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn set_failure_mode(
    State(external): State<External>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let fault: Fault = serde_json::from_slice(&body).map_err(|why| {
        Problem::invalid(format!("{why}: send {{\"mode\":\"normal|slow|down|error|flapping\"}}"))
    })?;
    if !fault.rate.is_none_or(|rate| (0.0..=1.0).contains(&rate)) {
        return Err(Problem::invalid("rate is 0 to 1"));
    }
    external.set(fault);
    Ok(Json(json!({ "message": "Failure mode set", "mode": fault.mode })))
}

async fn failure_mode(State(external): State<External>) -> Json<Fault> {
    Json(external.set.borrow().fault)
}

async fn health(State(external): State<External>) -> Response {
    match external.behave().await {
        Some(failed) => failed,
        None => Json(json!({
            "service": "external_service", "status": "healthy", "timestamp": now_ms(),
        }))
        .into_response(),
    }
}

async fn validate(State(external): State<External>, body: Bytes) -> Response {
    match external.behave().await {
        Some(failed) => failed,
        None => judged(&body).map(Json).into_response(),
    }
}

fn judged(body: &[u8]) -> Result<Value, Problem> {
    let invalid = |why| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-order", why);
    let order = NewOrder::parse(body).map_err(invalid)?;
    if order.quantity == 0 {
        return Err(invalid("an order of nothing cannot be validated: order 1 or more".into()));
    }
    Ok(verdict(&order))
}

fn verdict(order: &NewOrder) -> Value {
    let valid = order.quantity <= MOST;
    let message = match valid {
        true => String::from("Order validated successfully"),
        false => format!("Order rejected: at most {MOST} of a product"),
    };
    json!({ "order_id": order.order_id, "valid": valid, "message": message })
}
