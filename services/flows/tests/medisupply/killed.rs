//! Roles and the broker, killed in the middle of a fault: nothing is lost, nothing is done twice.

use bus::Bus;
use bus::testkit::NatsServer;
use lockgate_flows::medisupply::Mode;
use lockgate_flows::medisupply::experiment::{Phase, Plan, Progress, run};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{PATIENCE, embedded, experiment, holds};

/// What must hold whoever dies. Calls may be repeated: what a killed worker had asked is asked
/// again.
fn assert_safe(summary: &lockgate_flows::medisupply::experiment::Summary) {
    for bound in ["nothing lost", "nothing done twice", "all decided within 60 s"] {
        assert!(holds(summary, bound), "{bound}: {summary:?}");
    }
    assert!(summary.accepted > summary.sent / 3, "{summary:?}");
    assert_eq!(summary.killed, 2, "the order service and the worker");
    assert!(summary.parked > 0, "the fault was met: {summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_service_and_the_worker() {
    let mut plan = Plan::new(240, 40, Mode::Down);
    plan.kill = vec!["orders", "validation"];
    assert_safe(&experiment(&embedded().await, &plan).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_nats_the_order_service_the_worker_and_the_broker() {
    let mut server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(&server.url()).await.unwrap();
    let mut plan = Plan::new(240, 40, Mode::Error);
    plan.kill = vec!["validation", "orders"];
    let (progress, mut told) = watch::channel(Progress::default());
    let stop = CancellationToken::new();
    let run = run(&bus, &bus, &plan, &progress, &stop);
    let killing = async {
        told.wait_for(|now| now.phase == Phase::Fault).await.unwrap();
        server.kill9();
        server.restart().await.unwrap();
    };
    let both = async { tokio::join!(run, killing) };
    let (findings, ()) = tokio::time::timeout(PATIENCE, both).await.expect("in time");
    let summary = findings.unwrap().summary;
    println!("{}", serde_json::to_string(&summary).unwrap());
    assert_safe(&summary);
}
