//! Which routes there are: a TOML file, checked as a whole before anything is touched.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Routes of a file: each that leads into a log takes a thread, and room for what it reads ahead.
const MOST_ROUTES: usize = 100;

/// Routes, and the Kafka cluster that they lead to.
///
/// ```
/// let bridges = lockgate_bridge::Bridges::parse(r#"
///     [kafka]
///     brokers = "127.0.0.1:9092"
///
///     [[route]]
///     name = "orders"
///     from = "kafka:orders"
///     to = "shop.orders"
/// "#).unwrap();
/// assert_eq!(bridges.routes[0].to_string(), "kafka:orders -> shop.orders");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Bridges {
    /// Where Kafka is.
    pub kafka: KafkaCluster,
    /// The routes, by the order of the file: 1 to 100.
    pub routes: Vec<Route>,
}

/// A Kafka cluster, and how a bridge proves itself to it. Secrets are in files.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaCluster {
    /// `host:port[,host:port...]`
    pub brokers: String,
    /// The user, proved by `sasl`.
    pub user: Option<String>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
    /// How the user is proved.
    #[serde(default)]
    pub sasl: SaslName,
    /// Connect with TLS only; so do `ca` and `cert`.
    #[serde(default)]
    pub tls: bool,
    /// A PEM file with the authorities to trust.
    pub ca: Option<PathBuf>,
    /// A PEM file with this client's certificate.
    pub cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    pub key: Option<PathBuf>,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are those of the mechanisms")]
pub enum SaslName {
    #[default]
    Plain,
    ScramSha256,
    ScramSha512,
}

/// Which way a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From Kafka into the log.
    In,
    /// From the log to Kafka.
    Out,
}

/// Where a route begins that never ran before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the oldest that is there.
    #[default]
    Earliest,
    /// With what comes from now on. A partition that is added later is read from its beginning.
    Latest,
}

/// The key of the event that a record without a key becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NullKey {
    /// The empty key: all such records are about one object.
    #[default]
    Empty,
    /// `<partition>-<offset>`: each is an object of its own.
    Place,
    /// It is a bad record.
    Park,
}

/// What happens to a record that cannot be carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bad {
    /// It is kept beside the events, with its place and the reason, and the route goes on.
    #[default]
    Park,
    /// The route waits in front of it, and says so, until it can be carried.
    Stop,
}

/// How a route writes to Kafka.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In transactions: readers of `read_committed` see each event once. Each transaction leaves a
    /// mark in the topic, by which programs that subtract offsets count a lag of one for ever.
    #[default]
    Transactions,
    /// Without: after a crash the last batch is repeated, and its records tell the sequence they
    /// come from (`lockgate-sequence`). For topics whose lag scales something.
    Idempotent,
}

/// From a Kafka topic to a topic of the log, or back.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Its name, under which its position is kept: one that is renamed begins anew.
    pub name: String,
    /// Which way it leads.
    pub direction: Direction,
    /// The topic in Kafka.
    pub kafka_topic: String,
    /// The realm of the log's topic.
    pub realm: String,
    /// The log's topic within its realm.
    pub topic: String,
    /// Where it begins.
    pub start: Start,
    /// What a missing key becomes, into the log.
    pub null_key: NullKey,
    /// What happens to what cannot be carried.
    pub bad: Bad,
    /// How it writes, out of the log.
    pub mode: Mode,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kafka_topic, realm, topic, .. } = self;
        match self.direction {
            Direction::In => write!(f, "kafka:{kafka_topic} -> {realm}.{topic}"),
            Direction::Out => write!(f, "{realm}.{topic} -> kafka:{kafka_topic}"),
        }
    }
}

impl Route {
    /// What is promised, in words.
    pub fn guarantee(&self) -> &'static str {
        match (self.direction, self.mode) {
            (Direction::In, _) => "effectively once",
            (Direction::Out, Mode::Transactions) => "exactly once (read_committed)",
            (Direction::Out, Mode::Idempotent) => "at least once",
        }
    }
}

/// What is wrong with a file of routes: where, what, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kafka: KafkaCluster,
    #[serde(default, rename = "route")]
    routes: Vec<Written>,
}

/// A route as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    from: String,
    to: String,
    start: Option<Start>,
    null_key: Option<NullKey>,
    bad_records: Option<Bad>,
    mode: Option<Mode>,
}

/// One end of a route.
enum End {
    Kafka(String),
    Log(String, String),
}

impl Bridges {
    /// Reads a file and checks it; nothing is connected to. The first thing that is wrong is named
    /// with its route and field.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!("bridges file {} cannot be read: {error}", path.display()))
        })?;
        Self::parse(&text)
            .map_err(|ConfigError(what)| ConfigError(format!("{}: {what}", path.display())))
    }

    /// The same of text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File =
            toml::from_str(text).map_err(|error| ConfigError(error.to_string().trim().into()))?;
        check_cluster(&file.kafka)?;
        if file.routes.is_empty() {
            return Err(ConfigError("there is no [[route]]: write at least one".into()));
        }
        if file.routes.len() > MOST_ROUTES {
            let count = file.routes.len();
            let what = format!(
                "there are {count} routes: a file has up to {MOST_ROUTES}, and the rest another"
            );
            return Err(ConfigError(what));
        }
        let routes: Vec<Route> =
            file.routes.into_iter().map(Route::check).collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        let mut ends = BTreeSet::new();
        for route in &routes {
            if !names.insert(&route.name) {
                return Err(route.wrong("name", "stands twice: a position is kept by it"));
            }
            if !ends.insert(route.to_string()) {
                return Err(route.wrong("from", "and to are those of another route: leave one"));
            }
        }
        Ok(Self { kafka: file.kafka, routes })
    }
}

impl Route {
    fn check(written: Written) -> Result<Self, ConfigError> {
        let name = written.name;
        let wrong =
            |field: &str, what: String| ConfigError(format!("route {name:?}: {field} {what}"));
        if !is_token(&name) {
            return Err(wrong("name", "is not 1 to 64 characters of a-z 0-9 _ -".into()));
        }
        let from = end(&written.from).map_err(|what| wrong("from", what))?;
        let to = end(&written.to).map_err(|what| wrong("to", what))?;
        let (direction, kafka_topic, realm, topic) = match (from, to) {
            (End::Kafka(kafka), End::Log(realm, topic)) => (Direction::In, kafka, realm, topic),
            (End::Log(realm, topic), End::Kafka(kafka)) => (Direction::Out, kafka, realm, topic),
            _ => {
                let what = "and from are of one kind: one is kafka:TOPIC, the other realm.topic";
                return Err(wrong("to", what.into()));
            }
        };
        let only = |field, given: bool, of: Direction, why: &str| match given && direction != of {
            true => Err(wrong(field, format!("has no meaning for {why}: leave it out"))),
            false => Ok(()),
        };
        only("null_key", written.null_key.is_some(), Direction::In, "a route out of the log")?;
        only("mode", written.mode.is_some(), Direction::Out, "a route into the log")?;
        Ok(Self {
            direction,
            kafka_topic,
            realm,
            topic,
            start: written.start.unwrap_or_default(),
            null_key: written.null_key.unwrap_or_default(),
            bad: written.bad_records.unwrap_or_default(),
            mode: written.mode.unwrap_or_default(),
            name,
        })
    }

    fn wrong(&self, field: &str, what: &str) -> ConfigError {
        ConfigError(format!("route {:?}: {field} {what}", self.name))
    }
}

fn end(text: &str) -> Result<End, String> {
    if let Some(topic) = text.strip_prefix("kafka:") {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let named = (1..=249).contains(&topic.len()) && topic.bytes().all(allowed);
        if !named || matches!(topic, "." | "..") {
            return Err(format!("is {text:?}: a Kafka topic is 1 to 249 of a-z A-Z 0-9 . _ -"));
        }
        return Ok(End::Kafka(topic.to_owned()));
    }
    match text.split_once('.') {
        Some((realm, topic)) if is_token(realm) && is_token(topic) => {
            Ok(End::Log(realm.to_owned(), topic.to_owned()))
        }
        _ => Err(format!("is {text:?}: write kafka:TOPIC, or realm.topic of a-z 0-9 _ -")),
    }
}

fn check_cluster(kafka: &KafkaCluster) -> Result<(), ConfigError> {
    let wrong = |field: &str, what: String| ConfigError(format!("kafka: {field} {what}"));
    for broker in kafka.brokers.split(',') {
        let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if broker.contains(['/', '@']) || port.is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            let what = format!("holds {broker:?}: write host:port[,host:port...]");
            return Err(wrong("brokers", what));
        }
    }
    if kafka.user.is_some() != kafka.password_file.is_some() {
        return Err(wrong("user", "needs password_file, and the other way round".into()));
    }
    if kafka.cert.is_some() != kafka.key.is_some() {
        return Err(wrong("cert", "needs key, and the other way round".into()));
    }
    Ok(())
}

fn is_token(token: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    (1..=64).contains(&token.len()) && token.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KAFKA: &str = "[kafka]\nbrokers = \"a:1,b:2\"\n";

    fn refused(routes: &str) -> String {
        Bridges::parse(&format!("{KAFKA}{routes}")).unwrap_err().to_string()
    }

    #[test]
    fn a_route_leads_one_way_or_the_other() {
        let text = format!(
            "{KAFKA}[[route]]\nname = \"in\"\nfrom = \"kafka:Orders.v1\"\nto = \"shop.orders\"\n\
             null_key = \"place\"\nstart = \"latest\"\nbad_records = \"stop\"\n\
             [[route]]\nname = \"out\"\nfrom = \"shop.orders\"\nto = \"kafka:Orders.v1\"\n\
             mode = \"idempotent\"\n"
        );
        let bridges = Bridges::parse(&text).unwrap();
        let [into, out] = bridges.routes.as_slice() else { panic!("two routes") };
        assert_eq!((into.direction, out.direction), (Direction::In, Direction::Out));
        assert_eq!((into.null_key, into.start), (NullKey::Place, Start::Latest));
        assert_eq!((into.bad, out.mode), (Bad::Stop, Mode::Idempotent));
        assert_eq!((into.guarantee(), out.guarantee()), ("effectively once", "at least once"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_route_and_field() {
        let route = |lines: &str| refused(&format!("[[route]]\nname = \"r\"\n{lines}"));
        let both = |from: &str, to: &str| route(&format!("from = \"{from}\"\nto = \"{to}\"\n"));
        assert_eq!(refused(""), "there is no [[route]]: write at least one");
        assert!(both("kafka:a", "kafka:b").starts_with("route \"r\": to and from are of one kind"));
        assert!(both("kafka:a b", "s.t").starts_with("route \"r\": from is \"kafka:a b\""));
        assert!(both("kafka:a", "Shop.t").starts_with("route \"r\": to is \"Shop.t\""));
        let odd = route("from = \"s.t\"\nto = \"kafka:a\"\nnull_key = \"empty\"\n");
        assert!(odd.starts_with("route \"r\": null_key has no meaning"), "{odd}");
        let unknown = route("from = \"s.t\"\nto = \"kafka:a\"\nkeys = 1\n");
        assert!(unknown.contains("unknown field `keys`") && unknown.contains("line"), "{unknown}");
        let twice = "[[route]]\nname = \"r\"\nfrom = \"s.t\"\nto = \"kafka:a\"\n";
        assert!(refused(&twice.repeat(2)).starts_with("route \"r\": name stands twice"));
        let many = (0..101).map(|n| {
            twice.replace("\"r\"", &format!("\"r{n}\"")).replace("s.t", &format!("s.t{n}"))
        });
        assert!(refused(&many.collect::<String>()).starts_with("there are 101 routes"));
        let broker = Bridges::parse("[kafka]\nbrokers = \"kafka://a:1\"\n").unwrap_err();
        assert!(broker.to_string().starts_with("kafka: brokers holds"), "{broker}");
    }
}
