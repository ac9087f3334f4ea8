//! What the layers are for: without one of them a bound is broken, and the others hold.

use lockgate_flows::medisupply::Mode;
use lockgate_flows::medisupply::experiment::Plan;

use crate::{embedded, experiment, holds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_breaker_every_order_is_asked_about_again_and_again() {
    let mut plan = Plan::new(240, 40, Mode::Down);
    plan.settings.breaker = None;
    plan.settings.calm = std::time::Duration::from_millis(20);
    let summary = experiment(&embedded().await, &plan).await;
    assert!(!holds(&summary, "few calls during the fault"), "{summary:?}");
    assert!(holds(&summary, "nothing lost") && holds(&summary, "nothing done twice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_budget_retries_multiply_the_calls() {
    let mut plan = Plan::new(240, 40, Mode::Error);
    plan.fault.rate = Some(0.3);
    plan.settings.retry_budget = None;
    let summary = experiment(&embedded().await, &plan).await;
    assert!(!holds(&summary, "few calls during the fault"), "{summary:?}");
    assert!(holds(&summary, "nothing lost") && holds(&summary, "nothing done twice"));
}
