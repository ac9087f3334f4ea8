//! `lockgate realms`: which realms there are, and whether prefills can read their state.

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::failure::Failure;
use super::screen::{Screen, grouped, printable};
use super::server::ServerArgs;
use crate::client::Client;
use crate::client::wire::RealmStatus;
use crate::model::Realm;

const EXAMPLES: &str = "\
Examples:
  lockgate realms
  lockgate realms --json | jq 'select(.history == \"incomplete\")'
  lockgate realms accept-history directory

HISTORY is whole while a log has lost nothing. Once its beginning was removed it is incomplete: keys
that were published only there are not known, so that a prefill would leave them out in silence,
and is refused. Publish every key anew, then accept what is there.";

/// List realms, or accept what a realm's log holds as the whole state
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Realms {
    #[command(subcommand)]
    command: Option<What>,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List every realm (the default)
    List,
    /// Say that what a realm's log holds is the state, although its beginning was removed
    ///
    /// Prefills then read it. What is removed after this is not covered.
    AcceptHistory {
        /// The realm's name
        name: String,
    },
}

impl Realms {
    /// Asks, and prints.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { command, json, server } = self;
        let (client, screen) = (server.client()?, Screen::new(json));
        match command.unwrap_or(What::List) {
            What::List => list(&client, &screen).await,
            What::AcceptHistory { name } => accept_history(&client, &screen, &name).await,
        }
    }
}

async fn list(client: &Client, screen: &Screen) -> Result<(), Failure> {
    let realms = client.realms().await?;
    if screen.is_json() {
        for realm in &realms {
            screen.line(&serde_json::to_string(realm).unwrap_or_default())?;
        }
        return Ok(());
    }
    if realms.is_empty() {
        screen.note("no realm yet: publish an event to begin one");
        return Ok(());
    }
    let mut table = table();
    for realm in &realms {
        table.add_row(row(realm));
    }
    for line in table.to_string().lines() {
        screen.line(line.trim_end())?;
    }
    Ok(())
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAME", "EVENTS", "FIRST", "LAST", "BYTES", "HISTORY"]);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn row(realm: &RealmStatus) -> Vec<Cell> {
    let figure = |number: Option<u64>| {
        let text = number.map_or_else(|| String::from("-"), grouped);
        Cell::new(text).set_alignment(CellAlignment::Right)
    };
    vec![
        Cell::new(printable(&realm.name)),
        figure(realm.events),
        figure(realm.first_sequence),
        figure(realm.last_sequence),
        figure(realm.bytes),
        Cell::new(printable(&realm.history)),
    ]
}

async fn accept_history(client: &Client, screen: &Screen, name: &str) -> Result<(), Failure> {
    let realm = Realm::new(name).map_err(|error| Failure::usage(error.to_string()))?;
    let accepted = client.accept_history(&realm).await?;
    if screen.is_json() {
        return Ok(screen.line(&serde_json::to_string(&accepted).unwrap_or_default())?);
    }
    let first = accepted.first_sequence.map_or_else(|| String::from("-"), grouped);
    Ok(screen.line(&format!("{realm}: what its log holds from {first} on is the state"))?)
}
