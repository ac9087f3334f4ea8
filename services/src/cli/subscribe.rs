//! `lockgate subscribe`: registers if need be, then shows what comes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::screen::Screen;
use super::server::ServerArgs;
use super::state::{Kept, Position, StateFile};
use super::{follow, pull};
use crate::client::wire::{NewSubscription, SubscriptionStatus};
use crate::client::{Client, ErrorKind, Subscriber, Transport};
use crate::model::SubscriptionName;
use crate::platform::Entropy;
use crate::store::new_secret;

const EXAMPLES: &str = "\
Examples:
  lockgate subscribe people --topics 'directory.*' --prefill
      the current state of the directory, then every change
  lockgate subscribe people
      goes on where it stopped
  lockgate subscribe people --topics 'directory.*' --prefill --until-up-to-date --json
      a snapshot for a script
  lockgate subscribe people --transport ws
      the same over WebSocket, from the same position
  lockgate subscribe jobs --topics orders.created --queue
      takes deliveries from the queue, beside others who do the same, and acknowledges them
  lockgate subscribe jobs --topics orders.created --max-attempts 5 --dead-letters --queue
      the same, and what fails five times is kept aside: lockgate subscriptions dead-letters jobs

The secret and the position are kept below $XDG_STATE_HOME/lockgate (~/.local/state/lockgate),
readable by you alone.";

/// Show a subscription: the current state if it was registered with prefill, then every change
///
/// With --topics it is registered first, if it is not yet. Without, it must have been registered
/// from here, or bring its secret.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Subscribe {
    /// The subscription: 1 to 48 characters of a-z 0-9 _ -
    name: String,
    /// Registers it for these topics, each realm.topic, `*` allowed for either
    #[arg(long, value_delimiter = ',', value_name = "TOPIC")]
    topics: Vec<String>,
    /// Registers it with the current state first
    #[arg(long, requires = "topics")]
    prefill: bool,
    /// Registers it with this lease on deliveries taken with --queue, for example 30s
    #[arg(long, requires = "topics", value_name = "DURATION")]
    ack_wait: Option<String>,
    /// Registers it so that a delivery taken with --queue is given up after this many attempts
    /// [default: it is tried without end]
    #[arg(long, requires = "topics", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: Option<u32>,
    /// Registers it so that what is given up is kept: see `lockgate subscriptions dead-letters`
    #[arg(long, requires = "topics")]
    dead_letters: bool,
    /// The subscription's secret, when it was registered elsewhere; better given by the environment
    #[arg(long, env = "LOCKGATE_SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
    /// Takes deliveries from the queue and acknowledges each: the server holds the position, and
    /// several can share the work
    #[arg(long, conflicts_with_all = ["from_start", "until_up_to_date"])]
    queue: bool,
    /// Takes up to this many events of a key at once with --queue; 1 is one at a time
    /// [default: what the server chooses]
    #[arg(long, requires = "queue", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    max_per_key: Option<u16>,
    /// How events come; the position is the same on both
    #[arg(long, value_enum, default_value_t = Over::Events, conflicts_with = "queue")]
    transport: Over,
    /// Starts over instead of going on where it stopped
    #[arg(long)]
    from_start: bool,
    /// Stops after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stops when everything that is there has been shown
    #[arg(long)]
    until_up_to_date: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// A transport, as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Over {
    /// Server-sent events
    Events,
    /// WebSocket
    Ws,
}

impl From<Over> for Transport {
    fn from(over: Over) -> Self {
        match over {
            Over::Events => Self::EventStream,
            Over::Ws => Self::WebSocket,
        }
    }
}

/// What is read, and until when.
pub(super) struct Reading {
    pub(super) name: SubscriptionName,
    pub(super) client: Client,
    pub(super) subscriber: Subscriber,
    pub(super) transport: Transport,
    pub(super) count: Option<u64>,
    pub(super) until_up_to_date: bool,
    pub(super) stop: CancellationToken,
}

impl Subscribe {
    /// Reads until `stop`, or until what was asked for has come.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { name, topics, prefill, ack_wait, max_attempts, dead_letters, .. } = self;
        let Self { secret, queue, max_per_key, from_start, count, .. } = self;
        let Self { until_up_to_date, json, server, transport, .. } = self;
        let name =
            SubscriptionName::new(name).map_err(|error| Failure::usage(error.to_string()))?;
        let secret =
            secret.map(|secret| secret.trim().to_owned()).filter(|secret| !secret.is_empty());
        let client = server.client()?;
        let file = StateFile::of(client.server(), &name)?;
        let opened = Opening { client: &client, name: &name, file: &file };
        let mut kept = match topics.is_empty() {
            true => opened.existing(secret).await?,
            false => {
                let wanted = Wanted { topics, prefill, ack_wait, max_attempts, dead_letters };
                opened.register(secret, wanted).await?
            }
        };
        if from_start {
            kept.position = Position::default();
        }
        let subscriber = client.subscriber(name.clone(), kept.secret.clone());
        let screen = Screen::new(json);
        let transport = transport.into();
        let reading =
            Reading { name, client, subscriber, transport, count, until_up_to_date, stop };
        match queue {
            true => pull::run(reading, screen, max_per_key.map(usize::from)).await,
            false => follow::run(reading, screen, file, kept).await,
        }
    }
}

/// What is registered.
struct Wanted {
    topics: Vec<String>,
    prefill: bool,
    ack_wait: Option<String>,
    max_attempts: Option<u32>,
    dead_letters: bool,
}

struct Opening<'a> {
    client: &'a Client,
    name: &'a SubscriptionName,
    file: &'a StateFile,
}

impl Opening<'_> {
    /// The secret is on disk before the request that carries it leaves: a lost answer costs
    /// nothing, the repeat is answered as identical.
    async fn register(&self, secret: Option<String>, wanted: Wanted) -> Result<Kept, Failure> {
        let Wanted { topics, prefill, ack_wait, max_attempts, dead_letters } = wanted;
        let before = self.file.load()?;
        let known = before.is_some();
        let secret = match secret.or_else(|| before.as_ref().map(|kept| kept.secret.clone())) {
            Some(secret) => secret,
            None => new_secret(&Entropy::system()).map_err(|e| Failure::new(e.to_string()))?,
        };
        let kept = adopt(before, secret);
        self.file.save(&kept)?;
        let name = self.name.to_string();
        let secret = kept.secret.clone();
        let new =
            NewSubscription { name, topics, prefill, secret, ack_wait, max_attempts, dead_letters };
        match self.client.register(&new).await {
            Ok((status, _)) => self.settle(kept, &status),
            Err(error) => {
                // Refused: nothing was registered under this secret, so nothing is worth keeping.
                if !known && !error.is_retryable() {
                    self.file.remove()?;
                }
                Err(match error.kind() {
                    ErrorKind::Conflict => Failure::from(error.way_out(format!(
                        "read the one that exists: lockgate subscribe {0}      or remove it: \
                         lockgate subscriptions delete {0}",
                        self.name
                    ))),
                    _ => Failure::from(error),
                })
            }
        }
    }

    async fn existing(&self, secret: Option<String>) -> Result<Kept, Failure> {
        let before = self.file.load()?;
        let Some(secret) = secret.or_else(|| before.as_ref().map(|kept| kept.secret.clone()))
        else {
            return Err(Failure::new(format!(
                "the secret of {0} is not kept here\n  register it: lockgate subscribe {0} \
                 --topics 'realm.*'      or bring its secret: LOCKGATE_SECRET",
                self.name
            )));
        };
        let kept = adopt(before, secret);
        let status = self.client.subscription(self.name, Some(&kept.secret)).await;
        let status = status.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Failure::from(error.way_out(format!(
                "register it: lockgate subscribe {} --topics 'realm.*' [--prefill]",
                self.name
            ))),
            _ => Failure::from(error),
        })?;
        self.settle(kept, &status)
    }

    /// A position of an earlier life of the name would resume nothing.
    fn settle(&self, mut kept: Kept, status: &SubscriptionStatus) -> Result<Kept, Failure> {
        if kept.uid != status.uid {
            kept.uid.clone_from(&status.uid);
            kept.position = Position::default();
        }
        self.file.save(&kept)?;
        Ok(kept)
    }
}

/// What is kept goes on under the same secret; another secret is another subscription's.
fn adopt(before: Option<Kept>, secret: String) -> Kept {
    match before {
        Some(kept) if kept.secret == secret => kept,
        _ => Kept { secret, uid: String::new(), position: Position::default() },
    }
}

/// The wait before the attempt after `failures` failures in a row: 1 s, doubling, at most 30 s.
pub(super) fn pause(failures: u32) -> Duration {
    Duration::from_secs((1 << failures.min(5)).min(30))
}
