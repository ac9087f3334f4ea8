//! `lockgate flow` as processes: what they print, how they end, and what a killed one leaves.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod journeys;

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use bus::testkit::{KafkaBroker, NatsServer};
use bus::{Bus, Start};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// What a bounded wait ends with at the latest.
const LIMIT: Duration = Duration::from_secs(90);

/// A member that was killed is missed after six seconds; the default is 45.
const QUICK_GROUPS: &str = "group.consumer.min.heartbeat.interval.ms=500\n\
                            group.consumer.heartbeat.interval.ms=500\n\
                            group.consumer.min.session.timeout.ms=6000\n\
                            group.consumer.session.timeout.ms=6000";

/// The binary with arguments, without this process' settings.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LOCKGATE_")) {
        command.env_remove(name);
    }
    command.arg("flow").args(args).stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn ends(args: &[&str]) -> Output {
    let output = command(args).output();
    let output = tokio::time::timeout(LIMIT, output).await.expect("it ends").unwrap();
    let (said, why) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{args:?}: {}\n{said}\n{why}", output.status);
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The records that it printed.
fn records(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a process prints, as it does.
type Printed = Lines<BufReader<ChildStdout>>;

fn printed(child: &mut Child) -> Printed {
    BufReader::new(child.stdout.take().unwrap()).lines()
}

/// The next line that holds `part`.
async fn line(printed: &mut Printed, part: &str) -> String {
    let found = async {
        while let Some(line) = printed.next_line().await.unwrap() {
            if line.contains(part) {
                return line;
            }
        }
        panic!("it ended without {part:?}");
    };
    tokio::time::timeout(LIMIT, found).await.expect("it is printed")
}

/// How often each tab was delivered, of at least `least`.
async fn delivered(url: &str, least: usize) -> BTreeMap<String, u32> {
    let bus = Bus::connect(url).await.unwrap();
    let stream = bus.stream("tabs-deliveries").await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let (mut counted, mut read_all, began) = (BTreeMap::new(), 0, Instant::now());
    loop {
        let read = reader.next(1000, Duration::from_secs(1)).await.unwrap();
        if read.is_empty() && read_all >= least {
            return counted;
        }
        assert!(began.elapsed() < LIMIT, "{read_all} of {least} tabs");
        for tab in read {
            let tab: Value = tab.json().unwrap();
            *counted.entry(tab["id"].as_str().unwrap().to_owned()).or_default() += 1;
            read_all += 1;
        }
    }
}

/// A maker is killed with its order in the making: the next one makes it, and each tab is there once.
async fn a_killed_makers_order_is_made_once(url: &str) {
    ends(&["medicine", "--bus", url, "--role", "patient", "--orders", "1"]).await;
    let maker = ["medicine", "--bus", url, "--role", "maker", "--wait", "60s", "--json"];
    let mut dies = command(&[&maker[..], &["--tab-time", "60s"]].concat()).spawn().unwrap();
    let taken = line(&mut printed(&mut dies), "\"taken\"").await;
    let taken: Value = serde_json::from_str(&taken).unwrap();
    dies.kill().await.unwrap();

    let summary = records(&ends(&maker).await);
    let made = summary.iter().find(|record| record["ended"] == "made").expect("a summary");
    assert_eq!((&made["order"], &made["tabs"]), (&taken["taken"], &taken["tabs"]));
    let tabs = usize::try_from(made["tabs"].as_u64().unwrap()).unwrap();
    let delivered = delivered(url, tabs).await;
    assert_eq!(delivered.len(), tabs);
    assert!(delivered.values().all(|times| *times == 1), "{delivered:?}");
}

#[tokio::test]
async fn on_nats_a_killed_makers_order_is_made_once() {
    let server = NatsServer::start().await.unwrap();
    a_killed_makers_order_is_made_once(&server.url()).await;
}

#[tokio::test]
async fn on_kafka_a_killed_makers_order_is_made_once() {
    let broker = KafkaBroker::start_with(QUICK_GROUPS).await.unwrap();
    a_killed_makers_order_is_made_once(&broker.url()).await;
}

/// On a folder one process at a time has the bus; what it leaves is there for the next.
#[tokio::test]
async fn in_a_folder_a_killed_makers_order_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    a_killed_makers_order_is_made_once(&format!("embedded://{}", folder.path().display())).await;
}

#[tokio::test]
async fn a_maker_without_an_order_ends_at_once() {
    let output = ends(&["medicine", "--role", "maker"]).await;
    let said = text(&output.stdout);
    assert_eq!(
        said,
        "medicine · bus embedded: · memory, nothing is kept · maker\nno order to make\n"
    );
}

/// Makers are processes: they are started for the backlog, end by themselves, and so does the flow
/// when its patients are gone.
#[tokio::test]
async fn makers_are_started_as_the_orders_come() {
    let server = NatsServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("medicine.svg");
    let (url, plot) = (server.url(), plot.to_str().unwrap());
    let output = ends(&[
        "medicine",
        "--bus",
        &url,
        "--scale",
        "3",
        "--patients",
        "1,2",
        "--phase",
        "3s",
        "--plot",
        plot,
        "--json",
    ])
    .await;
    let records = records(&output);
    let phases: Vec<_> = records.iter().filter(|record| record["makers"].is_u64()).collect();
    let patients: Vec<_> = phases.iter().map(|phase| &phase["patients"]).collect();
    assert_eq!(patients, [1, 2], "{records:?}");
    assert!(phases.iter().all(|phase| phase["makers"].as_u64() <= Some(3)), "{phases:?}");
    assert!(phases.iter().any(|phase| phase["makers"].as_u64() >= Some(2)), "{phases:?}");
    let counts = records.iter().rev().find_map(|record| record.get("counts")).unwrap();
    assert!(counts["orders"].as_u64() >= Some(3), "{counts}");
    assert_eq!(counts["orders"], counts["orders made"]);
    assert_eq!(counts["tabs ordered"], counts["tabs delivered"]);
    let tabs = usize::try_from(counts["tabs delivered"].as_u64().unwrap()).unwrap();
    let delivered = delivered(&url, tabs).await;
    assert!(delivered.len() == tabs && delivered.values().all(|times| *times == 1));
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
}

/// SIGTERM: what is in the making is delivered, and the process exits with 0.
#[tokio::test]
async fn a_flow_that_is_told_to_stop_finishes_what_it_has() {
    let server = NatsServer::start().await.unwrap();
    let url = server.url();
    ends(&["medicine", "--bus", &url, "--role", "patient", "--orders", "1"]).await;
    let args = ["medicine", "--bus", &url, "--role", "maker", "--wait", "60s", "--tab-time", "4s"];
    let mut maker = command(&args).spawn().unwrap();
    let mut said = printed(&mut maker);
    line(&mut said, "in the making").await;
    let pid = maker.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    line(&mut said, "made and delivered").await;
    let ended = tokio::time::timeout(LIMIT, maker.wait()).await.expect("it ends").unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let refused = command(&["medicine", "--bus", "nats://127.0.0.1:1"]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("--bus embedded:"), "{}", text(&refused.stderr));
    let refused = command(&["medicin"]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(2));
}

#[tokio::test]
async fn a_flow_says_what_it_does_and_what_can_be_set() {
    let flows = text(&ends(&["--help"]).await.stdout);
    for flow in ["medicine", "orders", "profile", "medisupply"] {
        let line = flows.lines().find(|line| line.trim_start().starts_with(flow)).expect(flow);
        assert!(line.trim().len() > flow.len() + 20, "{line}");
        let help = text(&ends(&[flow, "--help"]).await.stdout);
        let about = line.trim().trim_start_matches(flow).trim();
        assert!(help.starts_with(about), "{help}");
        assert!(help.contains("Roles:"), "{help}");
    }
    let help = text(&ends(&["orders", "--help"]).await.stdout);
    assert!(help.contains("--smtp <TEXT>") && help.contains("LOCKGATE_ORDERS_SMTP"), "{help}");
    let refused = command(&["orders", "--ack-wait", "soon"]).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("20s"), "{}", text(&refused.stderr));
}
