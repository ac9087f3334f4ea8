//! `lockgate doctor`: whether the servers are fit for what Lockgate does with them.

mod nats;
mod rights;
mod streams;

use std::path::PathBuf;

use bus::Bus;
use clap::Args;
use lockgate_bridge::Bridges;
use lockgate_bridge::examine::{self, Finding, Level};

use super::connection::Connection;
use super::failure::Failure;
use super::screen::{Screen, colour_allowed, printable};
use crate::limits::MAX_STORED_MESSAGE_BYTES;

const EXAMPLES: &str = "\
Looks at a bus: whether its servers answer, their versions, JetStream and its room, the clock, what the
user may do, and how streams and buckets are set. With a file of routes also at its Kafka brokers: their
settings, and the topics of each route. Each line is ok, warn or FAIL, with what to change. It changes
nothing and stores nothing.

A user of one role alone (nats/permissions.toml) is refused what other roles do: run it as an admin, or
pass over those lines.

Examples:
  lockgate doctor --bus nats://127.0.0.1:4222
  lockgate doctor --bus nats://127.0.0.1:4222 --bridges bridges.toml
  lockgate doctor --bus kafka://127.0.0.1:9092 --json

Exit codes: 0 with no FAIL, 1 otherwise";

/// Look at the servers, and say what to change
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// The bus
    #[arg(long, env = "LOCKGATE_BUS", default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    bus: String,
    /// A file of routes (see `lockgate bridge`), whose Kafka brokers are looked at too
    #[arg(long, env = "LOCKGATE_BRIDGES", value_name = "FILE")]
    bridges: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Doctor {
    /// Looks, and prints. Fails where something does not work.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let screen = Screen::new(self.json);
        let bridges = self.bridges.as_deref().map(super::bridge::read).transpose()?;
        let mut tally = Tally { screen: &screen, failed: 0 };
        match self.bus.split_once(':').map(|(scheme, _)| scheme) {
            Some("nats" | "tls") => self.nats(&mut tally, bridges.as_ref()).await?,
            Some("kafka") => {
                let bus = Bridges { kafka: self.connection.kafka(&self.bus), routes: Vec::new() };
                tally.tell(examine::examine(&bus, u64::from(MAX_STORED_MESSAGE_BYTES)).await)?;
            }
            _ => {
                let found = match Bus::connect_with(&self.bus, self.connection.options()?).await {
                    Ok(_) => Finding::ok("bus", "is in this process, and needs no server"),
                    Err(error) => Finding::fail("bus", error.to_string(), "correct --bus"),
                };
                tally.tell([found])?;
            }
        }
        if let Some(bridges) = &bridges {
            tally.tell(examine::examine(bridges, u64::from(MAX_STORED_MESSAGE_BYTES)).await)?;
        }
        match tally.failed {
            0 => Ok(()),
            1 => Err(Failure::new("1 thing does not work: see the line with FAIL")),
            failed => {
                Err(Failure::new(format!("{failed} things do not work: see the lines with FAIL")))
            }
        }
    }

    async fn nats(&self, tally: &mut Tally<'_>, bridges: Option<&Bridges>) -> Result<(), Failure> {
        let options = self.connection.options()?;
        let (found, server) = nats::servers(&self.bus, &options).await;
        tally.tell(found)?;
        let Some(server) = server else { return Ok(()) };
        let (found, has_streams) = nats::jetstream(&server).await;
        tally.tell(found)?;
        if !has_streams {
            return Ok(());
        }
        tally.tell(rights::look(&server).await)?;
        match Bus::connect_with(&self.bus, options).await {
            Ok(bus) => {
                tally.tell(streams::look(&bus, server.is_clustered(), bridges).await)?;
                let _ = tokio::time::timeout(nats::PATIENCE, bus.close()).await;
                Ok(())
            }
            Err(error) => {
                tally.tell([Finding::fail("streams", error.to_string(), "see the lines above")])
            }
        }
    }
}

/// What was found so far; each line is printed when it is known.
struct Tally<'s> {
    screen: &'s Screen,
    failed: usize,
}

impl Tally<'_> {
    fn tell(&mut self, found: impl IntoIterator<Item = Finding>) -> Result<(), Failure> {
        for one in found {
            self.failed += usize::from(one.level == Level::Fail);
            if self.screen.is_json() {
                self.screen.line(&serde_json::to_string(&one).unwrap_or_default())?;
                continue;
            }
            let (word, colour) = match one.level {
                Level::Ok => ("ok  ", 32),
                Level::Warn => ("warn", 33),
                Level::Fail => ("FAIL", 31),
            };
            let word = match colour_allowed(&std::io::stdout()) {
                true => format!("\x1b[{colour}m{word}\x1b[0m"),
                false => word.to_owned(),
            };
            self.screen.line(&format!(
                "{word}  {}: {}",
                printable(&one.what),
                printable(&one.says)
            ))?;
            if let Some(change) = &one.change {
                self.screen.line(&format!("        {}", printable(change)))?;
            }
        }
        Ok(())
    }
}
