//! Roles of a flow in this process: started in order, watched, joined.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::flow::{Context, Failure, Flow, Role};

/// How long roles have to settle their work once they are told to end.
const DRAIN: Duration = Duration::from_secs(20);

/// Prepares the flow and runs `roles` of it until the context's shutdown is cancelled or every
/// role has ended. The first role that fails stops the others, and its failure is returned.
///
/// When this returns no task of a role is left. Roles have 20 s to settle their work after the
/// shutdown; one that takes longer is aborted, which is a failure that says so: what it had not
/// settled comes again.
pub async fn run(flow: &Flow, roles: &[&'static Role], context: Context) -> Result<(), Failure> {
    let context = Context { roles: roles.iter().map(|role| role.name).collect(), ..context };
    (flow.prepare)(context.clone()).await?;
    let mut tasks = JoinSet::new();
    for role in roles.iter().copied() {
        let work = (role.run)(context.clone());
        tasks.spawn(async move { (role.name, work.await) });
    }
    let mut outcome = Ok(());
    let late = async {
        context.shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::pin!(late);
    loop {
        let ended = tokio::select! { biased;
            ended = tasks.join_next() => ended,
            () = &mut late => {
                tasks.shutdown().await;
                let left = format!("not settled within {} s: what is left comes again", DRAIN.as_secs());
                return outcome.and(Err(left.into()));
            }
        };
        let failure = match ended {
            None => return outcome,
            Some(Ok((_, Ok(())))) => continue,
            Some(Ok((role, Err(failure)))) => format!("{role}: {}", chain(&*failure)).into(),
            Some(Err(panicked)) => Failure::from(format!("a role of {}: {panicked}", flow.name)),
        };
        context.shutdown.cancel();
        outcome = outcome.and(Err(failure));
    }
}

/// A failure with everything that caused it.
fn chain(failure: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    let mut text = failure.to_string();
    let mut source = failure.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use bus::Bus;
    use futures_util::FutureExt;

    use super::*;

    fn flow(roles: &'static [Role]) -> Flow {
        Flow { name: "test", about: "a test", roles, prepare: |_| async { Ok(()) }.boxed() }
    }

    const WAITS: Role = Role {
        name: "waits",
        about: "waits",
        run: |context| {
            async move {
                context.shutdown.cancelled().await;
                Ok(())
            }
            .boxed()
        },
    };
    const ENDS: Role = Role { name: "ends", about: "ends", run: |_| async { Ok(()) }.boxed() };
    const FAILS: Role =
        Role { name: "fails", about: "fails", run: |_| async { Err("no luck".into()) }.boxed() };
    const HANGS: Role =
        Role { name: "hangs", about: "hangs", run: |_| std::future::pending().boxed() };

    async fn context() -> Context {
        let bus = Bus::connect("embedded:").await.unwrap();
        Context::new(bus.clone(), bus)
    }

    #[tokio::test]
    async fn it_ends_when_every_role_has_ended() {
        static ROLES: [Role; 2] = [ENDS, ENDS];
        let flow = flow(&ROLES);
        run(&flow, &[&ROLES[0], &ROLES[1]], context().await).await.unwrap();
    }

    #[tokio::test]
    async fn a_role_that_fails_stops_the_others() {
        static ROLES: [Role; 2] = [WAITS, FAILS];
        let flow = flow(&ROLES);
        let failed = run(&flow, &[&ROLES[0], &ROLES[1]], context().await).await.unwrap_err();
        assert_eq!(failed.to_string(), "fails: no luck");
    }

    #[tokio::test(start_paused = true)]
    async fn a_role_that_does_not_end_is_not_waited_for_without_end() {
        static ROLES: [Role; 1] = [HANGS];
        let (flow, context) = (flow(&ROLES), context().await);
        context.shutdown.cancel();
        let failed = run(&flow, &[&ROLES[0]], context).await.unwrap_err().to_string();
        assert!(failed.contains("not settled within 20 s"), "{failed}");
    }
}
