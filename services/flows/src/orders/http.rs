//! What the orders' requests name: an order in the path, and an idempotency key.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};

use super::order::OrderId;
use crate::http::Problem;

/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;

/// The order that a path names first.
pub(super) struct PathOrder(pub(super) OrderId);

impl<S: Send + Sync> FromRequestParts<S> for PathOrder {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<OrderId>::from_request_parts(parts, state).await;
        let place = parts.uri.path();
        path.map(|Path(order)| Self(order)).map_err(|_| {
            Problem::not_found(format!("{place} names no order: an id is 26 characters of a-z 2-7"))
        })
    }
}

/// The header `Idempotency-Key`, by which a request that is repeated is recognised.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
    let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::trim);
    match key {
        Some(key) if (1..=MAX_KEY_BYTES).contains(&key.len()) => Ok(key),
        _ => {
            let what = format!("send a header idempotency-key of 1 to {MAX_KEY_BYTES} bytes");
            let why = "the same when you repeat the request, so that it makes one order";
            let detail = format!("{what}: {why}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "idempotency-key-missing", detail))
        }
    }
}
