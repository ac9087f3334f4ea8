//! `lockgate demo`: prefill to live before your eyes, verified.

mod directory;
mod names;
mod pace;
mod screen;
mod verdict;

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use self::directory::Directory;
pub(crate) use self::names::DemoNames;
use self::pace::Pace;
use self::screen::Screen;
use self::verdict::{Books, Entry};
use crate::client::wire::NewSubscription;
use crate::client::{Client, Error, ErrorKind, StreamItem};
use crate::model::{Manifest, SubscriptionName};
use crate::platform::Entropy;
use crate::store::new_secret;

const BATCH: usize = 25;

/// Publishes the second part; dropping it ends that.
type Publisher = AbortOnDropHandle<Result<Vec<Entry>, Error>>;

/// Starts everything, publishes changes of a small directory while a subscription with prefill is
/// registered in the middle, shows prefill and live, and verifies what arrived: no gap, no
/// duplicate, never an older state after a newer one. Exits with 0 if every promise was kept, 1
/// if not.
#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// How many changes to publish
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(100..=200_000))]
    changes: u64,
    /// The same seed makes the same changes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many changes to publish in a second; 0: as many as the server takes
    #[arg(long, default_value_t = 1500, value_name = "CHANGES")]
    rate: u32,
    /// Give up when it takes this much longer than the rate alone does
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = humantime::parse_duration)]
    limit: Duration,
    /// Print the verdict as one JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs the demo against a server that listens at `server`; true when every promise was kept.
pub(crate) async fn run(
    options: &DemoOptions,
    names: &DemoNames,
    server: &str,
) -> Result<bool, Error> {
    let limit = options.limit.saturating_add(Pace::new(options.rate).lasts(options.changes));
    let played = tokio::time::timeout(limit, play(options, names, server)).await;
    played.unwrap_or_else(|_| {
        let limit = humantime::format_duration(Duration::from_secs(limit.as_secs()));
        let what = format!("the demo did not finish within {limit}");
        Err(Error::new(ErrorKind::Unavailable, what).way_out("give it more time: --limit 10m"))
    })
}

async fn play(options: &DemoOptions, names: &DemoNames, server: &str) -> Result<bool, Error> {
    let client = Client::new(server, None)?;
    let DemoNames { run, realm, subscription } = names;
    let topics = format!("{realm}.*");
    let screen = Screen::new(options);
    let mut directory = Directory::new(options.seed, run.clone(), realm.clone());
    let mut pace = Pace::new(options.rate);
    let before = options.changes / 3;
    let mut books = Books::default();
    publish(&client, &mut directory, before, &mut pace, &screen, &mut books.published).await?;

    // The rest is published while the subscription is registered, prefilled and read.
    let publisher: Publisher = {
        let (client, screen, rest) = (client.clone(), screen.clone(), options.changes - before);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut published = Vec::new();
            publish(&client, &mut directory, rest, &mut pace, &screen, &mut published).await?;
            Ok(published)
        }))
    };
    let secret = new_secret(&Entropy::system()).map_err(internal)?;
    let new = NewSubscription {
        name: subscription.to_string(),
        topics: vec![topics.clone()],
        prefill: true,
        secret: secret.clone(),
        ..NewSubscription::default()
    };
    let (status, _) = client.register(&new).await?;
    books.fence = status.fence.get(realm.as_str()).copied().unwrap_or(0);
    screen.registered(&topics, books.fence);
    let read = read(&client, subscription, secret, &screen, &mut books, publisher).await;
    let deleted = client.delete(subscription, None).await;
    read?;
    deleted?;
    let verdict = books.audit(realm);
    screen.verdict(&verdict);
    Ok(verdict.passed)
}

async fn publish(
    client: &Client,
    directory: &mut Directory,
    count: u64,
    pace: &mut Pace,
    screen: &Screen,
    published: &mut Vec<Entry>,
) -> Result<(), Error> {
    let mut left = count;
    while left > 0 {
        let size = left.min(BATCH as u64);
        let made: Result<Vec<Value>, _> = (0..size).map(|_| directory.change()).collect();
        let events = made.map_err(internal)?;
        let results = client.publish(&events).await?;
        for (event, result) in events.iter().zip(results) {
            published.extend(Entry::read(event, Some(result.sequence)));
        }
        left -= size;
        screen.published(size);
        pace.done(size).await;
    }
    Ok(())
}

/// Reads the subscription until everything that was published has come, or should have.
async fn read(
    client: &Client,
    name: &SubscriptionName,
    secret: String,
    screen: &Screen,
    books: &mut Books,
    mut publisher: Publisher,
) -> Result<(), Error> {
    let mut events = client.subscriber(name.clone(), secret).events(None);
    let mut publishing = true;
    let (mut last, mut caught_up) = (u64::MAX, 0);
    let started = Instant::now();
    while publishing || caught_up < last {
        tokio::select! { biased;
            done = &mut publisher, if publishing => {
                books.published.extend(done.map_err(internal)??);
                publishing = false;
                last = books.published.iter().map(|entry| entry.sequence).max().unwrap_or(0);
                caught_up = caught_up.max(newest(books));
            }
            item = events.next() => match item? {
                Some(StreamItem::Event(event)) => {
                    let data: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
                    if event.event == "prefill-end" {
                        screen.prefilled(books.rows.len(), started.elapsed());
                    }
                    take(books, &event.event, data, screen);
                    caught_up = caught_up.max(newest(books));
                }
                Some(StreamItem::Reconnecting { error, .. }) => screen.note(&error.to_string()),
                None => break,
            }
        }
    }
    Ok(())
}

fn newest(books: &Books) -> u64 {
    books.live.last().map_or(books.fence, |entry| entry.sequence)
}

fn take(books: &mut Books, event: &str, data: Value, screen: &Screen) {
    match event {
        "message" => {
            let Some(entry) = Entry::read(&data, None) else { return };
            if books.manifest.is_none() {
                books.rows.push(entry);
                screen.row();
            } else {
                screen.live(&data);
                books.live.push(entry);
            }
        }
        "prefill-end" => books.manifest = serde_json::from_value::<Manifest>(data).ok(),
        _ => {}
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, error.to_string())
}
