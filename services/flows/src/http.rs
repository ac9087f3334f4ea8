//! The HTTP side of a role: a bounded server, and problems as JSON (RFC 9457).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Polled, Poll};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::timeout::TimeoutLayer;

use crate::flow::{Context, Failure};

/// At most this many connections are open; further ones wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// A larger body is refused.
const BODY_LIMIT: usize = 64 << 10;
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves `router` on the context's address and this port, 0 for a free one, until the shutdown;
/// then requests that are at work are answered and this returns. Where it listens is told as
/// `{"listening": "http://..."}`.
pub async fn serve(context: &Context, port: u16, router: Router) -> Result<(), Failure> {
    let addr = SocketAddr::new(context.listen, port);
    let listener = TcpListener::bind(addr).await.map_err(|error| {
        format!("cannot listen on {addr} ({error}): choose another port or end what uses it")
    })?;
    let url = format!("http://{}", listener.local_addr()?);
    context.tell(&format!("listening on {url}"), &json!({ "listening": url }));
    let timeout = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_LIMIT);
    let router = router.layer(DefaultBodyLimit::max(BODY_LIMIT)).layer(timeout);
    let bounded = Bounded { listener, permits: Arc::new(Semaphore::new(CONNECTIONS)) };
    let shutdown = context.shutdown.clone();
    axum::serve(bounded, router).with_graceful_shutdown(shutdown.cancelled_owned()).await?;
    Ok(())
}

/// What is wrong with a request, or with what it needs: `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What it is answered with.
    pub status: StatusCode,
    /// A sentence that names what is at fault and what to do.
    pub detail: String,
}

impl Problem {
    /// A problem described by a sentence: lower case, no full stop, with a way out.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, detail } = self;
        let retryable =
            matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let title = status.canonical_reason().unwrap_or_default().to_lowercase();
        let body = json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
            "retryable": retryable,
        });
        let mut response = (status, Json(body)).into_response();
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
        if retryable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}

/// What the bus did not do: another time, or never.
impl From<bus::Error> for Problem {
    fn from(error: bus::Error) -> Self {
        let status = match error.kind() {
            bus::ErrorKind::Unavailable | bus::ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
            bus::ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            bus::ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            bus::ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// A listener with a bound on what is open.
struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

/// A connection that counts until it is closed.
struct Counted {
    io: TcpStream,
    _permit: Option<OwnedSemaphorePermit>,
}

impl axum::serve::Listener for Bounded {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // It is never closed.
        let _permit = self.permits.clone().acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((io, addr)) => return (Counted { io, _permit }, addr),
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Polled<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Polled<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Polled<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Polled<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
