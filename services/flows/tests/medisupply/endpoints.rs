//! The services as a client sees them: the document's requests and answers.

use std::time::Duration;

use lockgate_flows::medisupply::experiment::{isolated, ready, serve};
use lockgate_flows::medisupply::{HealthStatus, Settings};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, embedded};

struct World {
    settings: Settings,
    client: reqwest::Client,
    stop: CancellationToken,
    services: JoinHandle<Result<(), lockgate_flows::Failure>>,
}

impl World {
    async fn start() -> Self {
        let settings = isolated(Settings::brisk()).unwrap();
        let (bus, stop) = (embedded().await, CancellationToken::new());
        let (theirs, told) = (settings.clone(), stop.clone());
        let services = tokio::spawn(async move { serve(&bus, &bus, &theirs, told).await });
        ready(&settings).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { settings, client, stop, services }
    }

    async fn get(&self, port: u16, path: &str) -> (u16, Value) {
        let answer = self.client.get(self.settings.url(port, path)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn post(&self, port: u16, path: &str, body: Value) -> (u16, Value) {
        let post = self.client.post(self.settings.url(port, path)).json(&body);
        let answer = post.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn order(&self, body: Value) -> (u16, Value) {
        self.post(self.settings.gateway_port, "/create_order", body).await
    }

    async fn orders(&self) -> Vec<Value> {
        let (_, answer) = self.get(self.settings.order_port, "/get_orders").await;
        answer["orders"].as_array().unwrap().clone()
    }

    /// Waits until the order stands so.
    async fn stands(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let orders = self.orders().await;
            let order = orders.into_iter().find(|order| order["order_id"] == id).unwrap();
            if wanted(&order) {
                return order;
            }
            assert!(Instant::now() < until, "{order}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn health(&self, wanted: impl Fn(&HealthStatus) -> bool) -> HealthStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            let (_, body) = self.get(self.settings.monitor_port, "/health_status").await;
            let status: HealthStatus = serde_json::from_value(body).unwrap();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < until, "{status:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.services).await.expect("in time").unwrap().unwrap();
    }
}

fn order(id: &str, quantity: u32) -> Value {
    json!({ "order_id": id, "product": "Medicine A", "quantity": quantity })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_are_taken_once_and_decided() {
    let world = World::start().await;
    let Settings { gateway_port, order_port, validation_port, external_port, .. } = world.settings;
    let ports = [gateway_port, order_port, validation_port, external_port];
    for port in ports.into_iter().chain([world.settings.monitor_port]) {
        let (status, body) = world.get(port, "/health").await;
        assert_eq!(status, 200, "{body}");
        assert!(body["service"].is_string(), "{body}");
    }

    let (status, answer) = world.order(order("test-001", 10)).await;
    assert_eq!((status, &answer["message"]), (200, &json!("Order placed successfully!")));
    for (id, quantity) in [("too many", 5000), ("nothing.at.all", 0), ("línea\n2", 1)] {
        assert_eq!(world.order(order(id, quantity)).await.0, 200);
    }
    for (id, status) in [
        ("test-001", "Validated"),
        ("too many", "Rejected"),
        ("nothing.at.all", "Failed"),
        ("línea\n2", "Validated"),
    ] {
        let stands = world.stands(id, |order| order["status"] != "Processing").await;
        assert_eq!((&stands["status"], &stands["changes"]), (&json!(status), &json!(1)));
    }

    let (status, again) = world.order(order("test-001", 10)).await;
    assert_eq!((status, &again["duplicate"]), (200, &json!(true)));
    assert_eq!(again["status"], "Validated");
    assert_eq!(world.orders().await.len(), 4, "an order id is one order");
    let (status, other) = world.order(order("test-001", 11)).await;
    assert_eq!((status, &other["title"]), (409, &json!("conflict")));
    let (status, bad) = world.order(json!({ "order_id": "x" })).await;
    assert_eq!(status, 422);
    assert!(bad["detail"].as_str().unwrap().contains("product"), "{bad}");
    for port in ports {
        let (status, nothing) = world.get(port, "/nowhere").await;
        assert_eq!((status, &nothing["title"]), (404, &json!("not found")));
    }

    let clear = world.client.delete(world.settings.url(order_port, "/clear_orders"));
    assert_eq!(clear.send().await.unwrap().status(), 200);
    assert_eq!(world.orders().await.len(), 0);
    assert_eq!(world.order(order("test-001", 10)).await.0, 200);
    let anew = world.stands("test-001", |order| order["status"] != "Processing").await;
    assert_eq!(anew["status"], "Validated", "an id that was cleared is free");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_is_refused_connections_seen_by_the_monitor_and_orders_wait_for_its_end() {
    let world = World::start().await;
    let Settings { external_port, control_port, monitor_port, .. } = world.settings;
    world.health(|status| status.overall.is_some_and(|worst| worst.as_str() == "HEALTHY")).await;
    let (status, answer) =
        world.post(external_port, "/set_failure_mode", json!({ "mode": "down" })).await;
    assert_eq!((status, &answer["mode"]), (200, &json!("down")));
    let down = |status: &HealthStatus| {
        status.services.get("external_service").is_some_and(|one| one.status.as_str() == "DOWN")
    };
    let seen = world.health(down).await;
    assert_eq!(seen.overall.unwrap().as_str(), "DOWN");
    assert!(seen.services["external_service"].detail.contains("refused"), "{seen:?}");
    assert_eq!(seen.last_change.unwrap().service, "external_service");

    assert_eq!(world.order(order("a", 1)).await.0, 200, "orders are taken all the same");
    world.stands("a", |order| order["parked"] == true).await;
    let (status, _) = world.post(control_port, "/set_failure_mode", json!({"mode":"normal"})).await;
    assert_eq!(status, 200);
    let stands = world.stands("a", |order| order["status"] != "Processing").await;
    assert_eq!(stands["status"], "Validated");

    let metrics = world.client.get(world.settings.url(monitor_port, "/metrics")).send().await;
    let metrics = metrics.unwrap().text().await.unwrap();
    assert!(metrics.contains("medisupply_health{service=\"external_service\",status=\"DOWN\"}"));
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");

    let (status, bad) = world.post(control_port, "/set_failure_mode", json!({"mode":"off"})).await;
    assert_eq!(status, 422);
    assert!(bad["detail"].as_str().unwrap().contains("normal|slow|down"), "{bad}");
    world.end().await;
}
