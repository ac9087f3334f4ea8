//! Every mode, short; and long where it is asked for.

use std::fs;
use std::path::Path;

use lockgate_flows::medisupply::Mode;
use lockgate_flows::medisupply::experiment::{Plan, html};

use crate::{LONG, assert_kept, embedded, experiment, findings};

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
    let plan = plan(Mode::Down);
    let findings = findings(&embedded().await, &plan).await;
    let summary = &findings.summary;
    assert_kept(summary);
    assert!(summary.breaker_opened > 0 && summary.parked > 0, "{summary:?}");

    let page = html(&plan, &findings);
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("medisupply-down.html"), &page).unwrap();
    for part in ["promise", "open from", "half-open from", "Circuit breaker", "class='parked line'"]
    {
        assert!(page.contains(part), "{part} is not on the page");
    }
    for outside in ["http:", "https:", "<script", "url(", "@import", "NaN"] {
        assert!(!page.contains(outside), "{outside} is on the page, which stands alone");
    }
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
