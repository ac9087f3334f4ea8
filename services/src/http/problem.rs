//! The one shape of an error over HTTP (RFC 9457).

use std::error::Error as _;

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bus::ErrorKind;
use serde_json::{Map, Value};

use super::catalogue::ProblemKind;
use crate::model::{BadField, EventFault, FaultKind, Invalid};

const TYPE_BASE: &str = "https://lockgate.dev/problems/";
/// What `Retry-After` says, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");
/// The same where another process may answer at once.
const RETRY_ELSEWHERE: HeaderValue = HeaderValue::from_static("1");

/// What went wrong with a request: `application/problem+json` once it is a response.
///
/// `detail` names what is at fault and what to do; a retryable problem carries `Retry-After`.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    field: Option<String>,
    more: Map<String, Value>,
}

impl Problem {
    /// A problem described by a sentence: lower case, no full stop, with a way out.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), field: None, more: Map::new() }
    }

    /// Names the field at fault, for example `topics[1]`.
    #[must_use]
    pub fn field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// Adds a member of its own.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// A field whose value breaks a rule.
    pub(crate) fn invalid(field: impl Into<String>, invalid: &Invalid) -> Self {
        Self::from(invalid.clone()).field(field)
    }

    /// What kind it is.
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// The sentence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The problem as JSON.
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        json.insert("type".into(), format!("{TYPE_BASE}{}", self.kind.slug()).into());
        json.insert("title".into(), self.kind.title().into());
        json.insert("status".into(), self.kind.status().as_u16().into());
        json.insert("detail".into(), self.detail.clone().into());
        json.insert("retryable".into(), self.kind.is_retryable().into());
        if let Some(field) = &self.field {
            json.insert("field".into(), field.clone().into());
        }
        json.extend(self.more.clone());
        Value::Object(json)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), Json(self.to_json())).into_response();
        let headers = response.headers_mut();
        let problem_json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, problem_json);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.kind.is_retryable() {
            let elsewhere = self.kind == ProblemKind::ServedElsewhere;
            let after = if elsewhere { RETRY_ELSEWHERE } else { RETRY_AFTER };
            headers.insert(header::RETRY_AFTER, after);
        }
        if self.kind == ProblemKind::Unauthorized {
            let bearer = HeaderValue::from_static("Bearer realm=\"lockgate\"");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

/// The one place where a failure of the bus becomes a status.
impl From<bus::Error> for Problem {
    fn from(error: bus::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Invalid => ProblemKind::InvalidInput,
            ErrorKind::Conflict { .. } => ProblemKind::Conflict,
            ErrorKind::Stale => ProblemKind::Stale,
            ErrorKind::TooLarge => ProblemKind::EventTooLarge,
            ErrorKind::Full => ProblemKind::Full,
            // Closed by this process: another one, or this one after its restart, will answer. What
            // is not found is a stream or bucket of Lockgate's own, as while a broker starts: what
            // a client names and is not there, its handler says.
            ErrorKind::Unavailable
            | ErrorKind::Closed
            | ErrorKind::Failed
            | ErrorKind::NotFound => ProblemKind::Unavailable,
            ErrorKind::Timeout => ProblemKind::Timeout,
            _ => ProblemKind::Internal,
        };
        let cause = error.source().map(ToString::to_string);
        match kind {
            ProblemKind::Internal => tracing::error!(%error, cause, "a request failed"),
            _ => tracing::debug!(%error, cause, "the bus refused"),
        }
        match said_to_clients(kind) {
            Some(detail) => Self::new(kind, detail),
            None => Self::new(kind, error.to_string()),
        }
    }
}

/// What a client is told of a failure whose own words are for operators: they name streams and
/// buckets that are no client's business, and cannot tell a read from a write. Every request may
/// be repeated.
fn said_to_clients(kind: ProblemKind) -> Option<&'static str> {
    Some(match kind {
        ProblemKind::Unavailable => "the bus is away: try again in a moment",
        ProblemKind::Timeout => "the bus gave no answer in time: repeat the request",
        ProblemKind::Conflict => "someone else was faster: read what stands now, and try again",
        ProblemKind::Internal => "the request met a fault on our side: see the log of the server",
        _ => return None,
    })
}

impl From<BadField> for Problem {
    fn from(bad: BadField) -> Self {
        Self::invalid(bad.field, &bad.why)
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        Self::new(ProblemKind::InvalidInput, invalid.to_string())
    }
}

impl From<EventFault> for Problem {
    fn from(fault: EventFault) -> Self {
        let kind = match fault.kind() {
            FaultKind::Malformed => ProblemKind::MalformedBody,
            FaultKind::Invalid => ProblemKind::InvalidEvent,
            FaultKind::TooLarge => ProblemKind::EventTooLarge,
            FaultKind::TooMany => ProblemKind::BatchTooLarge,
        };
        let problem = Self::new(kind, fault.to_string());
        match fault.field() {
            Some(field) => problem.field(field),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::Capability;

    use super::*;

    #[test]
    fn each_failure_of_the_bus_has_its_status() {
        let unsupported =
            ErrorKind::Unsupported { capability: Capability::KvWatch, backend: "kafka://" };
        for (kind, status) in [
            (ErrorKind::Invalid, 422),
            (ErrorKind::NotFound, 503),
            (ErrorKind::Conflict { current: Some(1) }, 409),
            (ErrorKind::Stale, 409),
            (ErrorKind::TooLarge, 413),
            (ErrorKind::Full, 507),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Timeout, 503),
            (ErrorKind::Closed, 503),
            (ErrorKind::Failed, 503),
            (ErrorKind::Mismatch, 500),
            (unsupported, 500),
            (ErrorKind::Corrupt, 500),
            (ErrorKind::Backend, 500),
        ] {
            let problem =
                Problem::from(bus::Error::new(kind, "stream KV_x: a write may have been"));
            let inner = problem.detail().contains("KV_x");
            assert!(!inner || [422, 409, 413, 507].contains(&status), "{kind:?}: {problem:?}");
            let response = problem.into_response();
            assert_eq!(response.status(), status, "{kind:?}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503);
            assert_eq!(response.headers()["content-type"], "application/problem+json");
        }
    }

    #[test]
    fn the_json_is_that_of_the_rfc_and_ours() {
        let problem = Problem::invalid("name", &Invalid::new("name is wrong")).with("limit", 3);
        let expected = serde_json::json!({
            "type": "https://lockgate.dev/problems/invalid-input", "title": "invalid input",
            "status": 422, "detail": "name is wrong", "retryable": false, "field": "name",
            "limit": 3,
        });
        assert_eq!(problem.to_json(), expected);
    }
}
