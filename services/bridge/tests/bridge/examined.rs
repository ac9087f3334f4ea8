//! A cluster that is looked at before a bridge is started.

use lockgate_bridge::examine::{Finding, Level, examine};

use super::foreign::make_topic;
use super::world::{World, route, unique};

const LARGEST: u64 = 768 << 10;

fn of<'f>(found: &'f [Finding], what: &str) -> &'f Finding {
    found.iter().find(|one| one.what == what).unwrap_or_else(|| panic!("{what}: {found:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_fit_passes_and_what_is_missing_is_named() {
    let world = World::embedded().await;
    let (topic, copy) = (unique("orders"), unique("copy"));
    make_topic(&world.brokers, &topic, 3).await;
    make_topic(&world.brokers, &copy, 1).await;
    let (into, out, lost) = (unique("in"), unique("out"), unique("lost"));
    let routes = [
        route(&into, &format!("kafka:{topic}"), "shop.orders", ""),
        route(&out, "shop.orders", &format!("kafka:{copy}"), ""),
        route(&lost, "kafka:nowhere", "shop.lost", ""),
    ];
    let found = examine(&world.bridges(&routes.concat()), LARGEST).await;
    let failed: Vec<&Finding> = found.iter().filter(|one| one.level == Level::Fail).collect();
    let [failed] = failed.as_slice() else { panic!("{found:#?}") };
    assert_eq!(failed.what, format!("route {lost}"));
    assert_eq!(failed.says, "topic nowhere does not exist");
    assert!(failed.change.as_ref().unwrap().contains("--create --topic nowhere"));
    assert!(of(&found, &format!("route {into}")).says.contains("3 partitions can be read"));
    assert!(of(&found, "kafka broker 1").says.starts_with("is Kafka 4 or newer"), "{found:#?}");
    // It was looked at, and nothing was made or fenced.
    let again = examine(&world.bridges(&routes.concat()), LARGEST).await;
    assert_eq!(again, found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_does_not_answer_is_named_with_the_reason() {
    let world = World::embedded().await;
    let nobody = format!("127.0.0.1:{}", bus::testkit::free_port().unwrap());
    let mut bridges = world.bridges(&route("r", "kafka:orders", "shop.orders", ""));
    bridges.kafka.brokers = format!("{nobody},{}", world.brokers);
    let found = examine(&bridges, LARGEST).await;
    let silent = of(&found, &format!("kafka {nobody}"));
    assert_eq!(silent.level, Level::Warn, "another one answers");
    assert!(silent.says.contains("Connection refused"), "{silent:?}");
    bridges.kafka.brokers = nobody;
    let found = examine(&bridges, LARGEST).await;
    assert_eq!((found.len(), found[0].level), (1, Level::Fail));
}
