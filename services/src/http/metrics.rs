//! `GET /metrics`, and counting what is answered.

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::Instant;

use super::access::Access;
use super::catalogue::ProblemKind;
use super::problem::Problem;
use crate::metrics::{Metrics, OfHttp};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page of numbers. It names realms and subscriptions, so it takes an admin token where there
/// are tokens (in Prometheus: `authorization: { credentials_file: ... }`).
pub(crate) fn router(metrics: Metrics, access: Access) -> Router {
    Router::new().route("/metrics", get(page)).with_state((metrics, access))
}

async fn page(
    State((metrics, access)): State<(Metrics, Access)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    access.require_admin(&headers)?;
    metrics.scraped();
    let page = metrics.render().map_err(|_| {
        Problem::new(ProblemKind::Internal, "the numbers could not be written: ask again")
    })?;
    let kind = HeaderValue::from_static(OPEN_METRICS);
    let no_store = HeaderValue::from_static("no-store");
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, no_store)], page).into_response())
}

/// Counts and times an answer, up to its beginning: a stream goes on for hours.
pub(super) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    let answer = next.run(request).await;
    let status = answer.status().as_u16();
    metrics.answered(OfHttp { route, method, status }, began.elapsed());
    answer
}

/// Anybody may invent a method: those that nobody serves are one.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
