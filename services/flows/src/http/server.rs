//! Listening, and letting go.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::body::MAX_BODY;
use super::problem::Problem;
use crate::flow::Failure;
use crate::settings::Setting;

const MAX_CONNECTIONS: usize = 1024;
/// Fewer than the connections, so that one more request is told to come again, not left to wait.
const MAX_REQUESTS: usize = 512;
/// How long a request may take, the reading of its body included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// What is still at work this long after the shutdown began is closed, where nothing else is said.
const CLOSE_AFTER: Duration = Duration::from_secs(8);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening server that does not accept yet.
pub(crate) struct Server {
    listener: TcpListener,
    close_after: Duration,
}

impl Server {
    /// Listens, at port 0 at a free one. `setting` is the one that chooses another.
    pub(crate) async fn bind(ip: IpAddr, port: u16, setting: &Setting) -> Result<Self, Failure> {
        let addr = SocketAddr::new(ip, port);
        let listener = TcpListener::bind(addr).await.map_err(|error| {
            let way_out = format!("end what uses it, or set --{} to another port", setting.name);
            format!("cannot listen on {addr} ({error}): {way_out}")
        })?;
        Ok(Self { listener, close_after: CLOSE_AFTER })
    }

    /// The same, which closes what is still open this long after its shutdown; 8 s otherwise.
    pub(crate) fn close_after(self, close_after: Duration) -> Self {
        Self { close_after, ..self }
    }

    /// The address, with the port it got.
    pub(crate) fn addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`; then refuses connections at once, lets requests at work finish, and
    /// closes what is still open after that. Returns when every connection is closed, always with
    /// `Ok`; when it is dropped, none is left either.
    pub(crate) async fn serve(
        self,
        api: Router,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let app = surround(api);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        while let Some((place, stream)) = self.accept(&places, &shutdown).await {
            while connections.try_join_next().is_some() {}
            let (app, shutdown) = (app.clone(), shutdown.clone());
            connections.spawn(async move {
                serve_connection(stream, app, shutdown).await;
                drop(place);
            });
        }
        drop(self.listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        if timeout(self.close_after, finished).await.is_err() {
            tracing::warn!(open = connections.len(), "connections are closed at work");
            connections.shutdown().await;
        }
        Ok(())
    }

    /// The next connection and its place among those that may be open; `None` on shutdown.
    async fn accept(
        &self,
        places: &Arc<Semaphore>,
        shutdown: &CancellationToken,
    ) -> Option<(OwnedSemaphorePermit, TcpStream)> {
        let next = async {
            let place = places.clone().acquire_owned().await.ok()?;
            loop {
                match self.listener.accept().await {
                    Ok((stream, _)) => return Some((place, stream)),
                    // Out of file descriptors, for example: others must close first.
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! { biased;
            () = shutdown.cancelled() => None,
            accepted = next => accepted,
        }
    }
}

async fn serve_connection(stream: TcpStream, app: Router, shutdown: CancellationToken) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is without nodelay");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    let ended = tokio::select! { biased;
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = connection.as_mut() => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// What surrounds the routes of every role.
fn surround(api: Router) -> Router {
    let at_work = Arc::new(Semaphore::new(MAX_REQUESTS));
    api.fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(deadline))
        .layer(from_fn_with_state(at_work, bound))
        .route("/livez", get(async || StatusCode::NO_CONTENT))
}

async fn deadline(request: Request, next: Next) -> Response {
    match timeout(REQUEST_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = REQUEST_DEADLINE.as_secs();
            let detail = format!("not done within {seconds} s, and it may yet happen: repeat it");
            Problem::unavailable(detail).into_response()
        }
    }
}

async fn bound(State(at_work): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match at_work.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            let detail = format!("{MAX_REQUESTS} requests are at work already: try again");
            Problem::unavailable(detail).into_response()
        }
    }
}

async fn unknown_path(request: Request) -> Problem {
    Problem::not_found(format!("there is nothing at {}", request.uri().path()))
}

async fn method_not_allowed(request: Request) -> Problem {
    let (method, path) = (request.method(), request.uri().path());
    let detail = format!("{path} does not take {method}: see the header allow");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}
