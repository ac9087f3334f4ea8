//! Listening, and letting go.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::access::Access;
use super::guard::Guard;
use super::patience::{Deadline, Patient};
use crate::limits::{CLOSE_AFTER, HEADER_READ_TIMEOUT, MAX_CONNECTIONS, WRITE_TIMEOUT};

/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen, and who may come.
#[derive(Clone)]
pub struct ListenOptions {
    /// The address; port 0 takes a free one.
    pub addr: SocketAddr,
    /// The tokens. Without any, `addr` must be a loopback address.
    pub access: Access,
    /// Further host names to answer for: see [`Guard::new`].
    pub allowed_hosts: Vec<String>,
    /// Origins whose pages may use the API: see [`Guard::new`].
    pub allowed_origins: Vec<String>,
}

/// Why a server could not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It would have been open to the network without tokens.
    #[error(
        "refused to listen on {addr} without tokens, as everyone on the network could publish and \
         read: configure admin and publish tokens (--admin-tokens, --publish-tokens), or listen on \
         127.0.0.1"
    )]
    Unprotected {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The operating system refused.
    #[error("cannot listen on {addr}: choose another address or end what uses it")]
    Io {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
}

/// A listening server that does not accept yet.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    guard: Guard,
}

impl Server {
    /// Listens. A port that is taken and an address that needs tokens are errors.
    pub async fn bind(options: &ListenOptions) -> Result<Self, BindError> {
        let ListenOptions { addr, access, allowed_hosts, allowed_origins } = options;
        let addr = *addr;
        if access.is_open() && !addr.ip().is_loopback() {
            return Err(BindError::Unprotected { addr });
        }
        let io = |source| BindError::Io { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(io)?;
        let bound = listener.local_addr().map_err(io)?;
        let guard = Guard::new(access.is_open(), allowed_hosts, allowed_origins);
        Ok(Self { listener, addr: bound, guard })
    }

    /// The address, with the port it got.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The guard to build the app with.
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// Serves until `shutdown`; then stops accepting, lets requests at work finish, and closes
    /// what is still open after 8 s. A client that takes nothing of an answer for 60 s is let go.
    /// Returns when every connection is closed.
    pub async fn serve(self, app: Router, shutdown: CancellationToken) {
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
        if timeout(CLOSE_AFTER, finished).await.is_err() {
            tracing::warn!(open = connections.len(), "connections are closed at work");
            connections.shutdown().await;
        }
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
        tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            accepted = next => accepted,
        }
    }
}

async fn serve_connection(stream: TcpStream, app: Router, shutdown: CancellationToken) {
    // Events are small and must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is without nodelay");
    }
    let (deadline, stream) = (Deadline::none(), Patient::new(stream, WRITE_TIMEOUT));
    let for_requests = deadline.clone();
    let app = app.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(for_requests.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = async {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            ended = connection.as_mut() => ended,
        }
    };
    tokio::select! {
        biased;
        () = deadline.passed() => tracing::debug!("a connection is closed: its time is up"),
        ended = served => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke off");
            }
        }
    }
}
