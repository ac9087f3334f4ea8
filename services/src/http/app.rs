//! What surrounds the routes of every role.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tokio::sync::Semaphore;

use super::again::{come_again, wants_stream};
use super::catalogue::ProblemKind;
use super::encoding;
use super::guard::{self, Guard};
use super::health::Health;
use super::metrics;
use super::problem::Problem;
use crate::limits::MAX_REQUESTS;

/// The routes of the roles behind `guard`, with `/livez` and `/readyz` beside them (a probe asks
/// by address, not by name).
///
/// An unknown path or method, a body in an encoding that no route reads and a panic are problems;
/// at most 4096 requests are at work at once. A stream counts until its answer begins; one that
/// finds no place is asked to come again.
pub fn app(api: Router, guard: Guard, health: Health) -> Router {
    let at_work = Arc::new(Semaphore::new(MAX_REQUESTS));
    let api = api
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn(encoding::check))
        .layer(from_fn_with_state(health.metrics(), metrics::observe))
        .layer(from_fn(catch_panic))
        .layer(from_fn_with_state(at_work, bound))
        .layer(from_fn_with_state(guard, guard::check));
    api.merge(health.router())
}

/// Gives each answer of these routes `limit` to begin, the reading of the body included.
pub(crate) fn with_deadline(router: Router, limit: Duration) -> Router {
    router.route_layer(from_fn_with_state(limit, deadline))
}

async fn deadline(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let reads = request.method().is_safe();
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = limit.as_secs();
            let detail = match reads {
                true => format!("no answer within {seconds} s: ask again"),
                false => format!("not done within {seconds} s, and it may yet happen: repeat it"),
            };
            Problem::new(ProblemKind::Timeout, detail).into_response()
        }
    }
}

async fn bound(State(at_work): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match at_work.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            let detail = format!("{MAX_REQUESTS} requests are at work already: try again");
            if wants_stream(request.method(), request.headers()) {
                return come_again(&detail);
            }
            Problem::new(ProblemKind::Busy, detail).into_response()
        }
    }
}

/// A bug in one request must not take the others with it.
async fn catch_panic(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            tracing::error!(path, "a request panicked");
            let detail = "the request met a fault on our side: see the log of the server";
            Problem::new(ProblemKind::Internal, detail).into_response()
        }
    }
}

async fn unknown_path(request: Request) -> Problem {
    let path = request.uri().path();
    Problem::new(
        ProblemKind::UnknownPath,
        format!("there is nothing at {path}: APIs are under /v1"),
    )
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("{path} does not take {method}: see the header allow");
    Problem::new(ProblemKind::MethodNotAllowed, detail)
}
