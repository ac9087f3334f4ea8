//! The commands, as a script would use them.

use bus::testkit::NatsServer;
use serde_json::Value;

use crate::support::{Lockgate, command};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn records(output: &[u8]) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).expect("a JSON object a line");
    text(output).lines().map(parse).collect()
}

async fn demo(bus: &str) {
    let args = ["demo", "--json", "--changes", "600", "--bus", bus];
    let ran = command(&args).stdout(std::process::Stdio::piped()).output().await.expect("it runs");
    let verdict: Value = serde_json::from_slice(&ran.stdout).expect("a verdict");
    assert!(ran.status.success() && verdict["passed"] == true, "{verdict:#}");
    assert_eq!(verdict["checks"].as_array().map(Vec::len), Some(6));
}

#[tokio::test]
async fn the_demo_keeps_its_promises_on_the_embedded_bus() {
    demo("embedded:").await;
}

#[tokio::test]
async fn the_demo_keeps_its_promises_on_nats() {
    let server = NatsServer::start().await.expect("a NATS server");
    demo(&server.url()).await;
}

#[tokio::test]
async fn what_is_published_is_listed_and_read_and_resumed() {
    let lockgate = Lockgate::start("embedded:").await;
    let state = tempfile::tempdir().expect("a directory");
    let run = async |args: &[&str]| lockgate.command(args, state.path()).await;
    for (key, data) in [("anna", r#"{"v":1}"#), ("ben", r#"{"v":2}"#), ("anna", r#"{"v":3}"#)] {
        let ran = run(&["publish", "dir.user", key, data]).await;
        assert!(ran.status.success(), "{}", text(&ran.stderr));
    }
    let subscribe = ["subscribe", "people", "--topics", "dir.*", "--prefill", "--json"];
    let first = run(&[&subscribe[..], &["--until-up-to-date"]].concat()).await;
    assert!(first.status.success(), "{}", text(&first.stderr));
    let rows: Vec<Value> =
        records(&first.stdout).into_iter().filter(|r| r["phase"] == "prefill").collect();
    let data: Vec<&Value> = rows.iter().map(|row| &row["event"]["data"]["v"]).collect();
    assert_eq!(data, [2, 3], "in the order of the log: {rows:#?}");

    run(&["publish", "dir.user", "ben", "--delete"]).await;
    let resumed = run(&["subscribe", "people", "--json", "--until-up-to-date"]).await;
    let live: Vec<Value> =
        records(&resumed.stdout).into_iter().filter(|r| r.get("event").is_some()).collect();
    assert_eq!(live.len(), 1, "{live:#?}");
    assert_eq!((&live[0]["phase"], &live[0]["event"]["subject"]), (&"live".into(), &"ben".into()));
    assert!(live[0]["event"].get("data").is_none());

    // The position is the same over every transport.
    for (transport, v) in [("ws", 4), ("events", 5), ("ws", 6)] {
        run(&["publish", "dir.user", "cleo", &format!("{{\"v\":{v}}}")]).await;
        let read = ["subscribe", "people", "--json", "--until-up-to-date", "--transport"];
        let read = run(&[&read[..], &[transport]].concat()).await;
        assert!(read.status.success(), "{}", text(&read.stderr));
        let read = records(&read.stdout);
        let events: Vec<&Value> = read.iter().filter_map(|record| record.get("event")).collect();
        assert_eq!(events.len(), 1, "{transport}: {events:#?}");
        assert_eq!(events[0]["data"]["v"], v);
    }
    let others = ["subscribe", "others", "--topics", "dir.*", "--prefill", "--json"];
    let over = ["--until-up-to-date", "--transport", "ws"];
    let others = run(&[&others[..], &over].concat()).await;
    let rows = records(&others.stdout).into_iter().filter(|r| r["phase"] == "prefill").count();
    assert_eq!(rows, 2, "{}{}", text(&others.stdout), text(&others.stderr));
    assert!(run(&["subscriptions", "delete", "others"]).await.status.success());

    let listed = run(&["subscriptions", "--json"]).await;
    let listed = records(&listed.stdout);
    assert_eq!((&listed[0]["name"], &listed[0]["prefill"]["rows"]), (&"people".into(), &2.into()));
    assert!(run(&["subscriptions", "delete", "people"]).await.status.success());
    let gone = run(&["subscriptions", "show", "people"]).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).starts_with("error: "), "{}", text(&gone.stderr));
}

#[tokio::test]
async fn what_cannot_be_is_said_and_exits_with_its_code() {
    let refused = command(&["--listen", "0.0.0.0:0"]);
    let ran = { refused }.stderr(std::process::Stdio::piped()).output().await.expect("it runs");
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran.stderr).contains("without tokens"), "{}", text(&ran.stderr));

    let away =
        command(&["run", "prefill", "--bus", "nats://127.0.0.1:1", "--listen", "127.0.0.1:0"]);
    let ran = { away }.stderr(std::process::Stdio::piped()).output().await.expect("it runs");
    assert_eq!(ran.status.code(), Some(3), "{}", text(&ran.stderr));
    let said = text(&ran.stderr);
    assert!(said.contains("did not answer within 5 s") && said.contains("make nats-up"), "{said}");
}

#[tokio::test]
async fn a_topology_is_checked_applied_and_refused_with_a_diff() {
    let server = NatsServer::start().await.expect("a NATS server");
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("topology.toml");
    let write = |storage: &str| {
        let text =
            format!("[streams.orders]\nsubjects = [\"orders.>\"]\nstorage = \"{storage}\"\n");
        std::fs::write(&file, text).expect("the file");
    };
    let run = async |what: &str| {
        let args = ["topology", what, &file.to_string_lossy(), "--bus", &server.url()];
        command(&args)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .output()
            .await
            .expect("it runs")
    };
    write("file");
    let missing = run("check").await;
    assert_eq!((missing.status.code(), text(&missing.stdout).trim()), (Some(1), "+ stream orders"));
    assert_eq!(text(&run("apply").await.stdout).trim(), "+ stream orders");
    let done = run("check").await;
    assert_eq!((done.status.code(), text(&done.stdout).trim()), (Some(0), "as declared"));
    write("memory");
    let refused = run("apply").await;
    let told = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("storage: file -> memory (fixed at creation)"), "{told}");
}

#[tokio::test]
async fn what_lockgate_has_on_a_bus_is_shown_edited_and_applied() {
    let server = NatsServer::start().await.expect("a NATS server");
    let url = server.url();
    let lockgate = Lockgate::start(&url).await;
    let folder = tempfile::tempdir().expect("a directory");
    let published = lockgate.command(&["publish", "dir.user", "anna", "{}"], folder.path()).await;
    assert!(published.status.success(), "{}", text(&published.stderr));
    let run = async |args: &[&str]| {
        let mut command = command(&[&["topology"], args, &["--bus", &url]].concat());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.output().await.expect("it runs")
    };
    let shown = run(&["show"]).await;
    let shown = text(&shown.stdout);
    assert!(shown.contains("[streams.events-dir]"), "{shown}");
    assert!(shown.contains("[buckets.lockgate-subscriptions]"), "{shown}");
    let edited = folder.path().join("mine.toml");
    let edit = |from: &str, to: &str| {
        assert!(shown.contains(from), "{shown}");
        std::fs::write(&edited, shown.replace(from, to)).expect("the file");
    };
    let file = edited.to_string_lossy().into_owned();
    edit("1GiB", "2GiB");
    let told = text(&run(&["check", &file]).await.stdout);
    assert!(
        told.contains("~ stream events-dir\n    max-bytes: 1073741824 -> 2147483648"),
        "{told}"
    );
    assert!(run(&["apply", &file]).await.status.success());
    assert_eq!(run(&["check", &file]).await.status.code(), Some(0));
    assert_eq!(text(&run(&["show"]).await.stdout), shown.replace("1GiB", "2GiB"));
}
