//! `lockgate subscriptions dead-letters`: what a queue has given up, and what becomes of it.

use clap::{Args, ValueEnum};
use comfy_table::Cell;

use super::delivery::{Delivery, Phase};
use super::failure::Failure;
use super::raw::one_line;
use super::screen::{Screen, grouped, printable};
use super::state::StateFile;
use super::subscriptions::{parse, plain_table};
use crate::client::wire::{DeadLetter, DeadLetters as Which, Settled};
use crate::client::{Client, Error};
use crate::limits::MAX_SETTLEMENTS;
use crate::model::SubscriptionName;

const EXAMPLES: &str = "\
Examples:
  lockgate subscriptions dead-letters jobs
  lockgate subscriptions dead-letters jobs redrive
      every one is delivered again, in order
  lockgate subscriptions dead-letters jobs drop --id 3f2a --id 77c1
  lockgate subscriptions dead-letters jobs --json | jq .event";

/// List what the queue of a subscription has given up, deliver it again, or forget it
///
/// A subscription has dead letters when it was registered with --dead-letters.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DeadLetters {
    /// The subscription
    name: String,
    /// What becomes of them
    #[arg(value_enum, default_value = "list", hide_default_value = true)]
    action: Action,
    /// Only this one; may be given several times [default: every one]
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Show them (the default)
    List,
    /// Deliver them again, in order, with their attempts counted anew
    Redrive,
    /// Forget them for good
    Drop,
}

impl DeadLetters {
    /// Asks, and prints.
    pub(super) async fn run(self, client: &Client, screen: &Screen) -> Result<(), Failure> {
        let Self { name, action, ids } = self;
        let name = parse(name)?;
        let kept = StateFile::of(client.server(), &name)?.load()?;
        let desk = Desk { client, screen, name, secret: kept.map(|kept| kept.secret) };
        match action {
            Action::List => desk.list(&ids).await,
            Action::Redrive | Action::Drop => desk.settle(action, ids).await,
        }
    }
}

struct Desk<'a> {
    client: &'a Client,
    screen: &'a Screen,
    name: SubscriptionName,
    secret: Option<String>,
}

impl Desk<'_> {
    async fn list(&self, ids: &[String]) -> Result<(), Failure> {
        let (mut token, mut table) = (None, plain_table(&HEADER));
        loop {
            let secret = self.secret.as_deref();
            let page = self.client.dead_letters(&self.name, secret, token.as_deref()).await?;
            let wanted = |letter: &&DeadLetter| ids.is_empty() || ids.contains(&letter.id);
            for letter in page.dead_letters.iter().filter(wanted) {
                if self.screen.is_json() {
                    let letter = serde_json::to_string(letter).unwrap_or_default();
                    self.screen.line(&one_line(&letter))?;
                } else {
                    table.add_row(row(letter));
                }
            }
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        if self.screen.is_json() {
            return Ok(());
        }
        if table.is_empty() {
            self.screen.note(&format!("{} has no dead letter", self.name));
            return Ok(());
        }
        for line in table.to_string().lines() {
            self.screen.line(line.trim_end())?;
        }
        Ok(())
    }

    async fn settle(&self, action: Action, ids: Vec<String>) -> Result<(), Failure> {
        if ids.is_empty() {
            return self.tell(action, &self.ask(action, &Which::All(true)).await?);
        }
        let mut all = Settled { results: Vec::new() };
        for some in ids.chunks(MAX_SETTLEMENTS) {
            all.results.extend(self.ask(action, &Which::Ids(some.to_vec())).await?.results);
        }
        self.tell(action, &all)
    }

    async fn ask(&self, action: Action, which: &Which) -> Result<Settled, Error> {
        let secret = self.secret.as_deref();
        match action {
            Action::Drop => self.client.drop_dead_letters(&self.name, secret, which).await,
            _ => self.client.redrive(&self.name, secret, which).await,
        }
    }

    /// Says how it went; what could not be done is a failure.
    fn tell(&self, action: Action, settled: &Settled) -> Result<(), Failure> {
        let of = |status: &str| settled.results.iter().filter(|item| item.status == status).count();
        let (done, unknown, stale) = (of("done"), of("unknown"), of("stale"));
        let failed = settled.results.len() - done - unknown - stale;
        if self.screen.is_json() {
            for item in &settled.results {
                self.screen.told(&serde_json::to_string(item).unwrap_or_default())?;
            }
        } else {
            let what = if action == Action::Drop { "dropped" } else { "redriven" };
            self.screen.told(&format!("{} dead letters {what}", grouped(done as u64)))?;
        }
        if failed > 0 {
            let what = format!("{failed} are left as they were: the bus did not answer");
            return Err(Failure::unavailable(format!("{what}\n  repeat it")));
        }
        if stale > 0 {
            return Err(Failure::new(format!(
                "{stale} cannot be delivered any more: they are rows of a prefill that is over, or \
                 the log does not hold them\n  drop them: lockgate subscriptions dead-letters {} \
                 drop --id ID",
                self.name
            )));
        }
        if unknown > 0 {
            return Err(Failure::new(format!(
                "{unknown} of these ids name no dead letter\n  see what is there: lockgate \
                 subscriptions dead-letters {}",
                self.name
            )));
        }
        Ok(())
    }
}

const HEADER: [&str; 7] = ["ID", "PHASE", "TOPIC", "KEY", "ATTEMPTS", "SINCE", "REASON"];

fn row(letter: &DeadLetter) -> Vec<Cell> {
    let phase = if letter.phase == "prefill" { Phase::Prefill } else { Phase::Live };
    let event = Delivery::parse(phase, letter.event.get());
    let (topic, key) = match &event {
        Some(event) => (event.topic.to_string(), event.key.as_str()),
        None => (format!("{}.?", letter.realm), "?"),
    };
    let attempts = grouped(u64::from(letter.attempts));
    [&letter.id, phase.as_str(), &topic, key, &attempts, &letter.since, &letter.reason]
        .map(|text| Cell::new(printable(text)))
        .to_vec()
}
