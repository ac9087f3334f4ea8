//! Real connections: what binds, what drains, what is cut off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use lockgate::http::{Access, BindError, ListenOptions, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::ADMIN;

fn options(addr: &str, access: Access) -> ListenOptions {
    let addr = addr.parse().unwrap();
    ListenOptions { addr, access, allowed_hosts: Vec::new(), allowed_origins: Vec::new() }
}

/// A server whose `/work` says when it began and ends when it is told to.
struct Running {
    addr: SocketAddr,
    began: Arc<Notify>,
    end: Arc<Notify>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let server = Server::bind(&options("127.0.0.1:0", Access::open())).await.unwrap();
        let (addr, shutdown) = (server.addr(), CancellationToken::new());
        let (began, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (began.clone(), end.clone());
        let work = get(async move || {
            tell.notify_one();
            wait.notified().await;
            "done"
        });
        let app = Router::new().route("/work", work);
        let task = tokio::spawn(server.serve(app, shutdown.clone()));
        Self { addr, began, end, shutdown, task }
    }

    async fn request(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(b"GET /work HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        self.began.notified().await;
        stream
    }
}

async fn rest_of(mut stream: TcpStream) -> String {
    let mut text = String::new();
    // A connection that is cut off may end in a reset: what counts is what came before.
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn an_address_that_is_open_to_the_network_needs_tokens() {
    let error = Server::bind(&options("0.0.0.0:0", Access::open())).await.err().unwrap();
    assert!(matches!(error, BindError::Unprotected { .. }));
    assert!(error.to_string().contains("configure admin and publish tokens"), "{error}");
    let access = Access::new(&[ADMIN.into()], &[]).unwrap();
    let first = Server::bind(&options("127.0.0.1:0", access.clone())).await.unwrap();
    let taken = Server::bind(&options(&first.addr().to_string(), access)).await.err().unwrap();
    assert!(matches!(taken, BindError::Io { .. }), "{taken}");
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_takes_no_new_ones() {
    let running = Running::start().await;
    let stream = running.request().await;
    let idle = TcpStream::connect(running.addr).await.unwrap();
    running.shutdown.cancel();
    // The idle connection is closed at once, which shows that the drain has begun.
    assert_eq!(rest_of(idle).await, "");
    assert!(!running.task.is_finished());
    assert!(TcpStream::connect(running.addr).await.is_err());
    running.end.notify_one();
    let answer = rest_of(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
    running.task.await.unwrap();
}

#[tokio::test]
async fn what_does_not_finish_is_closed_within_the_drain() {
    let running = Running::start().await;
    let stream = running.request().await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    running.shutdown.cancel();
    running.task.await.unwrap();
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(8) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(rest_of(stream).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut_off() {
    let running = Running::start().await;
    let mut stream = TcpStream::connect(running.addr).await.unwrap();
    stream.write_all(b"GET /work HTTP/1.1\r\nhost: loc").await.unwrap();
    let answer = rest_of(stream).await;
    assert!(!answer.contains("200 OK"), "{answer}");
    running.shutdown.cancel();
    running.task.await.unwrap();
}
