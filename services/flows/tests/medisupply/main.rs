//! MediSupply: the experiment in every mode, the roles killed in the middle of a fault, and the
//! services as clients see them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod endpoints;
mod killed;
mod modes;
mod without;

use std::time::Duration;

use bus::Bus;
use lockgate_flows::medisupply::experiment::{Findings, Plan, Progress, Summary, run};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Long enough for anything on a busy machine; never waited for when things work.
const PATIENCE: Duration = Duration::from_secs(180);

/// Set for runs on a machine of one's own: then the bounds on times must hold too.
const LONG: &str = "LOCKGATE_EXPERIMENT_LONG";

async fn embedded() -> Bus {
    Bus::connect("embedded:").await.unwrap()
}

async fn experiment(bus: &Bus, plan: &Plan) -> Summary {
    findings(bus, plan).await.summary
}

async fn findings(bus: &Bus, plan: &Plan) -> Findings {
    let (progress, _) = watch::channel(Progress::default());
    let stop = CancellationToken::new();
    let run = run(bus, bus, plan, &progress, &stop);
    let findings = tokio::time::timeout(PATIENCE, run).await.expect("in time").unwrap();
    println!("{}", serde_json::to_string(&findings.summary).unwrap());
    findings
}

/// The bound of this name.
fn holds(summary: &Summary, name: &str) -> bool {
    summary.bounds.iter().find(|bound| bound.name == name).expect("a bound").holds
}

/// Every promise that does not depend on the machine; the others too where it is asked for.
fn assert_kept(summary: &Summary) {
    let long = std::env::var_os(LONG).is_some();
    let broken: Vec<_> = summary
        .bounds
        .iter()
        .filter(|bound| !bound.holds && (long || !bound.timing))
        .map(|bound| format!("{}: {}", bound.name, bound.detail))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(summary.validated + summary.rejected + summary.failed, summary.accepted);
}
