//! The terminal side: what is typed, what is printed, what is exited with.

mod bridge;
mod connection;
mod dead_letters;
mod delivery;
mod demo;
mod doctor;
mod experiment;
mod failure;
mod flow;
mod follow;
mod lines;
mod logging;
mod new_event;
mod prefill_job;
mod publish;
mod pull;
mod raw;
mod realms;
mod screen;
mod serve;
mod server;
mod state;
mod subscribe;
mod subscriptions;
mod topology;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use failure::Failure;
use logging::LogOptions;
use serve::ServeOptions;

use crate::roles::Role;

/// What a server logs: of the libraries below it only what its operator can act on.
const LOGGED: &str = "info,async_nats=warn,async_nats::connector=info,fjall=warn,lsm_tree=warn";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed: the error says what to change
  2  wrong usage
  3  the server did not answer or is busy: repeat it later
130  interrupted before it could end well";

/// Prefill first, then every later change: no gap, no duplicate, per key never an older state
/// after a newer one.
#[derive(Parser)]
///
/// Without a command every role runs in this process: `lockgate` alone is a whole Lockgate on the
/// embedded bus, open to this machine.
#[command(name = "lockgate", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    serve: ServeOptions,
    // The heading that it opens holds for whatever follows.
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run roles in this process, for example one process for each on a NATS cluster
    Run(Run),
    /// See prefill and live in your terminal, verified
    ///
    /// Starts every role, publishes changes of a small directory while a subscription with prefill
    /// is registered on the way, and verifies what arrived: no gap, no duplicate, never an older
    /// state after a newer one. Exits with 0 if every promise was kept. Its realm and subscription
    /// have names that nothing else has, and are removed at the end, also when it is interrupted.
    Demo(demo::Demo),
    Experiment(experiment::Experiment),
    Flow(flow::Flow),
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Subscriptions(subscriptions::Subscriptions),
    Realms(realms::Realms),
    Topology(topology::Topology),
    Bridge(bridge::Bridge),
    Doctor(doctor::Doctor),
    PrefillJob(prefill_job::PrefillJob),
}

/// `lockgate run`
#[derive(Debug, Args)]
struct Run {
    /// The roles to run
    #[arg(required = true, value_name = "ROLE")]
    roles: Vec<Role>,
    #[command(flatten)]
    serve: ServeOptions,
}

/// Runs the program on this process' arguments, environment and terminal, and returns what it
/// exits with. Errors are printed before it returns.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli
        .command
        .unwrap_or_else(|| Command::Run(Run { roles: Role::ALL.to_vec(), serve: cli.serve }));
    let serves = matches!(command, Command::Run(_) | Command::PrefillJob(_));
    // The client logs each event of a connection that the bus logs too, but for the new one.
    cli.log.start(if serves { LOGGED } else { "warn" });
    install_tls();
    let mut runtime = match command {
        Command::Run(_)
        | Command::Demo(_)
        | Command::Experiment(_)
        | Command::Flow(_)
        | Command::PrefillJob(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let outcome = match runtime.enable_all().build() {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => Err(Failure::from(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(Run { roles, serve }) => {
            until_asked(|stop| run_roles(roles, serve, stop)).await
        }
        Command::Demo(demo) => until_asked(|stop| demo.run(stop)).await,
        Command::Experiment(experiment) => until_asked(|stop| experiment.run(stop)).await,
        Command::Flow(flow) => until_asked(|stop| flow.run(stop)).await,
        Command::Publish(publish) => publish.run().await,
        Command::Subscribe(subscribe) => until_asked(|stop| subscribe.run(stop)).await,
        Command::Subscriptions(subscriptions) => subscriptions.run().await,
        Command::Realms(realms) => realms.run().await,
        Command::Topology(topology) => topology.run().await,
        Command::Bridge(bridge) => bridge.run().await,
        Command::Doctor(doctor) => doctor.run().await,
        Command::PrefillJob(job) => until_asked(|stop| job.run(stop)).await,
    }
}

async fn run_roles(
    mut roles: Vec<Role>,
    options: ServeOptions,
    stop: CancellationToken,
) -> Result<(), Failure> {
    roles.sort();
    roles.dedup();
    let serving = options.start(&roles, &stop).await?;
    serving.warn_of_drift().await;
    // Without its last line break, which telling adds.
    if let Err(error) = screen::tell(serving.banner(&options, &roles).trim_end_matches('\n')) {
        tracing::warn!(%error, "what is served cannot be printed, and is served all the same");
    }
    serving.run(stop).await
}

/// Runs `work`; the first SIGINT or SIGTERM cancels its token, so that it can end well, and the
/// second leaves it where it is.
async fn until_asked<F>(work: impl FnOnce(CancellationToken) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(work(stop.clone()));
    tokio::select! { biased;
        outcome = &mut work => return outcome,
        asked = asked_to_stop() => asked?,
    }
    stop.cancel();
    tokio::select! { biased;
        outcome = work => outcome,
        asked = asked_to_stop() => Err(asked.map_or_else(Failure::from, |()| Failure::interrupted())),
    }
}

/// Resolves at the first SIGINT (^C) or SIGTERM from now on.
async fn asked_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! { biased;
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

/// Makes ring the process' TLS provider. A second call changes nothing.
pub(crate) fn install_tls() {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("this process has a TLS provider already");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_option_is_described() {
        let mut cli = Cli::command();
        cli.build();
        let mut commands = vec![cli];
        while let Some(command) = commands.pop() {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "{name} says nothing of itself");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name}: {}", argument.get_id());
            }
            commands.extend(command.get_subcommands().filter(|c| c.get_name() != "help").cloned());
        }
        Cli::command().debug_assert();
    }
}
