//! Whether the process lives, and whether it can do its work.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bus::ErrorKind;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::store::Store;

/// How long the bus may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer is good for, so that probes put no load on the bus.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Answers `/livez` and `/readyz`. Cheap to clone.
///
/// A bus that is away makes the process unready and never dead: it recovers by itself.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    store: Store,
    shutdown: CancellationToken,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Health {
    /// Watches the bus of `store`; unready from the moment `shutdown` is cancelled.
    pub fn new(store: Store, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner { store, shutdown, last: Mutex::new(None) }))
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.0.store.platform.metrics.clone()
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/livez", get(async || Json(json!({"status": "ok"}))))
            .route("/readyz", get(ready))
            .with_state(self)
    }

    /// Asks the bus, or repeats its last answer. One question at a time.
    async fn bus(&self) -> Result<(), String> {
        let mut last = self.0.last.lock().await;
        if let Some((at, result)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return result.clone();
        }
        let result = match timeout(ANSWER_WITHIN, self.0.store.realms.get("readiness")).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the bus is not ready");
                // The error's own words name buckets, and are those of reads and writes alike.
                Err(String::from(match error.kind() {
                    ErrorKind::Unavailable => "the bus is away",
                    ErrorKind::Timeout => "the bus gave no answer in time",
                    _ => "the bus refuses to be read: see the log of the server",
                }))
            }
            Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        };
        *last = Some((Instant::now(), result.clone()));
        result
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let said = |result: Result<(), String>| match result {
        Ok(()) => json!({"status": "ok"}),
        Err(reason) => json!({"status": "failed", "reason": reason}),
    };
    let bus = health.bus().await;
    let process = match health.0.shutdown.is_cancelled() {
        true => Err(String::from("shutting down")),
        false => Ok(()),
    };
    let is_ready = bus.is_ok() && process.is_ok();
    let checks = json!({"bus": said(bus), "process": said(process)});
    answer(is_ready, &checks)
}

fn answer(is_ready: bool, checks: &Value) -> Response {
    let (status, word) = match is_ready {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, no_store, Json(json!({"status": word, "checks": checks}))).into_response()
}
