//! The roles as processes, each with the credentials of its own user.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::servers::{LIMIT, REALM, Servers};

/// Processes by name, each with a port.
pub(crate) struct Fleet {
    folder: TempDir,
    processes: Vec<Process>,
    pub(crate) client: reqwest::Client,
}

struct Process {
    name: String,
    port: u16,
    _child: Child,
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
        let mut fleet = Self { folder, processes: Vec::new(), client };
        for (name, role) in roles {
            fleet.launch(servers, copies, name, role);
            // The first makes the key that signs tokens, which no other user may.
            fleet.wait_ready(name).await;
        }
        fleet
    }

    fn launch(&mut self, servers: &Servers, copies: &str, name: &str, role: &str) {
        let port = bus::testkit::free_port().expect("a free port");
        let log = fs::File::create(self.log_of(name)).expect("a log");
        let child = lockgate(&["run", role, "--listen", &format!("127.0.0.1:{port}")])
            .args(["--replicas", copies, "--realms", REALM])
            .args(servers.arguments(role))
            .env("LOCKGATE_LOG", "info,async_nats=warn")
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("lockgate starts");
        self.processes.push(Process { name: name.to_owned(), port, _child: child });
    }

    async fn wait_ready(&self, name: &str) {
        let (url, started) = (format!("{}/readyz", self.url(name)), Instant::now());
        while !self.client.get(&url).send().await.is_ok_and(|a| a.status().is_success()) {
            assert!(started.elapsed() < LIMIT, "{name} is not ready\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn url(&self, name: &str) -> String {
        let process = self.processes.iter().find(|process| process.name == name);
        format!("http://127.0.0.1:{}", process.expect("it was started").port)
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

    /// What the processes wrote.
    pub(crate) fn logs(&self) -> String {
        let text = |process: &Process| {
            let log = fs::read_to_string(self.log_of(&process.name)).unwrap_or_default();
            format!("--- {}\n{log}", process.name)
        };
        self.processes.iter().map(text).collect()
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
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
