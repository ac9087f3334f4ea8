//! Prefill tasks become Jobs: look, plan, act, and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Stream};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::jiff::Timestamp;
use lockgate_model::names as bus_names;

use crate::cluster::{Cluster, Fault};
use crate::conclude::{conclude, ending, last_words, state};
use crate::config::PrefillJobs;
use crate::manifest;
use crate::metrics::{Metrics, OfResult, level, of};
use crate::names::PREFILL;
use crate::plan::{Action, Desired, Observed, plan};
use crate::tasks::{Held, HeldTask};

/// What a look at the prefills needs.
pub struct Prefills {
    cluster: Cluster,
    tasks: Stream,
    held: Held,
    settings: PrefillJobs,
    metrics: Arc<Metrics>,
}

/// Why a look was not finished. The next one goes on where it stopped.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The API server did not do its part.
    #[error(transparent)]
    Cluster(#[from] Fault),
    /// The bus did not do its part.
    #[error(transparent)]
    Bus(#[from] bus::Error),
}

impl Prefills {
    /// Prefills whose tasks are `held`.
    pub async fn new(
        cluster: Cluster,
        bus: &Bus,
        held: Held,
        settings: PrefillJobs,
        metrics: Arc<Metrics>,
    ) -> Result<Self, bus::Error> {
        let tasks = bus.stream(bus_names::TASKS_STREAM).await?;
        Ok(Self { cluster, tasks, held, settings, metrics })
    }

    /// One look: lists the Jobs, and takes the next steps. True when something was done, so that a
    /// further look may find more to do. It may be cut off anywhere.
    ///
    /// Without a complete list nothing is done: not knowing what runs, one would start too much.
    pub async fn look(&self) -> Result<bool, LookError> {
        let tasks = self.held.tasks();
        let jobs = self.cluster.jobs(PREFILL).await?;
        let now = Timestamp::now();
        let observed = Observed { jobs: jobs.iter().filter_map(|job| state(job, now)).collect() };
        self.show(&tasks, &observed);
        let orders = tasks.iter().map(|(name, task)| (name.clone(), task.order)).collect();
        let desired = Desired { tasks: orders, at_once: self.settings.at_once };
        self.take_steps(&plan(&desired, &observed), &tasks, &jobs).await
    }

    /// Takes the steps in order. One Job's fault keeps no other from its steps, while an API server
    /// that does not answer is asked nothing more.
    async fn take_steps(
        &self,
        actions: &[Action],
        tasks: &BTreeMap<String, HeldTask>,
        jobs: &[Job],
    ) -> Result<bool, LookError> {
        let (mut acted, mut stopped, mut first) = (false, BTreeSet::new(), None);
        for action in actions {
            // What comes after a step that was not taken is not taken either.
            if stopped.contains(action.name()) {
                continue;
            }
            let fault = match self.act(action, tasks, jobs).await {
                Ok(()) => {
                    // An input that is given once more changes nothing.
                    acted |= !matches!(action, Action::GiveInput { .. });
                    continue;
                }
                Err(LookError::Cluster(fault)) => fault,
                Err(error) => return Err(error),
            };
            stopped.insert(action.name());
            if fault.is_overtaken() {
                tracing::debug!(%fault, "it changed meanwhile, looking again");
                acted = true;
            } else if fault.is_answer() {
                first.get_or_insert(fault);
            } else {
                return Err(fault.into());
            }
        }
        first.map_or(Ok(acted), |fault| Err(fault.into()))
    }

    async fn act(
        &self,
        action: &Action,
        tasks: &BTreeMap<String, HeldTask>,
        jobs: &[Job],
    ) -> Result<(), LookError> {
        let job = |uid: &String| jobs.iter().find(|job| job.metadata.uid.as_ref() == Some(uid));
        match action {
            Action::Create { name } => {
                let Some(task) = tasks.get(name) else { return Ok(()) };
                let job = manifest::prefill_job(&task.of, &self.settings.job);
                self.cluster.create(&job).await?;
                tracing::info!(job = name, prefill = %task.of, "created, suspended");
                self.metrics.created.get_or_create(&of(PREFILL)).inc();
            }
            Action::GiveInput { name, uid } => {
                let Some(task) = tasks.get(name) else { return Ok(()) };
                self.cluster.apply(&manifest::prefill_input(&task.of, uid)).await?;
            }
            Action::Release { name, uid } => {
                self.cluster.release(name, uid).await?;
                tracing::info!(job = name, "released");
                self.metrics.released.get_or_create(&of(PREFILL)).inc();
                if let Some(job) = job(uid) {
                    let at_once = self.settings.at_once;
                    let note = format!("released, as one of at most {at_once} at once");
                    self.cluster.tell(job, "Released", note, false).await;
                }
            }
            Action::Conclude { name, uid } => {
                if let (Some(task), Some(job)) = (tasks.get(name), job(uid)) {
                    self.conclude(name, task, job).await?;
                }
            }
            Action::Remove { name, uid } => {
                self.cluster.remove(name, uid).await?;
                tracing::info!(job = name, "removed: no task has come for it");
            }
        }
        Ok(())
    }

    /// Reports what came of a Job, and settles its task only when that is durable.
    async fn conclude(&self, name: &str, task: &HeldTask, job: &Job) -> Result<(), LookError> {
        let Some(ending) = ending(job) else { return Ok(()) };
        let words = last_words(&self.cluster.pods(name).await?);
        let deadline = self.settings.job.deadline.0;
        let conclusion = conclude(&task.of, name, &ending, words.as_deref(), deadline);
        if let Some(report) = &conclusion.report {
            self.tasks.publish(report.message()?).await?;
        }
        self.held.settle(name);
        let result = conclusion.result;
        let counted = OfResult { queue: PREFILL.to_owned(), result: result.to_string() };
        self.metrics.concluded.get_or_create(&counted).inc();
        let (failed, note) = (result == crate::conclude::Outcome::Failed, conclusion.note);
        match failed {
            false => tracing::info!(job = name, prefill = %task.of, "{note}"),
            true => tracing::error!(job = name, prefill = %task.of, "{note}"),
        }
        self.cluster
            .tell(job, if failed { "PrefillFailed" } else { "Reported" }, note, failed)
            .await;
        Ok(())
    }

    fn show(&self, tasks: &BTreeMap<String, HeldTask>, observed: &Observed) {
        let at_work = observed.jobs.values().filter(|job| job.phase.is_at_work()).count();
        self.metrics.held.set(level(tasks.len()));
        self.metrics.at_work.get_or_create(&of(PREFILL)).set(level(at_work));
    }
}

/// How long after a failed look the next one is: longer with each that fails.
pub(crate) fn pause_after(failures: u32) -> Duration {
    let seconds = 1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    Duration::from_secs(seconds.min(30))
}
