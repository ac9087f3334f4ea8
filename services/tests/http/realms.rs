//! Which realms events may make.

use std::time::Duration;

use bus::fault::FaultRates;
use lockgate::http::Access;
use lockgate::store::StoreOptions;
use serde_json::{Value, json};

use crate::support::World;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

fn event(id: &str, realm: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": format!("{realm}.created"),
        "subject": "a", "data": 1,
    })
}

async fn world(realms: &str) -> World {
    let options = StoreOptions { realms: realms.parse().unwrap(), ..StoreOptions::default() };
    World::with(Access::open(), options, 1).await
}

#[tokio::test(start_paused = true)]
async fn a_realm_that_is_not_on_the_list_is_refused_and_not_made() {
    let world = world("orders,people").await;
    assert_eq!(world.post(STRUCTURED, event("1", "orders").to_string()).await.status, 202);
    let refused = world.post(STRUCTURED, event("2", "odrers").to_string()).await;
    refused.is_problem(403, "realm-not-allowed");
    for named in ["odrers", "orders,people", "--realms", "LOCKGATE_REALMS"] {
        assert!(refused.detail().contains(named), "{named}: {}", refused.detail());
    }
    let members = (&refused.json["realm"], &refused.json["realms"]);
    assert_eq!(members, (&json!("odrers"), &json!(["orders", "people"])));
    assert!(world.bus.stream("events-odrers").await.err().unwrap().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_batch_with_such_a_realm_is_stored() {
    let world = world("orders").await;
    assert_eq!(world.post(STRUCTURED, event("1", "orders").to_string()).await.status, 202);
    let batch = json!([event("2", "orders"), event("3", "odrers"), event("4", "orders")]);
    world.post(BATCH, batch.to_string()).await.is_problem(403, "realm-not-allowed");
    let log = world.bus.stream("events-orders").await.unwrap();
    assert_eq!(log.info().await.unwrap().messages, 1);
}

#[tokio::test(start_paused = true)]
async fn a_realm_that_exists_takes_events_whatever_the_list_says() {
    let before = world("*").await;
    for realm in ["made", "recorded"] {
        assert_eq!(before.post(STRUCTURED, event("1", realm).to_string()).await.status, 202);
    }
    before.bus.delete_stream("events-recorded").await.unwrap();
    let options = StoreOptions { realms: "other".parse().unwrap(), ..StoreOptions::default() };
    let after = before.reopened(options).await;
    // Declared by an operator, and no event yet.
    let declared = bus::StreamConfig::parse("events-declared", &["events.declared.*.*"]).unwrap();
    after.bus.ensure_stream(&declared).await.unwrap();
    for realm in ["made", "recorded", "declared", "other"] {
        let answer = after.post(STRUCTURED, event("2", realm).to_string()).await;
        assert_eq!(answer.status, 202, "{realm}: {answer:?}");
    }
    after
        .post(STRUCTURED, event("2", "new").to_string())
        .await
        .is_problem(403, "realm-not-allowed");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_realms_are_asked_side_by_side() {
    let world = world("*").await;
    let batch: Vec<Value> = (0..1000).map(|n| event("1", &format!("r{n}"))).collect();
    assert_eq!(world.post(BATCH, json!(batch).to_string()).await.status, 202);
    // One after the other this would be two requests to the bus for each realm, and half a minute.
    let slow = FaultRates { delay: 1000, max_delay: Duration::from_millis(70), ..FaultRates::NONE };
    world.faults.set_rates(slow);
    let body = json!({"name": "all", "topics": ["*.*"]});
    let answer = world.call("POST", "/v1/subscriptions", None, &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json["fence"].as_object().unwrap().len(), 1000);
}
