//! `/metrics`, `/livez` and `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::connections::Bounded;
use crate::metrics::Metrics;

/// Probes and a scraper, and some to spare.
const MAX_CONNECTIONS: usize = 64;

/// How the last look at each queue went. Cheap to clone.
///
/// A process that cannot look is unready and never dead: it goes on looking. Before the first look
/// it is unready too.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<String, Result<(), String>>>>);

impl Health {
    /// For these queues, none of which was looked at yet.
    pub fn of<'a>(queues: impl IntoIterator<Item = &'a str>) -> Self {
        let not_yet = |queue: &str| (queue.to_owned(), Err(String::from("not looked at yet")));
        Self(Arc::new(Mutex::new(queues.into_iter().map(not_yet).collect())))
    }

    /// Keeps how a look went.
    pub fn looked(&self, queue: &str, how: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(queue.to_owned(), how);
    }

    /// What keeps this process from its work; empty when it is ready.
    pub fn faults(&self) -> Vec<String> {
        let looked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = |(queue, how): (&String, &Result<(), String>)| {
            how.as_ref().err().map(|why| format!("{queue}: {why}"))
        };
        looked.iter().filter_map(fault).collect()
    }
}

#[derive(Clone)]
struct Shown {
    metrics: Arc<Metrics>,
    health: Health,
}

/// Serves until `stop` is cancelled, and lets requests that are at work finish. At most 64 connections
/// are open at once.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Health,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .with_state(Shown { metrics, health });
    let listener = Bounded::new(listener, MAX_CONNECTIONS);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn ready(State(shown): State<Shown>) -> Response {
    let faults = shown.health.faults();
    match faults.is_empty() {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, faults.join("\n") + "\n").into_response(),
    }
}

async fn figures(State(shown): State<Shown>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shown.metrics.text()).into_response()
}
