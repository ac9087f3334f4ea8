//! Several `nats-server`s that are one cluster, each of which a test can kill, stop and start.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::nats::NatsServer;
use super::ports::free_port;
use super::process::failed;
use crate::error::{Error, ErrorKind, Result};

/// Elections take seconds, and more on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A NATS cluster with JetStream on 127.0.0.1: nodes `0..n`, named `node-0` and so on.
///
/// Dropping it kills its servers and removes their files.
///
/// ```no_run
/// # async fn example() -> bus::Result<()> {
/// use bus::testkit::NatsCluster;
/// use bus::{Bus, Message, StreamConfig};
///
/// let mut cluster = NatsCluster::start(3).await?;
/// let bus = Bus::connect(&cluster.url()).await?;
/// let config = StreamConfig { replicas: 3, ..StreamConfig::parse("orders", &["orders.>"])? };
/// let orders = bus.ensure_stream(&config).await?;
///
/// cluster.kill9(cluster.leader_of("orders").await?);
/// let order = Message::new("orders.created", "42")?.id("order-42");
/// while orders.publish(order.clone()).await.is_err() {} // until another one leads
/// # Ok(()) }
/// ```
pub struct NatsCluster {
    nodes: Vec<Node>,
}

struct Node {
    server: NatsServer,
    monitor: u16,
    running: bool,
}

impl NatsCluster {
    /// Starts `nodes` servers and waits until they are one cluster (at most a minute).
    pub async fn start(nodes: usize) -> Result<Self> {
        Self::start_with(nodes, |_| String::new()).await
    }

    /// The same with further lines in the configuration of each node, by its number.
    pub async fn start_with(nodes: usize, extra: impl Fn(usize) -> String) -> Result<Self> {
        let ports = (0..3 * nodes).map(|_| free_port()).collect::<Result<Vec<_>>>()?;
        let (routes, others) = ports.split_at(nodes);
        let (monitors, clients) = others.split_at(nodes);
        let all: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut cluster = Self { nodes: Vec::with_capacity(nodes) };
        for (number, ((route, &monitor), &client)) in
            routes.iter().zip(monitors).zip(clients).enumerate()
        {
            let config = format!(
                "server_name: {name}\nhttp: \"127.0.0.1:{monitor}\"\n\
                 cluster {{ name: testkit, listen: \"127.0.0.1:{route}\", routes: {all:?} }}\n{extra}",
                name = Self::name(number),
                extra = extra(number),
            );
            let server = NatsServer::start_on(client, &config).await?;
            cluster.nodes.push(Node { server, monitor, running: true });
        }
        cluster.wait_healthy().await?;
        Ok(cluster)
    }

    fn name(number: usize) -> String {
        format!("node-{number}")
    }

    /// How many nodes there are, running or not.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes, for a client that takes any of them; the same while some are down.
    pub fn url(&self) -> String {
        let hosts = self.nodes.iter().map(|node| node.server.url().replace("nats://", ""));
        format!("nats://{}", hosts.collect::<Vec<_>>().join(","))
    }

    /// Kills a node at once, as a crash would.
    pub fn kill9(&mut self, number: usize) {
        if let Some(node) = self.nodes.get_mut(number) {
            node.server.kill9();
            node.running = false;
        }
    }

    /// Starts a node again on its ports with its store, killing it first if it runs.
    pub async fn restart(&mut self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        node.server.restart().await?;
        node.running = true;
        Ok(())
    }

    /// Cuts a node off: it neither answers nor listens, and its connections stay open.
    pub fn freeze(&mut self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        node.running = false;
        node.server.freeze()
    }

    /// Lets a node that was cut off go on with what it knew.
    pub fn thaw(&mut self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        node.running = true;
        node.server.thaw()
    }

    fn node(&mut self, number: usize) -> Result<&mut Node> {
        let missing = || Error::invalid(format!("the cluster has no node {number}"));
        self.nodes.get_mut(number).ok_or_else(missing)
    }

    /// Waits until every node that runs is in step with the others (at most a minute).
    pub async fn wait_healthy(&self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.running) {
            loop {
                let health = ask(node.monitor, "/healthz").await.unwrap_or_default();
                if health.contains("\"ok\"") {
                    break;
                }
                if Instant::now() >= deadline {
                    let what = format!("node {number} is not in step: {health}");
                    let log = node.server.log();
                    let what = format!("{what}; its log ends with:\n{log}");
                    return Err(Error::new(ErrorKind::Unavailable, what));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// The node that leads the stream of this name, of those that run; waits for an election (at
    /// most a minute). A bucket's stream is `KV_<bucket>`.
    pub async fn leader_of(&self, stream: &str) -> Result<usize> {
        let deadline = Instant::now() + READY_LIMIT;
        while Instant::now() < deadline {
            for (number, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.running) {
                let state = ask(node.monitor, "/jsz?accounts=true&streams=true").await;
                let leader = state.ok().and_then(|state| leader(&state, stream));
                if leader.is_some_and(|leader| leader == Self::name(number)) {
                    return Ok(number);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let what = format!("stream {stream} has no leader among the nodes that run");
        Err(Error::new(ErrorKind::Unavailable, what))
    }
}

/// Whom a node takes for the leader of a stream.
fn leader(state: &str, stream: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct State {
        #[serde(default)]
        account_details: Vec<Account>,
    }
    #[derive(Deserialize)]
    struct Account {
        #[serde(default)]
        stream_detail: Vec<Stream>,
    }
    #[derive(Deserialize)]
    struct Stream {
        name: String,
        cluster: Option<Peers>,
    }
    #[derive(Deserialize)]
    struct Peers {
        leader: Option<String>,
    }
    let state: State = serde_json::from_str(state).ok()?;
    let mut streams = state.account_details.into_iter().flat_map(|account| account.stream_detail);
    streams.find(|one| one.name == stream)?.cluster?.leader
}

/// Asks a node's monitoring; the body of the answer.
async fn ask(port: u16, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n");
    let asking = tokio::task::spawn_blocking(move || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut connection = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = asking.await.map_err(std::io::Error::other).and_then(|answer| answer);
    let answer = answer.map_err(|e| failed("ask nats-server for its state", e))?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
