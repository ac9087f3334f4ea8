//! `/livez` and `/readyz`.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bus::fault::FaultRates;
use tokio::time::{Instant, advance};

use crate::support::{Answer, World};

/// A probe asks by address.
async fn probe(world: &World, path: &str) -> Answer {
    let request = Request::builder().uri(path).header("host", "10.0.0.7:8080");
    world.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_bus_and_liveness_does_not() {
    let world = World::open().await;
    let ready = probe(&world, "/readyz").await;
    assert_eq!((ready.status, &ready.json["checks"]["bus"]["status"]), (200, &"ok".into()));

    world.faults.set_rates(FaultRates { fail_before: 1000, ..FaultRates::NONE });
    let asked = world.faults.operations();
    assert_eq!(probe(&world, "/readyz").await.status, 200, "an answer is good for a second");
    assert_eq!(world.faults.operations(), asked);
    advance(Duration::from_secs(1)).await;
    let away = probe(&world, "/readyz").await;
    assert_eq!((away.status, &away.json["checks"]["bus"]["status"]), (503, &"failed".into()));
    assert!(away.json["checks"]["bus"]["reason"].as_str().unwrap().contains("away"));
    assert_eq!(probe(&world, "/livez").await.status, 200);

    world.faults.set_rates(FaultRates::NONE);
    advance(Duration::from_secs(1)).await;
    assert_eq!(probe(&world, "/readyz").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_answer_is_given_two_seconds() {
    let world = World::open().await;
    let max_delay = Duration::from_secs(1 << 30);
    world.faults.set_rates(FaultRates { delay: 1000, max_delay, ..FaultRates::NONE });
    let started = Instant::now();
    assert_eq!(probe(&world, "/readyz").await.status, 503);
    assert_eq!(started.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_shuts_down_is_not_ready() {
    let world = World::open().await;
    world.shutdown.cancel();
    let ready = probe(&world, "/readyz").await;
    assert_eq!((ready.status, &ready.json["checks"]["process"]["status"]), (503, &"failed".into()));
    assert_eq!(probe(&world, "/livez").await.status, 200);
}
