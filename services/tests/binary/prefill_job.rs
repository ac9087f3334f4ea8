//! One prefill in a process of its own, as a Kubernetes Job runs it.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{LIMIT, Lockgate, command};

const SECRET: &str = "a-secret-of-the-test-that-is-long-enough";

/// Runs a prefill Job on this task. Its exit code and its last words.
async fn job(bus: &str, folder: &Path, task: &str) -> (Option<i32>, Value) {
    let (file, words) = (folder.join("task.json"), folder.join("termination-log"));
    std::fs::write(&file, task).expect("a task");
    let ran = command(&["prefill-job", "--bus", bus])
        .env("LOCKGATE_PREFILL_TASK", &file)
        .env("LOCKGATE_TERMINATION_LOG", &words)
        .status();
    let ended = tokio::time::timeout(LIMIT, ran).await.expect("it ends").expect("it runs");
    let words = std::fs::read_to_string(words).expect("last words");
    (ended.code(), serde_json::from_str(&words).expect("JSON"))
}

#[tokio::test]
async fn a_prefill_is_done_by_a_process_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = format!("embedded://{}", folder.path().join("bus").display());
    let args = ["--prefill-executor", "kubernetes"];
    let mut lockgate = Lockgate::start_with(&bus, &args).await;
    let event = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "dir.user",
                       "subject": "anna", "data": 1});
    let request = lockgate.client.post(format!("{}/v1/events", lockgate.url));
    let request = request.header("content-type", "application/cloudevents+json");
    let published = request.body(event.to_string()).send().await.expect("an answer");
    assert_eq!(published.status().as_u16(), 202);
    let body = json!({"name": "people", "topics": ["dir.*"], "prefill": true, "secret": SECRET});
    let (status, registered) = lockgate.post("/v1/subscriptions", "", &body).await;
    assert_eq!(status, 201);
    assert_eq!(registered["prefill"]["status"], "pending");

    // The folder is one process' at a time; a NATS server would have both.
    lockgate.child.kill().await.expect("SIGKILL");
    let of = json!({"name": "people", "uid": registered["uid"], "generation": 1});
    let task = json!({ "of": of }).to_string();
    let (code, words) = job(&bus, folder.path(), &task).await;
    assert_eq!((code, &words["rows"]), (Some(0), &json!(1)), "{words}");
    assert_eq!(words["report"]["report"], "prefill-done");

    // No worker has done it, and the report was durable when the process ended.
    let lockgate = Lockgate::start_with(&bus, &args).await;
    let done = async |lockgate: &Lockgate| {
        let (_, status) = lockgate.get("/v1/subscriptions/people").await;
        status["prefill"]["status"] == "done"
    };
    lockgate.until("done", done).await;
    drop(lockgate);

    let (code, words) = job(&bus, folder.path(), &task).await;
    assert_eq!((code, words), (Some(0), json!({"unneeded": true})));
    let (code, words) = job(&bus, folder.path(), "{}").await;
    assert_eq!(code, Some(64), "{words}");
    assert!(words["reason"].as_str().expect("a reason").starts_with("task-unreadable: "));
}
