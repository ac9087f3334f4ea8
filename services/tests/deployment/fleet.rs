//! The roles as processes, each with the credentials of its own user.

use std::collections::BTreeMap;
use std::fs;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::servers::{LIMIT, REALM, Servers};

/// Both ways, to a Kafka that is away: what a bridge does on NATS while it waits.
const BRIDGES: &str = r#"
[kafka]
brokers = "127.0.0.1:1"
[[route]]
name = "in"
from = "kafka:users"
to = "directory.user"
[[route]]
name = "out"
from = "directory.user"
to = "kafka:copy"
"#;

/// Processes by name, each with a port.
pub(crate) struct Fleet {
    folder: TempDir,
    processes: Mutex<BTreeMap<String, Process>>,
    pub(crate) client: reqwest::Client,
}

struct Process {
    url: String,
    child: Child,
}

impl Fleet {
    /// Applies the topology as the admin, and starts each `(name, role)` on servers that keep so
    /// many copies. On return all are ready.
    pub(crate) async fn start(servers: &Servers, copies: &str, roles: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let topology = super::repository().join("nats/topology.toml");
        let applied = lockgate(&["topology", "apply", &topology.display().to_string()])
            .args(["--replicas", copies])
            .args(servers.arguments("admin"))
            .output();
        let applied = applied.await.expect("lockgate runs");
        assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        let client =
            reqwest::Client::builder().no_proxy().timeout(LIMIT).build().expect("a client");
        let fleet = Self { folder, processes: Mutex::default(), client };
        for (name, role) in roles {
            // The first makes the key that signs tokens, which no other user may.
            let process = fleet.launch(servers, copies, role).await;
            fleet.processes().insert((*name).to_owned(), process);
        }
        fleet
    }

    /// Starts another process of a role and, when that is ready, sends callers to it and tells the
    /// old one to end. How the old one ends is left to be awaited.
    pub(crate) async fn replace(
        &self,
        servers: &Servers,
        copies: &str,
        role: &str,
    ) -> impl Future<Output = ExitStatus> + use<> {
        let new = self.launch(servers, copies, role).await;
        let old = self.processes().insert(role.to_owned(), new);
        let mut old = old.expect("it was started").child;
        let pid = old.id().expect("it runs").to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(told.expect("kill runs").success());
        async move { old.wait().await.expect("it ends") }
    }

    async fn launch(&self, servers: &Servers, copies: &str, role: &str) -> Process {
        let port = bus::testkit::free_port().expect("a free port");
        let log = fs::File::create(self.folder.path().join(format!("{role}-{port}.log")));
        let bridges = self.folder.path().join("bridges.toml");
        if role == "bridge" {
            fs::write(&bridges, BRIDGES).expect("a file");
        }
        let child = lockgate(&["run", role, "--listen", &format!("127.0.0.1:{port}")])
            .env("LOCKGATE_BRIDGES", &bridges)
            .args(["--replicas", copies, "--realms", REALM])
            .args(servers.arguments(role))
            .env("LOCKGATE_LOG", "info,async_nats=warn")
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .kill_on_drop(true)
            .spawn()
            .expect("lockgate starts");
        let process = Process { url: format!("http://127.0.0.1:{port}"), child };
        let (url, started) = (format!("{}/readyz", process.url), Instant::now());
        while !self.client.get(&url).send().await.is_ok_and(|a| a.status().is_success()) {
            assert!(started.elapsed() < LIMIT, "{role} is not ready\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        process
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        self.processes.lock().expect("processes")
    }

    pub(crate) fn url(&self, name: &str) -> String {
        self.processes().get(name).expect("it was started").url.clone()
    }

    /// Sends an event; the status, or 0 when there is no connection.
    pub(crate) async fn publish(&self, event: &Value) -> u16 {
        let request = self
            .client
            .post(format!("{}/v1/events", self.url("events")))
            .header("content-type", "application/cloudevents+json")
            .body(event.to_string());
        request.send().await.map_or(0, |answer| answer.status().as_u16())
    }

    /// The status (0 when there is no connection) and the JSON of an answer.
    pub(crate) async fn post(
        &self,
        name: &str,
        path: &str,
        secret: &str,
        body: &Value,
    ) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.url(name))).json(body);
        read(if secret.is_empty() { request } else { request.bearer_auth(secret) }).await
    }

    pub(crate) async fn get(&self, name: &str, path: &str) -> (u16, Value) {
        read(self.client.get(format!("{}{path}", self.url(name)))).await
    }

    pub(crate) async fn delete(&self, name: &str, path: &str) -> (u16, Value) {
        read(self.client.delete(format!("{}{path}", self.url(name)))).await
    }

    /// What the processes wrote, those that have ended as well.
    pub(crate) fn logs(&self) -> String {
        let files = fs::read_dir(self.folder.path()).expect("the logs").flatten();
        let text = files.map(|file| {
            let log = fs::read_to_string(file.path()).unwrap_or_default();
            format!("--- {}\n{log}", file.path().display())
        });
        text.collect()
    }
}

/// The binary, without this process' settings.
fn lockgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    let settings = std::env::vars().map(|(name, _)| name);
    for name in settings.filter(|name| name.starts_with("LOCKGATE_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    match request.send().await {
        Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or_default()),
        Err(_) => (0, Value::Null),
    }
}
