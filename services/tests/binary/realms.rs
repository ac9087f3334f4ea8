//! `lockgate realms`, as a script would use it.

use bus::testkit::NatsServer;
use bus::{Bus, SubjectFilter};
use serde_json::Value;

use crate::support::Lockgate;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn a_purged_realm_is_shown_and_accepted() {
    let server = NatsServer::start().await.expect("a NATS server");
    let lockgate = Lockgate::start(&server.url()).await;
    let state = tempfile::tempdir().expect("a directory");
    let run = async |args: &[&str]| lockgate.command(args, state.path()).await;
    let one = async |args: &[&str]| {
        let ran = run(args).await;
        assert!(ran.status.success(), "{}", text(&ran.stderr));
        serde_json::from_slice::<Value>(&ran.stdout).expect("one JSON object")
    };
    assert!(text(&run(&["realms"]).await.stderr).contains("no realm yet"));
    assert!(run(&["publish", "dir.user", "anna", "1"]).await.status.success());
    assert_eq!(one(&["realms", "--json"]).await["history"], "whole");

    let bus = Bus::connect(&server.url()).await.expect("a bus");
    let log = bus.stream("events-dir").await.expect("the log");
    log.purge(&SubjectFilter::all()).await.expect("a purge");
    assert!(run(&["publish", "dir.user", "anna", "2"]).await.status.success());
    let shown = one(&["realms", "--json"]).await;
    assert_eq!((&shown["history"], &shown["first_sequence"]), (&"incomplete".into(), &2.into()));
    let table = text(&run(&["realms"]).await.stdout);
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.next(),
        Some(Vec::from(["NAME", "EVENTS", "FIRST", "LAST", "BYTES", "HISTORY"]))
    );
    let row = lines.next().expect("a row");
    assert_eq!((row[0], row[2], row[5]), ("dir", "2", "incomplete"));

    assert_eq!(one(&["realms", "accept-history", "dir", "--json"]).await["history"], "accepted");
    let unknown = run(&["realms", "accept-history", "nowhere"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("there is no realm nowhere"));
}
