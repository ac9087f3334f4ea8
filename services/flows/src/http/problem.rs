//! The one shape of an error over HTTP (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

const TYPE_BASE: &str = "https://lockgate.dev/problems/";
/// What `Retry-After` says, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    status: StatusCode,
    slug: &'static str,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    /// A kind of problem, and a sentence: lower case, no full stop, with a way out.
    pub(crate) fn new(status: StatusCode, slug: &'static str, detail: impl Into<String>) -> Self {
        Self { status, slug, detail: detail.into(), more: Map::new() }
    }

    /// Input that breaks a rule.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", detail)
    }

    /// Something that is not there.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    /// Nothing is wrong with the request, and it can be repeated.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// Adds a member of its own.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, slug, detail, more } = self;
        let retryable = matches!(status.as_u16(), 502..=504);
        let mut json = Map::new();
        json.insert("type".into(), format!("{TYPE_BASE}{slug}").into());
        json.insert("title".into(), slug.replace('-', " ").into());
        json.insert("status".into(), status.as_u16().into());
        json.insert("detail".into(), detail.into());
        json.insert("retryable".into(), retryable.into());
        json.extend(more);
        let mut response = (status, Json(Value::Object(json))).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if retryable {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// Streams and buckets are no client's business: what they say goes to the log.
impl From<bus::Error> for Problem {
    fn from(error: bus::Error) -> Self {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        if error.is_retryable() || error.is_conflict() || error.kind() == bus::ErrorKind::Closed {
            tracing::warn!(%error, source, "a request has to be repeated");
            return Self::unavailable("the bus gave no answer in time: repeat the request");
        }
        tracing::error!(%error, source, "a request failed");
        let detail = "the request met a fault on our side: see the log of the server";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}
