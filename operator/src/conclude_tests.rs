//! Endings as Kubernetes tells them, and what is reported of each.

use lockgate_model::{Manifest, SubscriptionName};
use serde_json::json;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn of() -> Incarnation {
    let name = SubscriptionName::new("people").unwrap();
    Incarnation { name, uid: String::from("00ff00ff00ff00ff"), generation: 1 }
}

fn job(spec: serde_json::Value, status: serde_json::Value) -> Job {
    let metadata = json!({"name": "j", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

fn phase(spec: serde_json::Value, status: serde_json::Value) -> (Phase, u64) {
    let mut spec = spec;
    spec["template"] = json!({});
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    let (_, state) = state(&job(spec, status), now).unwrap();
    (state.phase, state.since.as_secs())
}

#[test]
fn the_phase_is_read_from_spec_and_status() {
    let started = json!({"startTime": "2026-01-01T00:00:50Z"});
    let ready = json!({"startTime": "2026-01-01T00:00:50Z", "ready": 1});
    assert_eq!(phase(json!({"suspend": true}), json!({})), (Phase::Suspended, 60));
    assert_eq!(phase(json!({"suspend": false}), json!({})), (Phase::Starting, 60));
    assert_eq!(phase(json!({}), started), (Phase::Starting, 10));
    assert_eq!(phase(json!({}), ready), (Phase::Running, 10));
    for (kind, status, ended) in [
        ("Complete", "True", true),
        ("Failed", "True", true),
        ("Failed", "False", false),
        ("FailureTarget", "True", false),
        ("SuccessCriteriaMet", "True", false),
    ] {
        let told = json!({"conditions": [{"type": kind, "status": status}]});
        assert_eq!(phase(json!({}), told).0 == Phase::Ended, ended, "{kind} {status}");
    }
}

fn pod(finished: &str, exit_code: i32, message: &str) -> Pod {
    let terminated = json!({"exitCode": exit_code, "finishedAt": finished, "message": message});
    let status = json!({"name": "p", "image": "i", "imageID": "", "ready": false,
                        "restartCount": 0, "state": {"terminated": terminated}});
    serde_json::from_value(json!({"status": {"containerStatuses": [status]}})).unwrap()
}

#[test]
fn the_last_words_are_those_of_the_pod_that_ended_well_or_last() {
    let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:09Z");
    assert_eq!(last_words(&[]), None);
    assert_eq!(last_words(&[pod(early, 1, "first"), pod(late, 1, " ")]).as_deref(), Some("first"));
    assert_eq!(last_words(&[pod(late, 1, "b"), pod(early, 1, "a")]).as_deref(), Some("b"));
    assert_eq!(last_words(&[pod(late, 1, "b"), pod(early, 0, "well")]).as_deref(), Some("well"));
}

fn after(ending: Ending, words: Option<&str>) -> (Option<String>, Outcome) {
    let conclusion = conclude(&of(), "j", &ending, words, HOUR);
    let report = conclusion.report.map(|report| {
        assert_eq!(report.of(), &of());
        report.news()
    });
    (report, conclusion.result)
}

fn failed_by(reason: &str) -> Ending {
    Ending::Failed { reason: reason.into(), message: String::from("as Kubernetes says") }
}

#[test]
fn what_a_worker_reported_is_repeated() {
    let manifest = Manifest { generation: 1, fence: [].into(), rows: 7, digest: String::new() };
    let done = JobOutcome::reported(Report::PrefillDone { of: of(), manifest }).to_last_words();
    let (report, result) = after(Ending::Complete, Some(&done));
    assert_eq!((report.as_deref(), result), (Some("prefill done, 7 rows"), Outcome::Done));

    let unneeded = JobOutcome::unneeded().to_last_words();
    assert_eq!(after(Ending::Complete, Some(&unneeded)), (None, Outcome::Done));
}

#[test]
fn a_report_on_another_prefill_is_not_taken_for_this_ones() {
    let other = Incarnation { generation: 2, ..of() };
    let report = Report::PrefillFailed { of: other, reason: String::from("source-stuck: x") };
    let words = JobOutcome::reported(report).to_last_words();
    let (report, _) = after(failed_by("PodFailurePolicy"), Some(&words));
    assert_eq!(report.as_deref(), Some("prefill failed: source-stuck: x"));
}

#[test]
fn every_failure_is_reported_with_its_class() {
    let words = JobOutcome::failed("bus-unavailable: no answer").to_last_words();
    for (ending, words, says) in [
        (
            failed_by("PodFailurePolicy"),
            Some(words.as_str()),
            "prefill failed: bus-unavailable: no",
        ),
        (failed_by("BackoffLimitExceeded"), Some(words.as_str()), "at last with: bus-unavailable:"),
        (failed_by("BackoffLimitExceeded"), Some("panicked\nat"), "at last with: panicked"),
        (failed_by("BackoffLimitExceeded"), None, "(BackoffLimitExceeded): as Kubernetes says"),
        (
            failed_by("DeadlineExceeded"),
            None,
            "job-deadline-exceeded: Job j did not end within 3600",
        ),
        (Ending::Complete, None, "job-said-nothing"),
        (Ending::Complete, Some("hello"), "job-said-nothing"),
    ] {
        let (report, result) = after(ending, words);
        let report = report.unwrap();
        assert!(report.contains(says), "{says}: {report}");
        assert_eq!(result, Outcome::Failed);
    }
}
