//! Serving and asking over HTTP.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::flow::Failure;

const MAX_CONNECTIONS: usize = 1024;
/// What is read of a request, and of an answer about one thing.
pub(super) const MAX_BODY: usize = 64 << 10;
const HEADER_WITHIN: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Listens, or says which setting to change.
pub(super) async fn listen(addr: SocketAddr, setting: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(addr).await.map_err(|why| {
        let way_out = format!("end what uses it, or set MEDISUPPLY_{setting}_PORT to another port");
        Failure::from(format!("cannot listen on {addr} ({why}): {way_out}"))
    })
}

/// Serves until `stop` is cancelled: the listener is closed at once, answers that are under way
/// have `drain` to end. When this returns, or is dropped, no connection is left.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
    drain: Duration,
) {
    let router = router.layer(DefaultBodyLimit::max(MAX_BODY));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        tokio::select! { biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            (accepted, place) = accepted => match accepted {
                Ok((stream, _)) => {
                    let work = connection(stream, router.clone(), stop.clone());
                    connections.spawn(async move {
                        work.await;
                        drop(place);
                    });
                }
                // Out of descriptors, or a connection that was gone before it was taken.
                Err(why) => {
                    tracing::debug!(%why, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is left is aborted with the set.
    let _ = tokio::time::timeout(drain, ended).await;
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_WITHIN);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    let ended = tokio::select! { biased;
        ended = &mut serving => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(why) = ended {
        tracing::debug!(%why, "a connection broke off");
    }
}

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

/// An error as RFC 9457 has it.
pub(super) fn problem(status: StatusCode, slug: &str, detail: impl Into<String>) -> Response {
    let busy = matches!(status.as_u16(), 502..=504);
    let body = json!({
        "type": format!("https://lockgate.dev/problems/{slug}"),
        "title": slug.replace('-', " "),
        "status": status.as_u16(),
        "detail": detail.into(),
        "retryable": busy,
    });
    let kind = HeaderValue::from_static("application/problem+json");
    let mut answer = (status, [(header::CONTENT_TYPE, kind)], body.to_string()).into_response();
    if busy {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    answer
}

/// Now, in milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    ms_of(SystemTime::now())
}

/// A time, in milliseconds since 1970.
pub(super) fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
