//! `lockgate bridge`: the routes between Kafka and the logs, from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bus::{Bus, Stream};
use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};
use lockgate_bridge::{self as bridges, Bridges, Direction, Logs, Parked, RouteStatus};
use serde_json::json;

use super::connection::Connection;
use super::failure::Failure;
use super::screen::{Screen, grouped, printable};
use super::subscriptions::plain_table;
use crate::model::{Realm, names};
use crate::roles::{Role, Roles};
use crate::store::Store;

/// What is listed of each route that has parked more.
const MOST_PARKED: usize = 10_000;

const EXAMPLES: &str = "\
A file of routes:
  [kafka]
  brokers = \"127.0.0.1:9092\"       # also: user, password_file, sasl, tls, ca, cert, key

  [[route]]
  name = \"orders\"                  # its position is kept by this name
  from = \"kafka:orders\"
  to = \"shop.orders\"               # realm.topic
  start = \"earliest\"               # or \"latest\"
  null_key = \"empty\"               # or \"place\" (partition-offset), or \"park\"
  bad_records = \"park\"             # or \"stop\"

  [[route]]
  name = \"stock\"
  from = \"shop.stock\"
  to = \"kafka:stock\"
  mode = \"transactions\"            # or \"idempotent\", where a topic's lag scales something

Examples:
  lockgate bridge check bridges.toml
  lockgate run bridge --bridges bridges.toml --bus nats://127.0.0.1:4222
  lockgate bridge status bridges.toml --bus nats://127.0.0.1:4222
  lockgate bridge parked bridges.toml
  lockgate bridge redrive bridges.toml --route orders --id AbC.0.1234";

/// Kafka topics into logs and back: check a file of routes, see how they are, and what is parked
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Bridge {
    #[command(subcommand)]
    command: What,
    /// One JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read a file of routes and show them; connects to nothing
    Check {
        /// The file
        #[arg(env = "LOCKGATE_BRIDGES")]
        file: PathBuf,
    },
    /// Show how each route is: guarantee, lag, rate, what is parked
    Status(Which),
    /// List what could not be carried, with its place and the reason
    Parked(Which),
    /// Carry what is parked now, behind the newer events of its key
    Redrive(Which),
    /// Forget what is parked
    Discard(Which),
}

/// Of which file, where, and which of what is parked.
#[derive(Debug, Args)]
struct Which {
    /// The file of routes
    #[arg(env = "LOCKGATE_BRIDGES")]
    file: PathBuf,
    /// Only this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only this one; may be given several times [default: every one]
    #[arg(long = "id", value_name = "ID")]
    ids: Vec<String>,
    /// The bus that holds the logs
    #[arg(long, env = "LOCKGATE_BUS", default_value = "nats://127.0.0.1:4222", value_name = "URL")]
    bus: String,
    #[command(flatten)]
    connection: Connection,
}

impl Bridge {
    /// Does what was asked for, and prints.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let screen = Screen::new(self.json);
        match self.command {
            What::Check { file } => show_routes(&screen, &read(&file)?),
            What::Status(which) => {
                let (logs, bridges) = which.open().await?;
                show_status(&screen, &bridges::statuses(&logs, &bridges).await?)
            }
            What::Parked(which) => {
                let (logs, bridges) = which.open().await?;
                show_parked(&screen, &which.parked(&logs, &bridges).await?)
            }
            What::Redrive(which) => which.settle(&screen, true).await,
            What::Discard(which) => which.settle(&screen, false).await,
        }
    }
}

impl Which {
    async fn open(&self) -> Result<(Existing, Bridges), Failure> {
        let mut bridges = read(&self.file)?;
        if let Some(name) = &self.route {
            bridges.routes.retain(|route| route.name == *name);
            if bridges.routes.is_empty() {
                let file = self.file.display();
                return Err(Failure::usage(format!("{file} has no route {name:?}")));
            }
        }
        let bus = Bus::connect_with(&self.bus, self.connection.options()?).await?;
        Ok((Existing(bus), bridges))
    }

    async fn parked(&self, logs: &Existing, bridges: &Bridges) -> Result<Vec<Parked>, Failure> {
        let mut parked = bridges::list(logs, &bridges.routes, MOST_PARKED).await?;
        if let Some(id) = self.ids.iter().find(|id| parked.iter().all(|one| one.id != **id)) {
            let what = format!("nothing is parked as {id:?}: lockgate bridge parked lists what is");
            return Err(Failure::new(what));
        }
        parked.retain(|one| self.ids.is_empty() || self.ids.contains(&one.id));
        Ok(parked)
    }

    /// Carries or forgets; what fails is told, and does not keep the others.
    async fn settle(&self, screen: &Screen, carry: bool) -> Result<(), Failure> {
        let (logs, bridges) = self.open().await?;
        let (mut failed, parked) = (0, self.parked(&logs, &bridges).await?);
        for one in &parked {
            let done = match carry {
                true => bridges::redrive(&logs, &bridges, one).await,
                false => bridges::discard(&logs, &bridges, one).await,
            };
            let word = if carry { "carried" } else { "discarded" };
            failed += usize::from(done.is_err());
            let outcome = done.map_or_else(|error| error.to_string(), |()| word.to_owned());
            if screen.is_json() {
                let record = json!({ "route": one.route, "id": one.id, "outcome": outcome });
                screen.line(&record.to_string())?;
            } else {
                screen.line(&printable(&format!("{} {}: {outcome}", one.route, one.id)))?;
            }
        }
        match failed {
            0 if parked.is_empty() => {
                screen.note("nothing is parked");
                Ok(())
            }
            0 => Ok(()),
            failed => Err(Failure::new(format!("{failed} of {} stay parked", parked.len()))),
        }
    }
}

/// The routes of a process that has the role, read before anything is touched.
pub(super) fn routes_of(roles: &[Role], file: Option<&Path>) -> Result<Option<Bridges>, Failure> {
    match (roles.contains(&Role::Bridge), file) {
        (false, _) => Ok(None),
        (true, Some(file)) => read(file).map(Some),
        (true, None) => Err(Failure::usage(
            "the role bridge needs its routes: --bridges FILE (see lockgate bridge)",
        )),
    }
}

/// Puts the routes to work beside the other roles.
pub(super) fn carry(roles: &mut Roles, store: &Store, of: Bridges) -> Result<(), Failure> {
    let instance = store.platform.entropy.uid()?;
    let bridge = bridges::Bridge::new(of, Arc::new(store.clone()), instance);
    let figures = bridge.figures();
    store.platform.metrics.show_routes(move || figures.now());
    roles.also(Role::Bridge, |stop| async move {
        let ended = bridges::run(bridge, stop).await;
        ended.map_err(|error| bus::Error::new(bus::ErrorKind::Backend, error.to_string()))
    });
    Ok(())
}

/// A file names its realms: their logs are made, whichever events may make.
#[async_trait]
impl Logs for Store {
    fn bus(&self) -> &Bus {
        &self.platform.bus
    }

    fn replicas(&self) -> u8 {
        self.options().replicas
    }

    async fn log(&self, realm: &str) -> Result<Stream, bus::Error> {
        self.ensure_realm(&realm_of(realm)?).await
    }
}

/// The logs that there are.
struct Existing(Bus);

#[async_trait]
impl Logs for Existing {
    fn bus(&self) -> &Bus {
        &self.0
    }

    async fn log(&self, realm: &str) -> Result<Stream, bus::Error> {
        self.0.stream(names::log_stream(&realm_of(realm)?)?).await
    }
}

fn realm_of(realm: &str) -> Result<Realm, bus::Error> {
    Realm::new(realm).map_err(|invalid| bus::Error::invalid(invalid.to_string()))
}

/// A file of routes, checked.
pub(super) fn read(file: &Path) -> Result<Bridges, Failure> {
    Bridges::read(file).map_err(|error| Failure::usage(error.to_string()))
}

impl From<bridges::Failure> for Failure {
    fn from(failure: bridges::Failure) -> Self {
        match failure {
            bridges::Failure::Log(error) => Self::from(error),
            failure => Self::unavailable(failure.to_string()),
        }
    }
}

fn show_routes(screen: &Screen, of: &Bridges) -> Result<(), Failure> {
    if screen.is_json() {
        for route in &of.routes {
            let record = json!({
                "route": route.name, "path": route.to_string(), "guarantee": route.guarantee(),
                "direction": if route.direction == Direction::In { "in" } else { "out" },
                "kafka_topic": route.kafka_topic, "realm": route.realm, "topic": route.topic,
            });
            screen.line(&record.to_string())?;
        }
        return Ok(());
    }
    let mut table = plain_table(&["ROUTE", "PATH", "GUARANTEE"]);
    for route in &of.routes {
        table.add_row([route.name.clone(), route.to_string(), route.guarantee().to_owned()]);
    }
    lines(screen, &table)
}

fn show_status(screen: &Screen, all: &[RouteStatus]) -> Result<(), Failure> {
    if screen.is_json() {
        for status in all {
            screen.line(&serde_json::to_string(status).unwrap_or_default())?;
        }
        return Ok(());
    }
    let header = ["ROUTE", "PATH", "GUARANTEE", "STATE", "LAG", "RATE/S", "CARRIED", "PARKED"];
    let mut table = plain_table(&header);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for status in all {
        table.add_row([
            Cell::new(&status.route),
            Cell::new(&status.path),
            Cell::new(&status.guarantee),
            Cell::new(&status.state),
            right(status.lag.map_or_else(|| String::from("-"), grouped)),
            right(format!("{:.0}", status.rate)),
            right(grouped(status.carried)),
            right(grouped(status.parked)),
        ]);
    }
    lines(screen, &table)?;
    for status in all {
        if let Some(why) = &status.why {
            let waits = if status.state == "waiting" { " waits" } else { "" };
            screen.note(&printable(&format!("{}{waits}: {why}", status.route)));
        }
        for note in &status.notes {
            screen.note(&printable(&format!("{}: {note}", status.route)));
        }
        if status.processes == 0 {
            screen.note(&format!("{}: no process carries it", status.route));
        }
    }
    Ok(())
}

fn show_parked(screen: &Screen, all: &[Parked]) -> Result<(), Failure> {
    if screen.is_json() {
        for one in all {
            screen.line(&serde_json::to_string(one).unwrap_or_default())?;
        }
        return Ok(());
    }
    if all.is_empty() {
        screen.note("nothing is parked");
        return Ok(());
    }
    let mut table = plain_table(&["ROUTE", "ID", "TOPIC", "PARTITION", "OFFSET", "REASON"]);
    for one in all {
        let record = &one.record;
        table.add_row([
            one.route.clone(),
            one.id.clone(),
            record.topic.clone(),
            record.partition.to_string(),
            record.offset.to_string(),
            printable(&record.reason),
        ]);
    }
    lines(screen, &table)
}

fn lines(screen: &Screen, table: &comfy_table::Table) -> Result<(), Failure> {
    for line in table.to_string().lines() {
        screen.line(line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::Platform;
    use crate::store::StoreOptions;

    /// The crate of bridges stands on the bus alone: the names that it shares with the store are held
    /// together here.
    #[tokio::test]
    async fn a_realm_that_is_made_has_room_for_a_bridge() {
        let realm = Realm::new("shop").unwrap();
        assert_eq!(
            names::bridge_filter(&realm).unwrap(),
            bridges::names::reserved_filter("shop").unwrap()
        );
        assert_eq!(names::log_stream(&realm).unwrap().as_str(), bridges::names::log_stream("shop"));
        let bus = Bus::connect("embedded:").await.unwrap();
        let store = Store::open(Platform::new(bus.clone()), StoreOptions::default()).await.unwrap();
        let log = Logs::log(&store, "shop").await.unwrap();
        let captured = log.info().await.unwrap().config.subjects;
        assert!(captured.contains(&bridges::names::reserved_filter("shop").unwrap()));
        assert_eq!(store.realms().await.unwrap(), [realm]);
    }

    #[tokio::test]
    async fn before_a_bridge_ran_nothing_is_parked_and_an_id_that_is_not_is_named() {
        let bus = Bus::connect("embedded:").await.unwrap();
        let which = |ids: &[&str]| Which {
            file: PathBuf::new(),
            route: None,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            bus: String::from("embedded:"),
            connection: Connection::default(),
        };
        let file = "[kafka]\nbrokers = \"a:1\"\n[[route]]\nname = \"r\"\nfrom = \"kafka:a\"\n\
                    to = \"shop.orders\"\n";
        let (logs, routes) = (Existing(bus), Bridges::parse(file).unwrap());
        assert_eq!(which(&[]).parked(&logs, &routes).await.unwrap(), []);
        let none = which(&["A.0.1"]).parked(&logs, &routes).await.unwrap_err();
        assert!(none.message().contains("\"A.0.1\""), "{none:?}");
    }

    #[test]
    fn the_example_of_the_help_is_a_file() {
        let file = EXAMPLES.split("Examples:").next().unwrap().split_once('\n').unwrap().1;
        let routes = Bridges::parse(file).unwrap().routes;
        assert_eq!(routes.len(), 2);
    }
}
