//! A `nats-server` of a test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::ports::free_port;
use super::process::{LOOK_EVERY, Process, failed};
use crate::error::{Error, ErrorKind, Result};

const OLDEST: (u32, u32) = (2, 12);
const READY_LIMIT: Duration = Duration::from_secs(20);

/// A `nats-server` with JetStream, listening on 127.0.0.1, with a store of its own.
///
/// Dropping it kills the server and removes its files; while a test panics its log is printed.
///
/// ```no_run
/// # async fn example() -> bus::Result<()> {
/// use bus::testkit::NatsServer;
/// use bus::{Bus, Message, StreamConfig};
///
/// let mut server = NatsServer::start().await?;
/// let bus = Bus::connect(&server.url()).await?;
/// let orders = bus.ensure_stream(&StreamConfig::parse("orders", &["orders.>"])?).await?;
/// orders.publish(Message::new("orders.created", "42")?).await?;
///
/// server.kill9();
/// server.restart().await?; // the same port, the same store
/// assert_eq!(orders.info().await?.messages, 1);
/// # Ok(()) }
/// ```
pub struct NatsServer {
    binary: PathBuf,
    extra: String,
    domain: Option<String>,
    port: u16,
    process: Process,
}

impl NatsServer {
    /// Starts a server of version 2.12 or newer and waits until it takes clients (at most 20 s).
    ///
    /// The program is looked for at `LOCKGATE_NATS_SERVER`, in `target/tools/` of the workspace
    /// and on `PATH`; without one this is [`ErrorKind::NotFound`] and says how to get it.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// The same with `extra` lines in the server's configuration.
    pub async fn start_with(extra: &str) -> Result<Self> {
        Self::start_on(free_port()?, extra).await
    }

    /// The same with its JetStream in a domain.
    pub async fn start_in_domain(domain: &str) -> Result<Self> {
        let mut server = Self::start_on(free_port()?, "").await?;
        server.domain = Some(domain.to_owned());
        server.restart().await?;
        Ok(server)
    }

    /// The same on a port that the caller found free.
    pub(super) async fn start_on(port: u16, extra: &str) -> Result<Self> {
        let binary = find_binary()?;
        let process = Process::new("nats-server")?;
        let extra = extra.to_owned();
        let mut server = Self { binary, extra, domain: None, port, process };
        server.restart().await?;
        Ok(server)
    }

    /// Where it listens, also while it is down.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The id of its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Kills the server at once, as a crash would. Nothing is flushed.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks the server to end and waits until it has (at most 10 s, then it is killed).
    pub async fn stop(&mut self) -> Result<()> {
        self.process.stop().await
    }

    /// See [`super::NatsCluster::freeze`].
    pub(super) fn freeze(&mut self) -> Result<()> {
        self.process.freeze()
    }

    /// See [`super::NatsCluster::thaw`].
    pub(super) fn thaw(&mut self) -> Result<()> {
        self.process.thaw()
    }

    /// Starts the server again on the same port with the same store, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9();
        let ports = self.process.folder().join("ports");
        let _ = fs::remove_dir_all(&ports);
        fs::create_dir_all(&ports).map_err(|e| failed("make a folder for nats-server", e))?;
        let config = self.process.folder().join("server.conf");
        fs::write(&config, self.config(&ports)).map_err(|e| failed("write server.conf", e))?;
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&config);
        self.process.spawn(command)?;
        self.wait_ready(&ports).await
    }

    /// The folder of its store: to be copied and put back while the server is down.
    pub fn store(&self) -> PathBuf {
        self.process.folder().join("store")
    }

    /// What the server wrote, at most its last lines.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn config(&self, ports: &Path) -> String {
        let port = self.port;
        format!(
            "host: 127.0.0.1\nport: {port}\nports_file_dir: {ports:?}\n\
             jetstream {{ store_dir: {store:?}, max_mem: 1GB, max_file: 10GB {domain} }}\n{extra}\n",
            domain =
                self.domain.as_ref().map(|name| format!(", domain: {name}")).unwrap_or_default(),
            store = self.store(),
            extra = self.extra,
        )
    }

    /// The server writes the file of its ports when it listens.
    async fn wait_ready(&mut self, ports: &Path) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            if read_port(ports) == Some(self.port) {
                return Ok(());
            }
            let ended = self.process.has_ended();
            if ended || Instant::now() >= deadline {
                let what = if ended { "ended at once" } else { "was not ready in time" };
                let what = format!("nats-server {what}; its log ends with:\n{}", self.log());
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn read_port(ports: &Path) -> Option<u16> {
    #[derive(Deserialize)]
    struct Ports {
        nats: Vec<String>,
    }
    let file = fs::read_dir(ports).ok()?.next()?.ok()?.path();
    // Half written, it does not parse, and is looked at again.
    let ports: Ports = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    ports.nats.first()?.rsplit(':').next()?.parse().ok()
}

fn find_binary() -> Result<PathBuf> {
    let mut tried = Vec::new();
    for candidate in candidates() {
        match version(&candidate) {
            Some(version) if version >= OLDEST => return Ok(candidate),
            Some((major, minor)) => {
                tried.push(format!("{} is {major}.{minor}", candidate.display()));
            }
            None => {}
        }
    }
    let tried = if tried.is_empty() { String::from("none found") } else { tried.join(", ") };
    Err(Error::not_found(format!(
        "no nats-server of version {}.{} or newer ({tried}): run `make tools`, or name one in \
         LOCKGATE_NATS_SERVER",
        OLDEST.0, OLDEST.1
    )))
}

fn candidates() -> Vec<PathBuf> {
    // A server that was named is meant: none other is tried in its place.
    if let Some(named) = std::env::var_os("LOCKGATE_NATS_SERVER") {
        return Vec::from([PathBuf::from(named)]);
    }
    let in_tools = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("target/tools/nats-server"))
        .filter(|path| path.is_file());
    in_tools.chain([PathBuf::from("nats-server")]).collect()
}

fn version(binary: &Path) -> Option<(u32, u32)> {
    let output = Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.trim().rsplit('v').next()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
