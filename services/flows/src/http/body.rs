//! Reading a request, with faults as problems that name the field.

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The largest body of a request, in bytes.
pub(crate) const MAX_BODY: usize = 64 << 10;

/// A JSON body of at most [`MAX_BODY`]. It must be sent as `application/json`, which no page of
/// another origin can send unasked.
pub(crate) struct JsonBody<T>(pub(crate) T);

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
        let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| {
            let detail = format!("the body is incomplete or larger than {MAX_BODY} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Problem::new(status, "body-too-large", detail).with("limit", MAX_BODY)
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
