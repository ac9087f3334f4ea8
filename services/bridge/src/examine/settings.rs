//! What brokers and topics are set to, against what a bridge and the bus need.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};

use super::brokers::Cluster;
use super::{Finding, PATIENCE};
use crate::config::{Bridges, Direction, KafkaCluster, Mode};
use crate::kafka::{self, Quiet};

/// A transaction of a bridge is open for this long at most, in milliseconds.
const TRANSACTION_MS: u64 = 30_000;
/// A group that was idle for longer than a week has lost its position, by Kafka's own default.
const WEEK_MIN: u64 = 7 * 24 * 60;
const DAY_MS: i64 = 24 * 3600 * 1000;
/// What a record has beyond the message of the log that it was.
const ADDED: u64 = 1024;
/// Brokers that are asked for their settings: they are usually alike.
const ASKED: usize = 9;

type Settings = BTreeMap<String, String>;

/// The settings of the brokers.
pub(super) async fn look(bridges: &Bridges, cluster: &Cluster, largest: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    for id in cluster.brokers.iter().take(ASKED) {
        let what = format!("kafka broker {id}");
        match describe(&bridges.kafka, &[ResourceSpecifier::Broker(*id)]).await {
            Ok(told) => {
                let settings = told.into_iter().next().unwrap_or_default();
                found.extend(of_broker(bridges, cluster.brokers.len(), &what, &settings, largest));
            }
            Err(why) => found.push(Finding::warn(
                what,
                format!("does not tell its settings: {why}"),
                "allow DescribeConfigs on the cluster, or look at them by hand",
            )),
        }
    }
    found
}

/// The settings of the routes' topics.
pub(super) async fn topics(bridges: &Bridges, cluster: &Cluster, largest: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    for route in &bridges.routes {
        let topic = route.kafka_topic.as_str();
        let Some(copies) = cluster.topics.get(topic) else { continue };
        let what = format!("kafka topic {topic}");
        if *copies == 1 && cluster.brokers.len() >= 3 {
            let says = format!("has one copy in a cluster of {}", cluster.brokers.len());
            let change =
                "give it three: its partitions wait for their broker, and are lost with it";
            found.push(Finding::warn(&what, says, change));
        }
        match describe(&bridges.kafka, &[ResourceSpecifier::Topic(topic)]).await {
            Ok(told) => {
                let settings = told.into_iter().next().unwrap_or_default();
                found.extend(of_topic(route.direction, &what, &settings, largest));
            }
            Err(why) => found.push(Finding::warn(
                what,
                format!("does not tell its settings: {why}"),
                "allow DescribeConfigs on the topic, or look at them by hand",
            )),
        }
    }
    found
}

async fn describe(
    kafka: &KafkaCluster,
    of: &[ResourceSpecifier<'_>],
) -> Result<Vec<Settings>, String> {
    let config = kafka::common(kafka).map_err(|error| error.to_string())?;
    let admin: AdminClient<Quiet> =
        config.create_with_context(Quiet).map_err(|error| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(PATIENCE));
    let told = admin.describe_configs(of, &options).await.map_err(|error| error.to_string())?;
    told.into_iter().map(|one| one.map(|one| read(&one)).map_err(|code| code.to_string())).collect()
}

fn read(resource: &ConfigResource) -> Settings {
    let entry =
        |entry: &rdkafka::admin::ConfigEntry| Some((entry.name.clone(), entry.value.clone()?));
    resource.entries.iter().filter_map(entry).collect()
}

fn number<N: std::str::FromStr>(settings: &Settings, name: &str) -> Option<N> {
    settings.get(name)?.parse().ok()
}

/// What is to be said of a broker's settings.
fn of_broker(
    bridges: &Bridges,
    brokers: usize,
    what: &str,
    settings: &Settings,
    largest: u64,
) -> Vec<Finding> {
    let mut found = vec![version(what, settings)];
    let mut warn = |says: String, change: &str| found.push(Finding::warn(what, says, change));
    if let Some(most) = number::<u64>(settings, "message.max.bytes")
        && most < largest + ADDED
    {
        let says = format!("message.max.bytes is {most}: a log takes messages of {largest}");
        warn(says, "raise it, or an event that is larger is parked on its way to Kafka");
    }
    if let Some(minutes) = number::<u64>(settings, "offsets.retention.minutes")
        && minutes < WEEK_MIN
    {
        let says = format!("offsets.retention.minutes is {minutes}");
        warn(
            says,
            "raise it to 10080: a group of a kafka:// bus that is idle for longer repeats all",
        );
    }
    if settings.get("auto.create.topics.enable").is_some_and(|on| on == "true") {
        let says = "auto.create.topics.enable is on";
        warn(says.into(), "turn it off: a typo in a topic's name makes a topic");
    }
    let copied = ["offsets.topic.replication.factor", "transaction.state.log.replication.factor"];
    for name in copied.into_iter().chain(["default.replication.factor"]) {
        match number::<usize>(settings, name) {
            Some(1) if brokers >= 3 => {
                warn(
                    format!("{name} is 1 in a cluster of {brokers}"),
                    "set it to 3: what has one copy is lost with its broker",
                );
            }
            _ => {}
        }
    }
    for name in copied {
        if let Some(copies) = number::<usize>(settings, name).filter(|copies| *copies > brokers) {
            let says = format!("{name} is {copies} in a cluster of {brokers}");
            found.push(Finding::fail(
                what,
                says,
                "set it to as many: groups and transactions wait for ever",
            ));
        }
    }
    let transactions = |route: &crate::Route| {
        route.direction == Direction::Out && route.mode == Mode::Transactions
    };
    if bridges.routes.iter().any(transactions)
        && let Some(most) = number::<u64>(settings, "transaction.max.timeout.ms")
        && most < TRANSACTION_MS
    {
        let says = format!("transaction.max.timeout.ms is {most}");
        found.push(Finding::fail(
            what,
            says,
            "raise it to 30000 at least: a bridge's transactions are refused",
        ));
    }
    found
}

/// A broker does not tell its version; what was taken out of version 4 does.
fn version(what: &str, settings: &Settings) -> Finding {
    match settings.get("inter.broker.protocol.version") {
        Some(old) => Finding::fail(
            what,
            format!("is older than Kafka 4: its protocol is {old}"),
            "update it: groups and transactions of this version are those of Kafka 4",
        ),
        None => {
            let codec = settings.get("compression.type").map_or("producer", String::as_str);
            Finding::ok(what, format!("is Kafka 4 or newer, compression {codec}"))
        }
    }
}

/// What is to be said of a topic's settings.
fn of_topic(direction: Direction, what: &str, settings: &Settings, largest: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let compacted = settings.get("cleanup.policy").is_some_and(|policy| policy == "compact");
    match direction {
        Direction::In => {
            if let Some(ms) = number::<i64>(settings, "retention.ms")
                && (0..DAY_MS).contains(&ms)
                && !compacted
            {
                let says = format!("keeps records for {} min", ms / 60_000);
                let change =
                    "raise retention.ms: a bridge that is down for longer misses what was removed";
                found.push(Finding::warn(what, says, change));
            }
        }
        Direction::Out => {
            if let Some(most) = number::<u64>(settings, "max.message.bytes")
                && most < largest + ADDED
            {
                let says =
                    format!("takes records of {most} bytes: the log takes messages of {largest}");
                let change = "raise max.message.bytes, or an event that is larger is parked";
                found.push(Finding::warn(what, says, change));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn bridges() -> Bridges {
        let file = "[kafka]\nbrokers = \"a:1\"\n[[route]]\nname = \"r\"\nfrom = \"s.t\"\nto = \"kafka:a\"\n";
        Bridges::parse(file).unwrap()
    }

    #[test]
    fn each_setting_that_hurts_is_named_with_what_to_set() {
        let said = |brokers, name: &str, value: &str| {
            let found = of_broker(&bridges(), brokers, "b", &settings(&[(name, value)]), 1000);
            let hurts = found.iter().filter(|one| one.level != Level::Ok);
            hurts.map(|one| (one.level, one.says.clone())).collect::<Vec<_>>()
        };
        for (brokers, name, value, level) in [
            (1, "inter.broker.protocol.version", "3.9-IV0", Level::Fail),
            (1, "message.max.bytes", "1000", Level::Warn),
            (1, "offsets.retention.minutes", "60", Level::Warn),
            (1, "auto.create.topics.enable", "true", Level::Warn),
            (3, "default.replication.factor", "1", Level::Warn),
            (1, "offsets.topic.replication.factor", "3", Level::Fail),
            (1, "transaction.max.timeout.ms", "10000", Level::Fail),
        ] {
            let found = said(brokers, name, value);
            let [(found, says)] = found.as_slice() else { panic!("{name}: {found:?}") };
            assert_eq!(*found, level, "{says}");
            assert!(says.contains(value.trim_end_matches("true")), "{says}");
        }
        for (name, value) in
            [("message.max.bytes", "1048588"), ("offsets.retention.minutes", "10080")]
        {
            assert_eq!(said(1, name, value), []);
        }
    }

    #[test]
    fn a_topic_is_looked_at_for_the_way_it_is_used() {
        let short = settings(&[("retention.ms", "60000"), ("max.message.bytes", "1000")]);
        let said = |direction, settings: &Settings| {
            of_topic(direction, "t", settings, 1000)
                .into_iter()
                .map(|one| one.says)
                .collect::<Vec<_>>()
        };
        assert_eq!(said(Direction::In, &short), ["keeps records for 1 min"]);
        let small = "takes records of 1000 bytes: the log takes messages of 1000";
        assert_eq!(said(Direction::Out, &short), [small]);
        let kept = settings(&[("retention.ms", "60000"), ("cleanup.policy", "compact")]);
        assert_eq!(said(Direction::In, &kept), Vec::<String>::new());
        assert_eq!(said(Direction::In, &settings(&[("retention.ms", "-1")])), Vec::<String>::new());
    }
}
