//! Reading a request, with faults as problems that name the field.

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::orders::order::OrderId;

/// The largest body.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;

/// A JSON body of at most 64 KiB. It must be sent as `application/json`, which no page of another
/// origin can send unasked.
pub(in crate::orders) struct JsonBody<T>(pub(in crate::orders) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            let detail = "send the body with content-type: application/json";
            return Err(Problem::new(status, "unsupported-media-type", detail));
        }
        let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
            let detail = format!("the body is incomplete or larger than {MAX_BODY_BYTES} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Problem::new(status, "body-too-large", detail).with("limit", MAX_BODY_BYTES)
        })?;
        let mut json = serde_json::Deserializer::from_slice(&body);
        let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let malformed = error.inner().is_syntax() || error.inner().is_eof();
            let sentence = error.inner().to_string();
            match malformed {
                true => Problem::new(
                    StatusCode::BAD_REQUEST,
                    "malformed-body",
                    format!("the body is no JSON: {sentence}"),
                ),
                false => Problem::invalid(sentence).with("field", path),
            }
        })?;
        json.end().map_err(|error| {
            let detail = format!("something follows the JSON of the body: {error}");
            Problem::new(StatusCode::BAD_REQUEST, "malformed-body", detail)
        })?;
        Ok(Self(read))
    }
}

/// The order that a path names first.
pub(in crate::orders) struct PathOrder(pub(in crate::orders) OrderId);

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
pub(in crate::orders) fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
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
