//! The terminal side: what is typed, what is printed, what is exited with.

mod delivery;
mod failure;
mod follow;
mod lines;
mod logging;
mod new_event;
mod publish;
mod pull;
mod screen;
mod server;
mod state;
mod subscribe;
mod subscriptions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use failure::Failure;
use logging::LogOptions;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed: the error says what to change
  2  wrong usage
  3  the server did not answer or is busy: repeat it later
130  interrupted before it could end well";

/// Prefill first, then every later change: no gap, no duplicate, per key never an older state
/// after a newer one.
#[derive(Debug, Parser)]
#[command(name = "lockgate", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Publish(publish::Publish),
    Subscribe(subscribe::Subscribe),
    Subscriptions(subscriptions::Subscriptions),
}

/// Runs the program on this process' arguments, environment and terminal, and returns what it
/// exits with. Errors are printed before it returns.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.start("warn");
    install_tls();
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(cli.command)),
        Err(error) => Err(Failure::from(error)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Publish(publish) => publish.run().await,
        Command::Subscribe(subscribe) => until_asked(|stop| subscribe.run(stop)).await,
        Command::Subscriptions(subscriptions) => subscriptions.run().await,
    }
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
