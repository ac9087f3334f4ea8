//! How an `EventSource` is sent away so that it comes back.
//!
//! By the HTML standard (9.2.3) an `EventSource` that meets any status but 200 fails for good,
//! whatever `Retry-After` says; only a connection that ends makes it connect again, after the
//! `retry` that it was told. So what passes by itself is answered to it as a stream that ends.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// When those who are sent away come back: from 2 s on, spread over 8 s.
const RETRY_MS: u64 = 2000;
const SPREAD_MS: u64 = 8000;

/// The headers of an event stream: not kept, not changed and so not compressed on its way (a proxy
/// that compresses holds frames back), and not buffered by nginx.
pub(crate) fn stream_headers() -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ]
}

/// True when the client asks for an event stream by name, as each `EventSource` does.
pub(crate) fn wants_stream(method: &Method, headers: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("text/event-stream"))
    };
    method == Method::GET && headers.get_all(header::ACCEPT).iter().any(accepts)
}

/// A stream that says why it ends at once.
pub(crate) fn come_again(reason: &str) -> Response {
    static SENT_AWAY: AtomicU64 = AtomicU64::new(0);
    // Neighbours in time come back far from each other; no chance is needed for that.
    let turn = SENT_AWAY.fetch_add(1, Ordering::Relaxed).wrapping_mul(4909);
    let retry_ms = RETRY_MS + turn % SPREAD_MS;
    let data = json!({ "reason": reason });
    let body = format!("retry: {retry_ms}\n\nevent: waiting\ndata: {data}\n\n");
    (stream_headers(), body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_for_a_stream_gets_one() {
        let asks = |method: Method, accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_stream(&method, &headers)
        };
        assert!(asks(Method::GET, "text/event-stream"));
        assert!(asks(Method::GET, "Text/Event-Stream, */*;q=0.1"));
        assert!(!asks(Method::GET, "*/*") && !asks(Method::POST, "text/event-stream"));
        assert!(!wants_stream(&Method::GET, &HeaderMap::new()));
    }
}
