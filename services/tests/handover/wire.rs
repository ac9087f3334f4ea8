//! How a client reaches a role: a function call in the simulation, TCP in the process tests.

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use lockgate::roles::Role;
use serde_json::Value;

/// A way to the roles. `None` means that the connection broke or was refused.
#[async_trait]
pub(crate) trait Wire: Send + Sync {
    async fn send(&self, role: Role, request: Request<Bytes>) -> Option<Response<Body>>;
}

/// A JSON request without surprises.
pub(crate) fn request(
    method: &str,
    path: &str,
    secret: Option<&str>,
    body: &Value,
) -> Request<Bytes> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json");
    if let Some(secret) = secret {
        request = request.header("authorization", format!("Bearer {secret}"));
    }
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    request.body(body).expect("a request")
}

/// Sends a request and reads the whole answer; `None` when the connection broke on the way.
pub(crate) async fn call(
    wire: &dyn Wire,
    role: Role,
    request: Request<Bytes>,
) -> Option<(u16, Value)> {
    let response = wire.send(role, request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
