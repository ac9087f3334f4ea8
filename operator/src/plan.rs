//! What is to be done about prefill Jobs: a function without side effects.
//!
//! A task becomes a Job in steps, each of which may be repeated and after each of which the operator
//! may die:
//!
//! 1. the Job is created, suspended: visible, and without a pod;
//! 2. its input, a ConfigMap of its name, is put beside it, owned by it;
//! 3. it is released: Kubernetes starts its pod, and again after a failure;
//! 4. when it has ended, its outcome is reported, and only then the task is settled.
//!
//! What was done is read from the cluster, never remembered. The Job comes first because it is
//! deleted by Kubernetes some time after its end, and takes the ConfigMap that it owns with it.

use std::collections::BTreeMap;
use std::time::Duration;

/// A released Job whose pod is not ready after this long is given its input once more: somebody may
/// have removed it.
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// A suspended Job for which no task came for this long is removed. A task whose holder died comes
/// again much sooner.
const ORPHANED_AFTER: Duration = Duration::from_secs(600);

/// What there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The name of the Job of each task that is held, with its place in the work queue.
    pub tasks: BTreeMap<String, u64>,
    /// How many Jobs may be at work.
    pub at_once: usize,
}

/// What there is: every prefill Job, as one consistent list gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// By name.
    pub jobs: BTreeMap<String, JobState>,
}

/// A Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobState {
    /// Tells it from others of its name, before and after it.
    pub uid: String,
    /// How far it is.
    pub phase: Phase,
    /// How long it has been created, or released, for.
    pub since: Duration,
}

/// How far a Job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Created and not released: it has no pod.
    Suspended,
    /// Released, and no pod of it is ready.
    Starting,
    /// A pod of it is at work.
    Running,
    /// It has ended, well or not.
    Ended,
    /// Being deleted: its name is not free yet, and its pod may be at work.
    Deleting,
}

impl Phase {
    /// True where a pod may be at work.
    pub fn is_at_work(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Deleting)
    }
}

/// A step. Each names the Job, and where it is about one that exists, its uid as well: a step never
/// hits another Job of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Create the Job, suspended. One that is there by now is the one that was to be made.
    Create {
        /// Its name.
        name: String,
    },
    /// Put its input beside it, or do so again.
    GiveInput {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Let Kubernetes start it.
    Release {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Report its outcome, then settle the task.
    Conclude {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// Delete it: nobody waits for it.
    Remove {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
}

impl Action {
    /// The name of the Job that it is about.
    pub fn name(&self) -> &str {
        match self {
            Self::Create { name }
            | Self::GiveInput { name, .. }
            | Self::Release { name, .. }
            | Self::Conclude { name, .. }
            | Self::Remove { name, .. } => name,
        }
    }
}

/// What to do next, in this order. Nothing to do means that all is as it should be until something
/// changes.
pub fn plan(desired: &Desired, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut by_age: Vec<_> = desired.tasks.iter().map(|(name, order)| (*order, name)).collect();
    by_age.sort();
    let at_work = observed.jobs.values().filter(|job| job.phase.is_at_work()).count();
    let mut free = desired.at_once.saturating_sub(at_work);
    for (_, name) in by_age {
        let Some(job) = observed.jobs.get(name) else {
            actions.push(Action::Create { name: name.clone() });
            continue;
        };
        let (name, uid) = (name.clone(), job.uid.clone());
        match job.phase {
            Phase::Suspended if free > 0 => {
                free -= 1;
                actions.push(Action::GiveInput { name: name.clone(), uid: uid.clone() });
                actions.push(Action::Release { name, uid });
            }
            Phase::Starting if job.since >= STUCK_AFTER => {
                actions.push(Action::GiveInput { name, uid });
            }
            Phase::Ended => actions.push(Action::Conclude { name, uid }),
            Phase::Suspended | Phase::Starting | Phase::Running | Phase::Deleting => {}
        }
    }
    let orphans = observed.jobs.iter().filter(|(name, job)| {
        let waits = job.phase == Phase::Suspended && job.since >= ORPHANED_AFTER;
        waits && !desired.tasks.contains_key(*name)
    });
    actions.extend(
        orphans.map(|(name, job)| Action::Remove { name: name.clone(), uid: job.uid.clone() }),
    );
    actions
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
