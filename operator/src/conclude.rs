//! What came of a Job that has ended, and what is reported of it: functions without side effects.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use lockgate_model::{Incarnation, JobOutcome, Report};

use crate::plan::{JobState, Phase};

/// How Kubernetes says that a Job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// A pod of it ended well.
    Complete,
    /// It was given up.
    Failed {
        /// Kubernetes' word for why: `BackoffLimitExceeded`, `DeadlineExceeded`,
        /// `PodFailurePolicy`.
        reason: String,
        /// Kubernetes' sentence.
        message: String,
    },
}

/// What is reported of a Job that has ended.
#[derive(Debug, Clone)]
pub struct Conclusion {
    /// To the registration API; `None` where its worker has said all there is to say.
    pub report: Option<Report>,
    /// How it went, for metrics.
    pub result: Outcome,
    /// For people.
    pub note: String,
}

/// How a Job went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its work is done.
    Done,
    /// Its work was given up.
    Failed,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Failed => "failed",
        })
    }
}

/// How a Job has ended; `None` while it has not. Only the last pair of conditions counts: those
/// that come before it, while pods still end, may be followed by the other one's.
pub fn ending(job: &Job) -> Option<Ending> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let is = |kind: &str| conditions.iter().find(|c| c.type_ == kind && c.status == "True");
    if is("Complete").is_some() {
        return Some(Ending::Complete);
    }
    let JobCondition { reason, message, .. } = is("Failed")?.clone();
    let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
    Some(Ending::Failed { reason, message })
}

/// How far a Job is. `None` for one without name or uid, which no API server gives.
pub fn state(job: &Job, now: Timestamp) -> Option<(String, JobState)> {
    let (name, uid) = (job.metadata.name.clone()?, job.metadata.uid.clone()?);
    let status = job.status.as_ref();
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
    let ready = status.and_then(|status| status.ready).unwrap_or(0) > 0;
    let phase = match () {
        () if ending(job).is_some() => Phase::Ended,
        () if job.metadata.deletion_timestamp.is_some() && !suspended => Phase::Deleting,
        () if suspended => Phase::Suspended,
        () if ready => Phase::Running,
        () => Phase::Starting,
    };
    let released = status.and_then(|status| status.start_time.clone());
    let from = released.filter(|_| !suspended).or(job.metadata.creation_timestamp.clone());
    let since = from.map_or(0, |from| now.duration_since(from.0).as_secs());
    let since = Duration::from_secs(u64::try_from(since).unwrap_or(0));
    Some((name, JobState { uid, phase, since }))
}

/// The last words of the pods of a Job: those of the one that ended well, or else of the last that
/// said something.
pub fn last_words(pods: &[Pod]) -> Option<String> {
    let mut said: Vec<_> = pods.iter().flat_map(terminated).collect();
    said.sort_by_key(|(at, well, _)| (*well, *at));
    said.pop().map(|(_, _, words)| words)
}

fn terminated(pod: &Pod) -> Vec<(Option<Timestamp>, bool, String)> {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let ended = statuses.unwrap_or_default().iter().filter_map(|status| {
        let state = status.state.as_ref()?.terminated.as_ref()?;
        let words = state.message.clone().filter(|words| !words.trim().is_empty())?;
        Some((state.finished_at.as_ref().map(|at| at.0), state.exit_code == 0, words))
    });
    ended.collect()
}

/// Decides what is reported. A worker reports itself, durably, before it ends well, so that a report
/// from here repeats what is known, which changes nothing, or speaks for one that could not.
pub fn conclude(
    of: &Incarnation,
    name: &str,
    ending: &Ending,
    words: Option<&str>,
    deadline: Duration,
) -> Conclusion {
    let outcome = words.and_then(JobOutcome::parse);
    let own = outcome.as_ref().and_then(|outcome| outcome.report.clone());
    // What somebody else's prefill says is not taken for this one's.
    let own = own.filter(|report| report.of() == of);
    match (ending, outcome) {
        (Ending::Complete, Some(outcome)) => {
            let note = match (outcome.rows, outcome.unneeded, outcome.reason) {
                (Some(rows), ..) => format!("prefill complete, {rows} rows"),
                (None, true, _) => String::from("nothing to do: nobody waits for this prefill"),
                (None, false, reason) => reason.unwrap_or_else(|| String::from("ended well")),
            };
            Conclusion { report: own, result: Outcome::Done, note }
        }
        (Ending::Complete, None) => {
            let why = format!(
                "job-said-nothing: Job {name} ended without a word on the prefill: let its image run \
                 `lockgate prefill-job`, then prefill again"
            );
            failed(of, None, why)
        }
        (Ending::Failed { reason, message }, outcome) => {
            let said = outcome.and_then(|outcome| outcome.reason);
            let foreign = || words.map(first_line).filter(|line| !line.is_empty());
            let said = said.or_else(foreign);
            failed(of, own, why(name, reason.as_str(), message.as_str(), said, deadline))
        }
    }
}

fn failed(of: &Incarnation, own: Option<Report>, reason: String) -> Conclusion {
    let note = reason.clone();
    let report = own.unwrap_or(Report::PrefillFailed { of: of.clone(), reason });
    Conclusion { report: Some(report), result: Outcome::Failed, note }
}

fn why(
    name: &str,
    reason: &str,
    message: &str,
    said: Option<String>,
    deadline: Duration,
) -> String {
    if reason == "DeadlineExceeded" {
        let said = said.map(|said| format!("; the last error was: {said}")).unwrap_or_default();
        return format!(
            "job-deadline-exceeded: Job {name} did not end within {} s, waiting for a node and an \
             image included: see its events, or raise the deadline, then prefill again{said}",
            deadline.as_secs()
        );
    }
    match said {
        // The worker's own class and advice.
        Some(said) if reason == "PodFailurePolicy" => said,
        Some(said) => {
            format!("job-failed: Job {name} was given up ({reason}), at last with: {said}")
        }
        None => format!("job-failed: Job {name} was given up ({reason}): {message}"),
    }
}

fn first_line(words: &str) -> String {
    words.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
#[path = "conclude_tests.rs"]
mod tests;
