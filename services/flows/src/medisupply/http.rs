//! Asking over HTTP, and the time as it is told there.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::flow::Failure;

/// A client for the other services: plain HTTP, no proxy.
pub(super) fn client() -> Result<reqwest::Client, Failure> {
    // The client wants a TLS provider although nothing here uses one; a second one is refused.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?)
}

/// Reads an answer's body as JSON, if it has at most `most` bytes.
pub(super) async fn read_json(
    mut answer: reqwest::Response,
    most: usize,
) -> Result<Value, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > most {
            return Err(format!("the answer is longer than {most} bytes").into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body)?)
}

/// Now, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// A time, in milliseconds since 1970.
pub(super) fn ms_of(time: SystemTime) -> u64 {
    ms(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// A duration, in whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
