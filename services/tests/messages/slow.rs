//! Clients that stop reading, over real connections.

use std::net::SocketAddr;
use std::time::Duration;

use lockgate::http::{Access, Health, ListenOptions, Server, app};
use lockgate::messages::MessagesOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::support::{Process, SECRET, World};

/// More than the buffers of a connection hold.
const EVENTS: usize = 40;
const EVENT_BYTES: usize = 500_000;
/// What ends an answer that was sent to its end.
const LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";

struct Serving {
    addr: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Serving {
    async fn start(world: &World, process: &Process) -> Self {
        let options = ListenOptions {
            addr: "127.0.0.1:0".parse().unwrap(),
            access: Access::open(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        };
        let server = Server::bind(&options).await.unwrap();
        let (addr, shutdown) = (server.addr(), CancellationToken::new());
        let health = Health::new(world.store.clone(), shutdown.clone());
        let app = app(process.router.clone(), server.guard(), health);
        let task = tokio::spawn(server.serve(app, shutdown.clone()));
        Self { addr, shutdown, task }
    }

    /// A stream of which nothing is read yet.
    async fn open(&self) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(self.addr).await.unwrap();
        let request = format!(
            "GET /v1/subscriptions/people/events HTTP/1.1\r\nhost: localhost\r\n\
             authorization: Bearer {SECRET}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

async fn world() -> World {
    let mut world = World::new().await;
    world.publish("dir.user", "first", 0).await;
    world.subscribe("people", &["dir.*"], false).await;
    for _ in 0..EVENTS {
        world.publish_text("dir.user", "k", &"x".repeat(EVENT_BYTES)).await;
    }
    world
}

/// What still comes until the server closes, however it does.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    read
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_for_a_minute_is_let_go() {
    let mut world = world().await;
    let process = world.process().await;
    let serving = Serving::start(&world, &process).await;
    let (mut stopped, mut slow) = (serving.open().await, serving.open().await);
    sleep(Duration::from_secs(50)).await;
    // Half a minute before its time is up it goes on reading, and gets everything.
    let mut read = vec![0; EVENTS * EVENT_BYTES];
    slow.read_exact(&mut read).await.unwrap();
    sleep(Duration::from_secs(20)).await;
    let got = rest(&mut stopped).await;
    assert!(got.len() < EVENTS * EVENT_BYTES, "{} bytes", got.len());
    assert!(!got.ends_with(LAST_CHUNK));
    serving.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_too_little_is_held_to_the_age_of_a_stream() {
    let mut world = world().await;
    let max_stream_age = Duration::from_secs(100);
    let options = MessagesOptions { max_stream_age, ..MessagesOptions::default() };
    let process = world.process_with(options).await;
    let serving = Serving::start(&world, &process).await;
    let mut trickling = serving.open().await;
    for _ in 0..9 {
        let mut read = vec![0; 100_000];
        trickling.read_exact(&mut read).await.unwrap();
        sleep(Duration::from_secs(20)).await;
    }
    let got = rest(&mut trickling).await;
    assert!(got.len() < EVENTS * EVENT_BYTES && !got.ends_with(LAST_CHUNK), "{}", got.len());
    serving.stop().await;
}
