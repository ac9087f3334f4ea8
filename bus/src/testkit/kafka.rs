//! A Kafka broker of a test's own: one node that is broker and controller, no containers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use super::ports::free_port;
use super::process::{LOOK_EVERY, Process, failed};
use crate::error::{Error, ErrorKind, Result};

const READY_LIMIT: Duration = Duration::from_secs(120);
/// Another test may take a port between choosing and listening.
const START_ATTEMPTS: u32 = 3;
/// Any 16 bytes, in base64url.
const CLUSTER_ID: &str = "bG9ja2dhdGUtdGVzdC0wMQ";

/// A Kafka broker in KRaft mode, listening on 127.0.0.1, with a store of its own. It creates no
/// topic by itself.
///
/// Starting takes about four seconds, so share one where tests can. Dropping it kills the broker
/// and removes its files; while a test panics its log is printed.
///
/// ```no_run
/// # async fn example() -> bus::Result<()> {
/// use bus::testkit::KafkaBroker;
/// use bus::{Bus, StreamConfig};
///
/// let mut broker = KafkaBroker::start_with("group.consumer.heartbeat.interval.ms=500").await?;
/// let bus = Bus::connect(&broker.url()).await?;
/// let orders = StreamConfig { partitions: 3, ..StreamConfig::parse("orders", &["orders.>"])? };
/// bus.ensure_stream(&orders).await?;
///
/// broker.freeze()?; // its connections stay open, and nothing is answered
/// broker.thaw()?;
/// assert_eq!(bus.stream("orders").await?.info().await?.config.partitions, 3);
/// # Ok(()) }
/// ```
pub struct KafkaBroker {
    jars: PathBuf,
    extra: String,
    ports: [u16; 2],
    process: Process,
}

impl KafkaBroker {
    /// Starts a broker and waits until it takes clients (at most 120 s).
    ///
    /// Its jars are looked for in `libs/` of the folder that `LOCKGATE_KAFKA` names, and of
    /// `target/tools/kafka` of the workspace; without them, or without `java` on `PATH`, this is
    /// [`ErrorKind::NotFound`] and says how to get them.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// The same with `extra` lines in the broker's properties.
    pub async fn start_with(extra: &str) -> Result<Self> {
        Self::start_with_users(extra, &[]).await
    }

    /// The same with users who prove themselves by SCRAM, each as `kafka-storage.sh` takes them:
    /// `SCRAM-SHA-512=[name=anna,password=...]`.
    pub async fn start_with_users(extra: &str, users: &[&str]) -> Result<Self> {
        let jars = find_jars()?;
        let mut attempt = 1;
        loop {
            let process = Process::new("kafka")?;
            let (jars, extra) = (jars.clone(), extra.to_owned());
            let mut broker = Self { jars, extra, ports: [free_port()?, free_port()?], process };
            broker.format(users)?;
            match broker.restart().await {
                Err(_) if attempt < START_ATTEMPTS && broker.log().contains("BindException") => {
                    attempt += 1;
                }
                started => return started.map(|()| broker),
            }
        }
    }

    /// Where it listens, also while it is down.
    pub fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.ports[0])
    }

    /// Kills the broker at once, as a crash would. What it had not flushed is in the hands of the
    /// system, which did not crash.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Asks the broker to end and waits until it has (at most 10 s, then it is killed).
    pub async fn stop(&mut self) -> Result<()> {
        self.process.stop().await
    }

    /// Stops the broker in the middle of what it does, its connections open, until
    /// [`KafkaBroker::thaw`].
    pub fn freeze(&mut self) -> Result<()> {
        self.process.freeze()
    }

    /// Lets a broker that was frozen go on.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.thaw()
    }

    /// Starts the broker again on the same port with the same store, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill9();
        let mut command = self.java();
        command.arg("kafka.Kafka").arg(self.properties_path());
        self.process.spawn(command)?;
        let deadline = Instant::now() + READY_LIMIT;
        while !self.process.wrote("Kafka Server started") {
            let ended = self.process.has_ended();
            if ended || Instant::now() >= deadline {
                let what = if ended { "ended at once" } else { "was not ready in time" };
                let what = format!("kafka {what}; its log ends with:\n{}", self.log());
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// What the broker wrote, at most its last lines.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Where it keeps what it stores: a folder for each partition, named `<topic>-<number>`.
    pub fn store(&self) -> PathBuf {
        self.process.folder().join("store")
    }

    fn java(&self) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-Xshare:auto", "-cp"]);
        java.arg(self.jars.join("*"));
        java
    }

    /// Writes the properties, and the store's identity into it.
    fn format(&self, users: &[&str]) -> Result<()> {
        let path = self.properties_path();
        fs::write(&path, self.properties()).map_err(|e| failed("write server.properties", e))?;
        let mut command = self.java();
        command.args(["kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER_ID, "-c"]);
        command.arg(&path);
        for user in users {
            command.args(["--add-scram", user]);
        }
        let output = command.output().map_err(|e| {
            let what = format!("java does not run ({e}): install a JDK of version 17 or newer");
            Error::with_source(ErrorKind::NotFound, what, e)
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::new(ErrorKind::Backend, format!("kafka's store cannot be formatted: {said}")))
    }

    fn properties_path(&self) -> PathBuf {
        self.process.folder().join("server.properties")
    }

    fn properties(&self) -> String {
        let [broker, controller] = self.ports;
        let listeners =
            format!("PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}");
        let store = self.store();
        let store = store.display();
        // A crashed broker is let in again when its session is over: 2 s, where 9 s is usual.
        format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.bootstrap.servers=127.0.0.1:{controller}\n\
             listeners={listeners}\n\
             advertised.listeners={listeners}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             log.dirs={store}\n\
             auto.create.topics.enable=false\n\
             broker.session.timeout.ms=2000\n\
             broker.heartbeat.interval.ms=500\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=4\n\
             share.coordinator.state.topic.replication.factor=1\n\
             share.coordinator.state.topic.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             log.cleaner.dedupe.buffer.size=4194304\n\
             {extra}\n",
            extra = self.extra,
        )
    }
}

fn find_jars() -> Result<PathBuf> {
    let named = std::env::var_os("LOCKGATE_KAFKA").map(PathBuf::from);
    let in_tools = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("target/tools/kafka"))
        .find(|folder| folder.is_dir());
    // A broker that was named is meant: none other is tried in its place.
    let jars = named.or(in_tools).map(|folder| folder.join("libs"));
    jars.filter(|jars| jars.is_dir()).ok_or_else(|| {
        Error::not_found("no Kafka broker: run `make tools`, or name its folder in LOCKGATE_KAFKA")
    })
}
