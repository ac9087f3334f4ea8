//! The client commands among the tools of a shell: pipes that close, files of other systems, and
//! JSON that must come through as it is written.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::{LIMIT, Lockgate, command};

const DIGITS: &str = r#"{"z":1,"n":12345678901234567890123,"amount":1.10,"e":1E2,"a":2,"a":3}"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command whose output nobody reads.
async fn unread(lockgate: &Lockgate, args: &[&str], state: &Path) -> Output {
    let mut child = command(args)
        .env("LOCKGATE_SERVER", &lockgate.url)
        .env("XDG_STATE_HOME", state)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("it ends").expect("it ran")
}

async fn count(lockgate: &Lockgate, name: &str, topics: &str, state: &Path) -> usize {
    let args = ["subscribe", name, "--topics", topics, "--prefill", "--until-up-to-date"];
    let ran = lockgate.command(&args, state).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    text(&ran.stdout).lines().count()
}

#[tokio::test]
async fn json_comes_through_as_it_is_written() {
    let lockgate = Lockgate::start("embedded:").await;
    let state = tempfile::tempdir().expect("a directory");
    let run = async |args: &[&str]| lockgate.command(args, state.path()).await;
    let lines = state.path().join("lines.ndjson");
    let whole = format!(
        r#"{{"specversion":"1.0","id":"w","source":"/x","type":"a.b","subject":"whole","data":{DIGITS}}}"#
    );
    let short = format!(r#"{{"topic":"a.b","key":"short","data":{DIGITS}}}"#);
    std::fs::write(&lines, format!("{whole}\n{short}\n")).expect("the file");
    for args in [
        &["publish", "a.b", "argument", DIGITS][..],
        &["publish", "--ndjson", &lines.to_string_lossy()],
    ] {
        let ran = run(args).await;
        assert!(ran.status.success(), "{}", text(&ran.stderr));
    }
    let topics = ["--topics", "a.b", "--prefill"];
    for (name, how) in [
        ("stream", &["--json", "--until-up-to-date"][..]),
        ("plain", &["--until-up-to-date"]),
        ("queue", &["--json", "--queue", "--count", "3"]),
        ("lines", &["--queue", "--count", "3"]),
    ] {
        let ran = run(&[&["subscribe", name], &topics[..], how].concat()).await;
        let shown = text(&ran.stdout);
        assert_eq!(shown.matches(DIGITS).count(), 3, "{name}: {shown} {}", text(&ran.stderr));
    }
}

#[tokio::test]
async fn a_pipe_that_closes_changes_no_work_and_no_exit_code() {
    let lockgate = Lockgate::start("embedded:").await;
    let state = tempfile::tempdir().expect("a directory");
    let lines = state.path().join("lines.ndjson");
    let many: String = (0..1200)
        .map(|n| format!("{{\"topic\":\"many.x\",\"key\":\"{n}\",\"data\":{n}}}\n"))
        .collect();
    std::fs::write(&lines, many).expect("the file");
    let file = lines.to_string_lossy();
    let code = async |args: &[&str]| {
        let ran = unread(&lockgate, args, state.path()).await;
        assert_eq!(text(&ran.stderr), "", "{args:?}");
        ran.status.code()
    };
    assert_eq!(code(&["publish", "one.x", "k", "1"]).await, Some(0));
    assert_eq!(code(&["publish", "--ndjson", &file, "--json"]).await, Some(0));
    assert_eq!(count(&lockgate, "all", "many.x", state.path()).await, 1200);
    let subscribe = ["subscribe", "some", "--topics", "many.x", "--prefill", "--json"];
    assert_eq!(code(&subscribe).await, Some(0));
    assert_eq!(code(&["subscriptions"]).await, Some(0));
    assert_eq!(code(&["subscriptions", "show", "some"]).await, Some(0));
    // It had shown nothing: everything is still to come, and adds up.
    let whole = lockgate.command(&["subscribe", "some", "--until-up-to-date"], state.path()).await;
    assert_eq!((whole.status.code(), text(&whole.stdout).lines().count()), (Some(0), 1200));
    assert_eq!(code(&["subscriptions", "delete", "some"]).await, Some(0));
    assert_eq!(code(&["demo", "--changes", "100"]).await, Some(0));
    assert_eq!(code(&["demo", "--changes", "100", "--json"]).await, Some(0));

    // And where nobody reads the errors either.
    let refused = async |args: &[&str]| {
        let mut child = command(args)
            .env("LOCKGATE_SERVER", &lockgate.url)
            .env("XDG_STATE_HOME", state.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop((child.stdout.take(), child.stderr.take()));
        child.wait().await.expect("it ends").code()
    };
    assert_eq!(refused(&["subscriptions", "show", "nobody"]).await, Some(1));
    assert_eq!(refused(&["publish", "a.b", "k"]).await, Some(2));
}

#[tokio::test]
async fn a_server_serves_whether_or_not_its_banner_is_read() {
    let port = bus::testkit::free_port().expect("a free port");
    let listen = format!("127.0.0.1:{port}");
    let mut child = command(&["--listen", &listen, "--log", "debug"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it runs");
    drop((child.stdout.take(), child.stderr.take()));
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let lockgate = Lockgate { child, url: format!("http://{listen}"), client };
    lockgate.until("ready", async |lockgate| lockgate.get("/readyz").await.0 == 200).await;
    lockgate.terminate().await;
    let mut child = lockgate.child;
    let ended = tokio::time::timeout(LIMIT, child.wait()).await.expect("it ends");
    assert_eq!(ended.expect("it ran").code(), Some(0));
}

#[tokio::test]
async fn files_of_other_systems_are_read() {
    let lockgate = Lockgate::start("embedded:").await;
    let state = tempfile::tempdir().expect("a directory");
    let file = state.path().join("lines.ndjson");
    let publish = async |bytes: &[u8]| {
        std::fs::write(&file, bytes).expect("the file");
        lockgate.command(&["publish", "--ndjson", &file.to_string_lossy()], state.path()).await
    };
    // A byte order mark, lines that end as in DOS, no last line end; and again, joined by `cat`.
    let dos = "\u{FEFF}{\"topic\":\"a.b\",\"key\":\"1\",\"data\":1}\r\n\r\n{\"topic\":\"a.b\",\"key\":\"2\"}";
    let ran = publish(format!("{dos}\r\n{dos}").as_bytes()).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    assert!(text(&ran.stdout).starts_with("published 4 events"), "{}", text(&ran.stdout));
    let utf16: Vec<u8> = dos.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let ran = publish(&utf16).await;
    let said = text(&ran.stderr);
    assert!(ran.status.code() == Some(1) && said.contains("UTF-16"), "{said}");
    // A line as long as one event may become.
    let long = format!(
        r#"{{"specversion":"1.0","id":"l","source":"/x","type":"a.b","datacontenttype":"text/plain","data":"{}"}}"#,
        "\\u0001".repeat(400_000)
    );
    let ran = publish(long.as_bytes()).await;
    assert!(ran.status.success(), "{}", text(&ran.stderr));
    let subscribe =
        ["subscribe", "s", "--topics", "a.b", "--prefill", "--until-up-to-date", "--json"];
    let read = lockgate.command(&subscribe, state.path()).await;
    assert!(read.status.success(), "{}", text(&read.stderr));
    assert!(text(&read.stdout).contains(&"\\u0001".repeat(400_000)));
    let queue = ["subscribe", "q", "--topics", "a.b", "--prefill", "--queue", "--count", "2"];
    let read = lockgate.command(&queue, state.path()).await;
    assert_eq!(text(&read.stdout).lines().count(), 2, "{}", text(&read.stderr));
}

#[tokio::test]
async fn nothing_is_shown_when_nothing_is_asked_for() {
    let lockgate = Lockgate::start("embedded:").await;
    let state = tempfile::tempdir().expect("a directory");
    let run = async |args: &[&str]| lockgate.command(args, state.path()).await;
    assert!(run(&["publish", "a.b", "k", "1"]).await.status.success());
    let subscribe = ["subscribe", "s", "--topics", "a.b", "--prefill", "--json", "--count", "0"];
    for how in [&[][..], &["--queue"]] {
        let ran = run(&[&subscribe[..], how].concat()).await;
        assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(0), String::new()), "{how:?}");
    }
    let all = run(&["subscribe", "s", "--until-up-to-date", "--json"]).await;
    let rows: Vec<Value> = text(&all.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|record: &Value| record["phase"] == "prefill")
        .collect();
    assert_eq!((rows.len(), &rows[0]["event"]["data"]), (1, &json!(1)));
}
