//! The page against the table that operators read.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Bus, Error, ErrorKind, Message, Receipt, StreamConfig};

use super::{Lag, Metrics, Mode, OfHttp};
use crate::model::{Realm, SubscriptionName};

/// Numbers of which every series has a value.
async fn touched() -> Metrics {
    let metrics = Metrics::default();
    let bus = Bus::connect("embedded:").await.unwrap().with_middleware(metrics.of_bus());
    let config = StreamConfig::parse("a", &["a"]).unwrap();
    let stream = bus.ensure_stream(&config).await.unwrap();
    for _ in 0..2 {
        stream.publish(Message::new("a", "1").unwrap().id("1")).await.unwrap();
    }
    bus.delete_stream("a").await.unwrap();
    stream.publish(Message::new("a", "1").unwrap()).await.unwrap_err();

    let realm = Realm::new("care").unwrap();
    for duplicate in [false, true] {
        metrics.published(&realm, &Ok(Receipt { sequence: 1, duplicate }));
    }
    metrics.published(&realm, &Err(Error::new(ErrorKind::Unavailable, "away")));
    metrics.delivered(Mode::queue, 2, 1);
    metrics.settled("acked");
    metrics.given_up("rejected");
    metrics.prefill_rows(1);
    metrics.prefill_ended("complete");
    metrics.prefill_took(Duration::from_secs(1));
    let name = SubscriptionName::new("careportal").unwrap();
    let lag = Lag { pending: 1, unsettled: 1, oldest: Duration::from_secs(1) };
    metrics.show_lag(&[(name, lag)], 0);
    let of = OfHttp { route: String::from("/metrics"), method: "GET", status: 200 };
    metrics.answered(of, Duration::from_secs(1));
    metrics
}

#[tokio::test]
async fn what_is_counted_is_in_the_table_for_operators() {
    let page = touched().await.render().unwrap();
    let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let counted: BTreeSet<_> = kinds
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            _ => name.to_owned(),
        })
        // Of handlers, which no role has.
        .filter(|name| !["bus_delivered_total", "bus_settled_total"].contains(&name.as_str()))
        .collect();
    let runbook = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md");
    let runbook = std::fs::read_to_string(runbook).unwrap();
    let rows = runbook.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let table: BTreeSet<_> = rows
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("lockgate_") || name.starts_with("bus_"))
        .collect();
    assert_eq!(counted, table);
}
