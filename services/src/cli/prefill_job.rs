//! `lockgate prefill-job`: one prefill in a process of its own, as a Kubernetes Job runs it.

use std::path::{Path, PathBuf};

use bus::Bus;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::failure::Failure;
use crate::model::{EXIT_FINAL, JobOutcome, Report, Task};
use crate::platform::Platform;
use crate::prefill;
use crate::store::{Store, StoreOptions};

const EXIT_CODES: &str = "\
Exit codes:
  0  the prefill is complete and reported, or nobody waits for it
 64  the prefill has failed, or the task is none: do not repeat it
  1, 2, 3  as ever; begin it again, and it goes on where it stopped

Its last words are JSON: {\"rows\":3,\"report\":{...}} or {\"reason\":\"class: what to do\"}.";

/// Do one prefill and end: what the operator's Kubernetes Jobs run
///
/// The same work as the prefill role's, resumed from where another process stopped, and reported to
/// the registration role before this ends. How it ended is also left in a file, where Kubernetes
/// looks for a container's last words.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(super) struct PrefillJob {
    /// A file with the task, as the work queue holds it
    #[arg(long, env = "LOCKGATE_PREFILL_TASK", value_name = "FILE")]
    task: PathBuf,
    /// The bus that Lockgate's roles are on
    #[arg(long, env = "LOCKGATE_BUS", value_name = "URL")]
    bus: String,
    /// The file of last words; one that cannot be written is a warning
    #[arg(
        long,
        env = "LOCKGATE_TERMINATION_LOG",
        default_value = "/dev/termination-log",
        value_name = "FILE"
    )]
    termination_log: PathBuf,
    #[command(flatten)]
    connection: Connection,
}

impl PrefillJob {
    /// Does it.
    pub(super) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let ended = self.work(stop).await;
        let words = match &ended {
            Ok(outcome) => outcome.to_last_words(),
            Err(failure) => JobOutcome::failed(failure.message()).to_last_words(),
        };
        if let Err(error) = std::fs::write(&self.termination_log, words) {
            let file = self.termination_log.display();
            tracing::warn!(%error, "the last words cannot be written to {file}");
        }
        let outcome = ended?;
        match (&outcome.report, outcome.reason) {
            // Begun anew under another generation, which has a task of its own.
            (Some(Report::HistoryChanged { .. }), _) | (_, None) => Ok(()),
            (_, Some(reason)) => Err(Failure::new(reason).exits_with(EXIT_FINAL)),
        }
    }

    async fn work(&self, stop: CancellationToken) -> Result<JobOutcome, Failure> {
        let task = read(&self.task)?;
        if self.bus == "embedded:" {
            let what = "embedded: is empty in every process";
            return Err(Failure::usage(format!("{what}: give --bus the one that the roles use")));
        }
        let bus = Bus::connect_with(&self.bus, self.connection.options()?).await?;
        let store = Store::open(Platform::new(bus.clone()), StoreOptions::default()).await?;
        let ended = prefill::run_one(store, &task.of, &stop).await;
        if let Err(error) = bus.close().await {
            tracing::warn!(%error, "the bus was not closed in order");
        }
        ended?.ok_or_else(|| {
            Failure::unavailable("stopped before the prefill was complete: the next one goes on")
        })
    }
}

/// A task that cannot be read, or is none, is so the next time too.
fn read(file: &Path) -> Result<Task, Failure> {
    let failed = |why: String| {
        let what = format!("task-unreadable: {} {why}", file.display());
        Failure::new(what).exits_with(EXIT_FINAL)
    };
    let text = std::fs::read(file).map_err(|error| failed(format!("cannot be read: {error}")))?;
    serde_json::from_slice(&text).map_err(|error| failed(format!("is no task: {error}")))
}
