//! `lockgate topology`: streams, consumers and buckets as a file declares them.

use std::path::PathBuf;

use bus::topology::{Action, Change};
use bus::{Bus, Topology as Declared};
use clap::{Args, Subcommand};
use serde_json::json;

use super::connection::Connection;
use super::failure::Failure;
use super::screen::{colour_allowed, tell};
use crate::store;

const EXAMPLES: &str = "\
Examples:
  lockgate topology check nats/topology.toml --bus nats://127.0.0.1:4222
  lockgate topology apply nats/topology.toml --bus nats://127.0.0.1:4222 --replicas 3
  lockgate topology show --bus nats://127.0.0.1:4222 > mine.toml
      what Lockgate has on that bus, to be edited and applied

Signs:  + is missing   ~ differs and can be changed   ! differs and cannot

`apply` changes nothing at all while there is a difference that cannot be mended. What the file does
not name is left alone. Nothing else changes what exists: roles create what is missing, and warn of
what differs from their options.";

/// Compare a bus with a topology file, or bring the file about
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Topology {
    #[command(subcommand)]
    command: What,
    /// The bus to look at
    #[arg(
        long,
        global = true,
        env = "LOCKGATE_BUS",
        default_value = "nats://127.0.0.1:4222",
        value_name = "URL"
    )]
    bus: String,
    /// Copies of everything, in place of what the file says
    #[arg(long, global = true, env = "LOCKGATE_REPLICAS", value_name = "COPIES",
          value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: Option<u8>,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what differs; exit with 1 if anything does
    Check {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        connection: Connection,
    },
    /// Create and update until all is as declared; a second time changes nothing
    Apply {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        connection: Connection,
    },
    /// Print what Lockgate has on the bus, the logs of its realms included, as a file declares it
    Show {
        #[command(flatten)]
        connection: Connection,
    },
}

impl Topology {
    /// Compares or applies, and prints.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { command, bus: url, replicas, json } = self;
        let read = |file: &PathBuf| -> Result<Declared, Failure> {
            let declared = Declared::read(file)?;
            Ok(match replicas {
                Some(replicas) => declared.replicas(replicas),
                None => declared,
            })
        };
        let (What::Check { connection, .. }
        | What::Apply { connection, .. }
        | What::Show { connection }) = &command;
        let options = connection.options()?;
        // A file that cannot be read is told without a bus.
        let declared = match &command {
            What::Check { file, .. } | What::Apply { file, .. } => read(file)?,
            What::Show { .. } => Declared::default(),
        };
        let bus = Bus::connect_with(&url, options).await?;
        match command {
            What::Show { .. } => {
                let has = store::existing_topology(&bus).await?;
                let text = format!("# What Lockgate has on {url}\n\n{}", has.to_toml()?);
                Ok(tell(text.trim_end_matches('\n'))?)
            }
            What::Check { .. } => {
                let changes = bus.compare_topology(&declared).await?;
                print(&changes, json)?;
                match changes.len() {
                    0 => Ok(()),
                    n => Err(Failure::new(format!("{n} of what is declared is not so on {url}"))),
                }
            }
            What::Apply { .. } => print(&bus.ensure_topology(&declared).await?, json),
        }
    }
}

fn print(changes: &[Change], as_json: bool) -> Result<(), Failure> {
    if changes.is_empty() && !as_json {
        tell("as declared")?;
    }
    for change in changes {
        tell(&match (as_json, colour_allowed(&std::io::stdout())) {
            (true, _) => record(change).to_string(),
            (false, true) => format!("\x1b[{}m{change}\x1b[0m", colour(change.action)),
            (false, false) => change.to_string(),
        })?;
    }
    Ok(())
}

fn colour(action: Action) -> u8 {
    match action {
        Action::Create => 32,
        Action::Update => 33,
        Action::Refuse => 31,
    }
}

fn record(change: &Change) -> serde_json::Value {
    let action = match change.action {
        Action::Create => "create",
        Action::Update => "update",
        Action::Refuse => "refuse",
    };
    let differences: Vec<_> = change
        .differences
        .iter()
        .map(|d| json!({ "field": d.field, "has": d.has, "wants": d.wants, "fixed": d.fixed }))
        .collect();
    json!({ "what": change.what, "action": action, "differences": differences })
}
