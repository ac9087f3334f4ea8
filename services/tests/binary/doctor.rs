//! `lockgate doctor` against real servers: one that is fit, and what may be wrong with one.

use std::process::Stdio;

use bus::testkit::{NatsServer, free_port};
use serde_json::Value;

use super::support::{LIMIT, command};

/// A user who may do all, one who may do nothing, and one of an account without JetStream.
const ACCOUNTS: &str = r#"
accounts {
  WITH { jetstream: enabled, users: [
    { user: all, password: secret }
    { user: nothing, password: secret, permissions: { publish: ["none"], subscribe: [">"] } }
  ] }
  WITHOUT { users: [ { user: without, password: secret } ] }
}
"#;

/// What it exits with, and its lines.
async fn doctor(url: &str, user: &str) -> (i32, Vec<Value>) {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "secret").expect("a file");
    let mut args = vec!["doctor", "--json", "--bus", url];
    let password = password.display().to_string();
    if !user.is_empty() {
        args.extend(["--bus-user", user, "--bus-password-file", &password]);
    }
    let ran = command(&args).stdout(Stdio::piped()).output();
    let ended = tokio::time::timeout(2 * LIMIT, ran).await.expect("it ends").expect("it runs");
    let lines = String::from_utf8(ended.stdout).expect("text");
    let lines = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    (ended.status.code().expect("no signal"), lines.collect())
}

fn line<'l>(lines: &'l [Value], what: &str) -> &'l Value {
    lines.iter().find(|line| line["what"] == what).unwrap_or_else(|| panic!("{what}: {lines:#?}"))
}

#[tokio::test]
async fn a_server_that_is_fit_passes_and_what_is_wrong_is_named() {
    let server = NatsServer::start_with(ACCOUNTS).await.expect("a NATS server");
    let (code, fit) = doctor(&server.url(), "all").await;
    assert!(fit.iter().all(|line| line["level"] == "ok"), "{fit:#?}");
    assert_eq!(code, 0);
    for what in ["nats messages", "clock", "jetstream", "rights", "streams"] {
        line(&fit, what);
    }

    let (code, refused) = doctor(&server.url(), "nothing").await;
    let rights = line(&refused, "rights");
    assert_eq!((code, &rights["level"]), (1, &Value::from("fail")), "{refused:#?}");
    for call in ["STREAM.CREATE", "CONSUMER.CREATE", "DIRECT.GET", "events.>"] {
        assert!(rights["says"].as_str().expect("text").contains(call), "{rights:#}");
    }
    assert!(rights["change"].as_str().expect("text").contains("nats/generate.py"));

    let (code, without) = doctor(&server.url(), "without").await;
    let jetstream = line(&without, "jetstream");
    assert_eq!((code, &jetstream["level"]), (1, &Value::from("fail")), "{without:#?}");
    assert!(jetstream["change"].as_str().expect("text").contains("account"), "{jetstream:#}");

    let (code, unknown) = doctor(&server.url(), "").await;
    assert_eq!((code, &unknown[0]["level"]), (1, &Value::from("fail")), "{unknown:#?}");
}

#[tokio::test]
async fn one_server_of_several_is_enough_and_none_is_not() {
    let server = NatsServer::start().await.expect("a NATS server");
    let nobody = free_port().expect("a free port");
    let both = format!("nats://127.0.0.1:{nobody},{}", &server.url()["nats://".len()..]);
    let (code, lines) = doctor(&both, "").await;
    assert_eq!((code, &lines[0]["level"], &lines[1]["level"]), (0, &"warn".into(), &"ok".into()));
    assert!(lines[0]["says"].as_str().expect("text").contains("refused"), "{lines:#?}");

    let (code, lines) = doctor(&format!("nats://127.0.0.1:{nobody}"), "").await;
    assert_eq!((code, lines.len(), &lines[0]["level"]), (1, 1, &"fail".into()));
    let (code, lines) = doctor("embedded:", "").await;
    assert_eq!((code, &lines[0]["level"]), (0, &"ok".into()));
}
