//! Roles of a flow in this process: started in order, watched, joined.

use tokio::task::JoinSet;

use crate::flow::{Context, Failure, Flow, Role};

/// Prepares the flow and runs `roles` of it until the context's shutdown is cancelled or every
/// role has ended. The first role that fails stops the others, and its failure is returned.
pub async fn run(flow: &Flow, roles: &[&'static Role], context: Context) -> Result<(), Failure> {
    (flow.prepare)(context.clone()).await?;
    let mut tasks = JoinSet::new();
    for role in roles.iter().copied() {
        let work = (role.run)(context.clone());
        tasks.spawn(async move { (role.name, work.await) });
    }
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let failure = match ended {
            Ok((_, Ok(()))) => continue,
            Ok((role, Err(failure))) => format!("{role} ended: {failure}").into(),
            Err(panicked) => Failure::from(format!("a role of {}: {panicked}", flow.name)),
        };
        context.shutdown.cancel();
        outcome = outcome.and(Err(failure));
    }
    outcome
}
