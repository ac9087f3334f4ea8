//! The page against the table that operators read.

use std::collections::BTreeSet;
use std::time::Duration;

use bus::{Bus, Error, ErrorKind, Message, Receipt, StreamConfig};
use lockgate_bridge::RouteStatus;

use super::{Lag, Metrics, Mode, OfHttp};
use crate::model::{Realm, SubscriptionName};

/// One at work, and one that another process carries.
fn routes() -> Vec<RouteStatus> {
    let route = |name: &str, state: &str, lag| RouteStatus {
        route: name.to_owned(),
        state: state.to_owned(),
        carried: 7,
        looped: 2,
        parked: 1,
        lag,
        ..RouteStatus::default()
    };
    vec![route("orders", "running", Some(3)), route("stock", "standby", None)]
}

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
    metrics.show_routes(routes);
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

#[tokio::test]
async fn a_route_of_a_bridge_is_shown_as_it_is() {
    let page = touched().await.render().unwrap();
    for line in [
        "lockgate_bridge_carried_total{route=\"orders\"} 7",
        "lockgate_bridge_looped_total{route=\"orders\"} 2",
        "lockgate_bridge_lag_records{route=\"orders\"} 3",
        "lockgate_bridge_parked_records{route=\"stock\"} 1",
        "lockgate_bridge_state{route=\"orders\",state=\"running\"} 1",
        "lockgate_bridge_state{route=\"stock\",state=\"running\"} 0",
        "lockgate_bridge_state{route=\"stock\",state=\"standby\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
    }
    assert!(!page.contains("lockgate_bridge_lag_records{route=\"stock\"}"), "it is not known");
    assert!(!Metrics::default().render().unwrap().contains("lockgate_bridge"), "without a bridge");
}
