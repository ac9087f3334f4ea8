//! `lockgate subscriptions`: what is registered, and how it stands.

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment, Table, presets};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::dead_letters::DeadLetters;
use super::failure::Failure;
use super::screen::{Screen, grouped, printable};
use super::server::ServerArgs;
use super::state::StateFile;
use crate::client::wire::{PrefillStatus, SubscriptionStatus};
use crate::client::{Client, Error, ErrorKind};
use crate::model::SubscriptionName;

/// Figures of queues cost the server a request each, so few are asked for at once.
const ASKED_AT_ONCE: usize = 4;

const EXAMPLES: &str = "\
Examples:
  lockgate subscriptions
  lockgate subscriptions show people
  lockgate subscriptions delete people
  lockgate subscriptions dead-letters jobs
  lockgate subscriptions --json | jq 'select(.lag > 0)'

LAG and UNSETTLED are those of the queue (pull, subscribe --queue). A reader of the event stream keeps
its position itself, so that the server knows no lag of it.";

/// List subscriptions, show one, or delete one
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Subscriptions {
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
    /// List every subscription (the default)
    List,
    /// Show one subscription: prefill, fence, lag
    Show {
        /// Its name
        name: String,
    },
    DeadLetters(DeadLetters),
    /// Delete a subscription with its queues and its position, here and on the server
    Delete {
        /// Its name
        name: String,
    },
}

impl Subscriptions {
    /// Asks, and prints.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { command, json, server } = self;
        let (client, screen) = (server.client()?, Screen::new(json));
        match command.unwrap_or(What::List) {
            What::List => list(&client, &screen).await,
            What::Show { name } => show(&client, &screen, &parse(name)?).await,
            What::DeadLetters(letters) => letters.run(&client, &screen).await,
            What::Delete { name } => delete(&client, &screen, &parse(name)?).await,
        }
    }
}

pub(super) fn parse(name: String) -> Result<SubscriptionName, Failure> {
    SubscriptionName::new(name).map_err(|error| Failure::usage(error.to_string()))
}

const HEADER: [&str; 5] = ["NAME", "TOPICS", "PREFILL", "LAG", "UNSETTLED"];

async fn list(client: &Client, screen: &Screen) -> Result<(), Failure> {
    let (mut token, mut table) = (None, plain_table(&HEADER));
    loop {
        let page = client.subscriptions(token.as_deref()).await?;
        let detailed = stream::iter(page.subscriptions)
            .map(|brief| with_figures(client, brief))
            .buffered(ASKED_AT_ONCE);
        let detailed: Vec<_> = detailed.try_collect().await?;
        for status in detailed.iter().flatten() {
            match screen.is_json() {
                true => screen.line(&serde_json::to_string(status).unwrap_or_default())?,
                false => drop(table.add_row(row(status))),
            }
        }
        token = page.next_page_token;
        if token.is_none() {
            break;
        }
    }
    if screen.is_json() {
        return Ok(());
    }
    if table.is_empty() {
        screen.note("no subscription yet: lockgate subscribe NAME --topics 'realm.*' [--prefill]");
        return Ok(());
    }
    for line in table.to_string().lines() {
        screen.line(line.trim_end())?;
    }
    Ok(())
}

/// `None` for one that was deleted between the list and now.
async fn with_figures(
    client: &Client,
    brief: SubscriptionStatus,
) -> Result<Option<SubscriptionStatus>, Error> {
    if brief.lag.is_some() {
        return Ok(Some(brief));
    }
    let Ok(name) = SubscriptionName::new(brief.name.clone()) else {
        return Ok(Some(brief));
    };
    match client.subscription(&name, None).await {
        Ok(detailed) => Ok(Some(detailed)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A table without lines, under these headings.
pub(super) fn plain_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn row(status: &SubscriptionStatus) -> Vec<Cell> {
    let figure = |number: Option<u64>| number.map_or_else(|| String::from("-"), grouped);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    vec![
        Cell::new(printable(&status.name)),
        Cell::new(printable(&status.topics.join(", "))),
        Cell::new(prefill(&status.prefill)),
        right(figure(status.lag)),
        right(figure(status.unsettled)),
    ]
}

fn prefill(prefill: &PrefillStatus) -> String {
    match (prefill.status.as_str(), prefill.scanned, prefill.total, prefill.rows) {
        ("none", ..) => String::from("-"),
        ("running", Some(scanned), Some(total), _) if total > 0 => {
            format!("running {} %", scanned.saturating_mul(100) / total)
        }
        (status, _, _, Some(rows)) => format!("{} {}", printable(status), grouped(rows)),
        (status, ..) => printable(status),
    }
}

async fn show(client: &Client, screen: &Screen, name: &SubscriptionName) -> Result<(), Failure> {
    let kept = StateFile::of(client.server(), name)?.load()?;
    let secret = kept.as_ref().map(|kept| kept.secret.as_str());
    let status = client.subscription(name, secret).await?;
    if screen.is_json() {
        return Ok(screen.line(&serde_json::to_string(&status).unwrap_or_default())?);
    }
    let fence: Vec<_> =
        status.fence.iter().map(|(realm, at)| format!("{realm} {}", grouped(*at))).collect();
    let mut lines = vec![
        ("name", status.name.clone()),
        ("topics", status.topics.join(", ")),
        ("prefill", prefill(&status.prefill)),
        ("fence", fence.join(", ")),
        ("generation", status.generation.to_string()),
    ];
    if let Some(reason) = &status.prefill.reason {
        lines.insert(3, ("reason", reason.clone()));
    }
    let figures = [("lag", status.lag), ("unsettled", status.unsettled)];
    lines.extend(figures.map(|(what, n)| (what, n.map_or_else(|| "-".into(), grouped))));
    for (what, value) in lines {
        screen.line(&format!("{what:12} {}", printable(&value)))?;
    }
    Ok(())
}

async fn delete(client: &Client, screen: &Screen, name: &SubscriptionName) -> Result<(), Failure> {
    let file = StateFile::of(client.server(), name)?;
    let secret = file.load()?.map(|kept| kept.secret);
    client.delete(name, secret.as_deref()).await?;
    file.remove()?;
    match screen.is_json() {
        true => Ok(screen.told(&json!({ "name": name.as_str(), "deleted": true }).to_string())?),
        false => Ok(screen.told(&format!("{name} is deleted"))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefill_is_told_in_two_words() {
        let told = |json: &str| prefill(&serde_json::from_str(json).unwrap());
        assert_eq!(told(r#"{"status":"none"}"#), "-");
        assert_eq!(told(r#"{"status":"pending"}"#), "pending");
        assert_eq!(
            told(r#"{"status":"running","scanned":61,"total":100,"rows":7}"#),
            "running 61 %"
        );
        assert_eq!(told(r#"{"status":"running","scanned":0,"total":0}"#), "running");
        assert_eq!(told(r#"{"status":"done","rows":12408}"#), "done 12 408");
    }
}
