//! Every mode, short; and long where it is asked for.

use lockgate_flows::medisupply::Mode;
use lockgate_flows::medisupply::experiment::Plan;

use crate::{LONG, assert_kept, embedded, experiment};

fn plan(mode: Mode) -> Plan {
    match std::env::var_os(LONG) {
        Some(_) => Plan::new(6000, 100, mode),
        None => Plan::new(240, 40, mode),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn normal() {
    let summary = experiment(&embedded().await, &plan(Mode::Normal)).await;
    assert_kept(&summary);
    assert_eq!(summary.accepted, summary.sent);
    assert!(summary.rejected > 0 && summary.failed > 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow() {
    let summary = experiment(&embedded().await, &plan(Mode::Slow)).await;
    assert_kept(&summary);
    assert!(summary.breaker_opened > 0 && summary.parked > 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down() {
    let summary = experiment(&embedded().await, &plan(Mode::Down)).await;
    assert_kept(&summary);
    assert!(summary.breaker_opened > 0 && summary.parked > 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn error() {
    let summary = experiment(&embedded().await, &plan(Mode::Error)).await;
    assert_kept(&summary);
    assert!(summary.breaker_opened > 0 && summary.parked > 0, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flapping() {
    let summary = experiment(&embedded().await, &plan(Mode::Flapping)).await;
    assert_kept(&summary);
    assert!(summary.breaker_opened > 0, "{summary:?}");
}

/// Too few errors for the breaker: the budget alone bounds the calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn some_errors() {
    let mut plan = plan(Mode::Error);
    plan.fault.rate = Some(0.3);
    let summary = experiment(&embedded().await, &plan).await;
    assert_kept(&summary);
}
