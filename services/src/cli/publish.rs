//! `lockgate publish`: one event from the command line, or many from lines.

use std::time::Duration;

use clap::Args;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::Instant;

use super::failure::Failure;
use super::lines::{self, Lines, MAX_LINE_BYTES};
use super::new_event::{Body, Defaults, NewEvent};
use super::screen::{Screen, grouped, per_second, printable};
use super::server::ServerArgs;
use super::subscribe::pause;
use crate::client::wire::Published;
use crate::client::{Client, Error};

const BATCH_EVENTS: usize = 500;
/// A larger event goes alone.
const BATCH_BYTES: usize = 1 << 20;
const ATTEMPTS: u32 = 6;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  lockgate publish directory.user anna '{\"mail\":\"anna@example.org\"}'
  lockgate publish directory.user anna --delete
  echo hello | lockgate publish demo.greeting me -
  lockgate publish --ndjson events.ndjson
      each line a CloudEvent, or {\"topic\":\"directory.user\",\"key\":\"anna\",\"data\":{...}};
      a line of the second kind without data deletes its key

An event is stored once per source and id: a repeat with the same --id says so and changes nothing.";

/// Publish events: durable when it returns
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Publish {
    /// Where the event belongs: realm.topic
    #[arg(required_unless_present = "ndjson", conflicts_with = "ndjson")]
    topic: Option<String>,
    /// The object it is about; order is kept per key
    key: Option<String>,
    /// JSON, or else text; `-` reads it from standard input
    #[arg(allow_hyphen_values = true)]
    data: Option<String>,
    /// Deletes the key: an event without data
    #[arg(long, conflicts_with_all = ["data", "ndjson"])]
    delete: bool,
    /// Publishes each line of a file (`-`: of standard input), in the order of each key
    #[arg(long, value_name = "FILE", conflicts_with = "id")]
    ndjson: Option<String>,
    /// Leaves out this many lines of --ndjson, to go on after a failure
    #[arg(long, value_name = "LINES", default_value_t = 0, requires = "ndjson")]
    skip: u64,
    /// The event's id [default: a random one]
    #[arg(long)]
    id: Option<String>,
    /// The event's source, a URI reference
    #[arg(long, default_value = "/lockgate/cli")]
    source: String,
    /// One JSON object a line for each event's result
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl Publish {
    /// Publishes, and prints where each event is stored.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let Self { topic, key, data, delete, ndjson, skip, id, source, json, server } = self;
        let (client, screen) = (server.client()?, Screen::new(json));
        let defaults = Defaults::new(source);
        if let Some(path) = ndjson {
            return Many { client, screen, defaults }.run(&path, skip).await;
        }
        let body = match (data, delete) {
            (None, true) => Body::Tombstone,
            (Some(data), _) if data == "-" => Body::from_text(&read_stdin().await?),
            (Some(data), _) => Body::from_text(&data),
            (None, false) => {
                return Err(Failure::usage(
                    "there is nothing to publish\n  say what: '{\"json\":1}', `-` for standard \
                     input, or --delete to delete the key",
                ));
            }
        };
        if let Some(why) = body.suspicion().filter(|_| screen.is_watched()) {
            screen.note(&format!(
                "warning: the data begin like JSON and are not, so they are published as text: \
                 {why}\n  in most shells JSON stands in single quotes: '{{\"a\": 1}}'"
            ));
        }
        let (topic, key) = (topic.unwrap_or_default(), key.unwrap_or_default());
        let event = NewEvent { topic: topic.clone(), key: key.clone(), body, id };
        let results = send(&client, &screen, &[defaults.event(event)?]).await?;
        for result in &results {
            show(&screen, &topic, &key, result)?;
        }
        Ok(())
    }
}

fn show(screen: &Screen, topic: &str, key: &str, result: &Published) -> Result<(), Failure> {
    if screen.is_json() {
        return Ok(screen.told(&serde_json::to_string(result).unwrap_or_default())?);
    }
    let known = if result.duplicate { ", known already: nothing was stored" } else { "" };
    let (key, id, sequence) = (printable(key), printable(&result.id), grouped(result.sequence));
    Ok(screen.told(&format!("{topic} {key} · {} {sequence} · id {id}{known}", result.realm))?)
}

async fn read_stdin() -> Result<String, Failure> {
    let mut text = Vec::new();
    tokio::io::stdin().take(MAX_LINE_BYTES as u64 + 1).read_to_end(&mut text).await?;
    if text.len() > MAX_LINE_BYTES {
        return Err(Failure::new(format!("standard input has more than {MAX_LINE_BYTES} bytes")));
    }
    lines::text(text).map_err(|what| {
        Failure::new(format!("standard input is {what}\n  encode it, or wrap it in JSON"))
    })
}

/// Publishes a batch. Where the server may have seen it or is busy, it is sent again with the same
/// ids for half a minute; a server that cannot be reached at all is not waited for.
async fn send(
    client: &Client,
    screen: &Screen,
    events: &[Box<RawValue>],
) -> Result<Vec<Published>, Error> {
    let mut failures = 0;
    loop {
        let error = match client.publish(events).await {
            Err(error) if error.is_retryable() => error,
            outcome => return outcome,
        };
        if failures + 1 >= ATTEMPTS || (failures == 0 && error.is_never_sent()) {
            return Err(error);
        }
        let delay = pause(failures).max(error.retry_after().unwrap_or_default()).min(LONGEST_PAUSE);
        failures += 1;
        screen.note(&format!("{error}\n  trying again in {delay:?}"));
        tokio::time::sleep(delay).await;
    }
}

/// Events from lines, in batches, each batch durable before the next is sent, so that the order of
/// each key is kept.
struct Many {
    client: Client,
    screen: Screen,
    defaults: Defaults,
}

#[derive(Default)]
struct Batch {
    events: Vec<Box<RawValue>>,
    bytes: usize,
    /// The number of the last line in it.
    through: u64,
}

impl Batch {
    /// True when an event of so many bytes belongs into the next one.
    fn is_full(&self, next: usize) -> bool {
        let too_large = self.bytes + next > BATCH_BYTES;
        !self.events.is_empty() && (self.events.len() >= BATCH_EVENTS || too_large)
    }
}

#[derive(Default)]
struct Tally {
    events: u64,
    duplicates: u64,
}

impl Many {
    async fn run(mut self, path: &str, skip: u64) -> Result<(), Failure> {
        let cannot = |error| Failure::new(format!("{path} cannot be read: {error}"));
        if path == "-" {
            return self.publish(tokio::io::stdin(), None, skip).await;
        }
        let file = tokio::fs::File::open(path).await.map_err(cannot)?;
        let length = file.metadata().await.map_err(cannot)?.len();
        self.publish(file, Some(length), skip).await
    }

    async fn publish(
        &mut self,
        from: impl AsyncRead + Unpin,
        length: Option<u64>,
        skip: u64,
    ) -> Result<(), Failure> {
        let (mut lines, started) = (Lines::new(from), Instant::now());
        let (mut batch, mut tally, mut accepted) = (Batch::default(), Tally::default(), skip);
        self.screen.show_bar("publish", length);
        while let Some(line) = lines.next().await.map_err(|f| f.after_lines(accepted))? {
            if lines.number() <= skip || line.trim().is_empty() {
                continue;
            }
            let event = self.defaults.line(&line).map_err(|failure| {
                let failure = failure.at(&format!("line {}", lines.number()));
                if accepted > 0 { failure.after_lines(accepted) } else { failure.before_any() }
            })?;
            if batch.is_full(event.get().len()) {
                self.flush(&mut batch, &mut tally, &mut accepted).await?;
            }
            batch.bytes += event.get().len();
            batch.through = lines.number();
            batch.events.push(event);
            self.screen.advance(lines.bytes(), || {
                format!(
                    "{} events · {}/s",
                    grouped(tally.events),
                    per_second(tally.events, started.elapsed())
                )
            });
        }
        self.flush(&mut batch, &mut tally, &mut accepted).await?;
        self.screen.hide_bar();
        self.finish(&tally, started.elapsed())
    }

    /// Sends the batch; `accepted` is the last line that is published.
    async fn flush(
        &self,
        batch: &mut Batch,
        tally: &mut Tally,
        accepted: &mut u64,
    ) -> Result<(), Failure> {
        if batch.events.is_empty() {
            return Ok(());
        }
        let results = send(&self.client, &self.screen, &batch.events).await;
        let results = results.map_err(|error| Failure::from(error).after_lines(*accepted))?;
        *accepted = batch.through;
        for result in &results {
            tally.events += 1;
            tally.duplicates += u64::from(result.duplicate);
            if self.screen.is_json() {
                let told = self.screen.told(&serde_json::to_string(result).unwrap_or_default());
                told.map_err(|error| Failure::from(error).after_lines(*accepted))?;
            }
        }
        *batch = Batch::default();
        Ok(())
    }

    fn finish(&self, tally: &Tally, took: Duration) -> Result<(), Failure> {
        if self.screen.is_json() {
            return Ok(());
        }
        let known = match tally.duplicates {
            0 => String::new(),
            some => format!(", {} of them known already", grouped(some)),
        };
        let rate = per_second(tally.events, took);
        let line = format!("published {} events{known} · {rate}/s", grouped(tally.events));
        Ok(self.screen.told(&line)?)
    }
}
