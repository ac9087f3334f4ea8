//! nats-servers that run the very files of `nats/`, with other ports and in a folder of their own.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bus::testkit::free_port;
use bus::{Bus, ConnectOptions, Tls};
use serde_json::Value;
use tempfile::TempDir;

use super::repository;

/// Elections take seconds, and more on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const REALM: &str = "directory";
/// Every port that the files name: of clients, of monitoring, of routes.
const PORTS: [u16; 9] = [4222, 4223, 4224, 8222, 8223, 8224, 6222, 6223, 6224];

/// Servers, and who may use them. Dropped, they are killed and their files removed.
pub(crate) struct Servers {
    folder: TempDir,
    nodes: Vec<Node>,
    client: reqwest::Client,
}

struct Node {
    file: String,
    name: String,
    port: u16,
    monitor: u16,
    process: Option<Child>,
}

impl Servers {
    /// Makes credentials, and starts a server for each of these files of `nats/`.
    pub(crate) async fn start(files: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = PORTS.map(|port| (port, free_port().expect("a free port")));
        fs::create_dir(folder.path().join("nats")).expect("a folder");
        let mut nodes = Vec::new();
        for entry in fs::read_dir(repository().join("nats")).expect("nats/").flatten() {
            let name = entry.file_name().into_string().expect("a name");
            if !name.ends_with(".conf") {
                continue;
            }
            let mut text = fs::read_to_string(entry.path()).expect("a configuration");
            for (named, free) in ports {
                text = text.replace(&format!("127.0.0.1:{named}"), &format!("127.0.0.1:{free}"));
            }
            fs::write(folder.path().join("nats").join(&name), &text).expect("a copy");
            if files.contains(&name.as_str()) {
                nodes.push(Node::of(name, &text));
            }
        }
        nodes.sort_by(|a, b| a.file.cmp(&b.file));
        assert_eq!(nodes.len(), files.len(), "{files:?}");
        // reqwest wants a TLS provider even for plain HTTP; a second installation is refused.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut servers = Self { folder, nodes, client };
        servers.generate(&[REALM]);
        for node in 0..servers.nodes.len() {
            servers.launch(node);
        }
        for node in 0..servers.nodes.len() {
            servers.wait_healthy(node).await;
        }
        servers
    }

    /// Runs `nats/generate.py` as a person does.
    pub(crate) fn generate(&self, realms: &[&str]) {
        let made = Command::new("python3")
            .arg(repository().join("nats/generate.py"))
            .args(["--realms", &realms.join(",")])
            .arg("--out")
            .arg(self.credentials())
            .output()
            .expect("python3 runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// Kills a server at once, as a crash would.
    pub(crate) fn kill9(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts one again that was killed, with what it has stored.
    pub(crate) async fn restart(&mut self, node: usize) {
        self.launch(node);
        self.wait_healthy(node).await;
    }

    /// Has a server read its configuration anew while it runs. On return it has: who connects in
    /// the very moment is refused.
    pub(crate) async fn reload(&self, node: usize) {
        let pid = self.nodes[node].process.as_ref().expect("it runs").id().to_string();
        let sent = tokio::process::Command::new("kill").args(["-HUP", &pid]).status().await;
        assert!(sent.expect("kill runs").success());
        let started = Instant::now();
        while !self.logs().contains("Reloaded server configuration") {
            assert!(started.elapsed() < LIMIT, "{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn launch(&mut self, node: usize) {
        let log = self.folder.path().join(format!("{}.log", self.nodes[node].name));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log");
        let process = Command::new(nats_server())
            .args(["--config", &format!("nats/{}", self.nodes[node].file)])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server starts");
        self.nodes[node].process = Some(process);
    }

    /// Waits until it serves clients and has caught up.
    async fn wait_healthy(&mut self, node: usize) {
        let url = format!("http://127.0.0.1:{}/healthz", self.nodes[node].monitor);
        let started = Instant::now();
        loop {
            let answer = self.client.get(&url).timeout(Duration::from_secs(2)).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let process = self.nodes[node].process.as_mut().expect("it was started");
            let ended = process.try_wait().expect("its state");
            assert!(ended.is_none() && started.elapsed() < LIMIT, "{ended:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All servers, for a client that takes any of them.
    pub(crate) fn url(&self) -> String {
        let hosts = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        format!("nats://{}", hosts.collect::<Vec<_>>().join(","))
    }

    pub(crate) fn credentials(&self) -> PathBuf {
        self.folder.path().join("target/nats/credentials")
    }

    /// What a command of `lockgate` is told to connect as a user.
    pub(crate) fn arguments(&self, role: &str) -> Vec<String> {
        let file = |name: String| self.credentials().join(name).display().to_string();
        Vec::from([
            String::from("--bus"),
            self.url(),
            String::from("--nats-nkey-seed"),
            file(format!("{role}.nk")),
            String::from("--bus-ca"),
            file(String::from("ca.pem")),
            String::from("--nats-inbox-prefix"),
            format!("_INBOX_{role}"),
        ])
    }

    /// The bus as a user has it.
    pub(crate) async fn bus(&self, role: &str) -> Bus {
        let options = ConnectOptions {
            nkey_seed: Some(self.credentials().join(format!("{role}.nk"))),
            inbox_prefix: Some(format!("_INBOX_{role}")),
            tls: Tls { roots: Some(self.credentials().join("ca.pem")), ..Tls::default() },
            ..ConnectOptions::default()
        };
        Bus::connect_with(&self.url(), options).await.expect("a bus")
    }

    /// Which server leads a stream, as the servers say themselves.
    pub(crate) async fn leader_of(&self, stream: &str) -> usize {
        let started = Instant::now();
        loop {
            for (number, node) in self.nodes.iter().enumerate() {
                let url = format!("http://127.0.0.1:{}/jsz?accounts=1&streams=1", node.monitor);
                let Ok(answer) = self.client.get(url).send().await else { continue };
                let shown: Value = answer.json().await.unwrap_or_default();
                let accounts = shown["account_details"].as_array().cloned().unwrap_or_default();
                let streams =
                    accounts.iter().filter_map(|account| account["stream_detail"].as_array());
                let mut streams = streams.flatten();
                let leads = |found: &Value| {
                    found["name"] == stream && found["cluster"]["leader"] == node.name.as_str()
                };
                if streams.any(leads) {
                    return number;
                }
            }
            assert!(started.elapsed() < LIMIT, "nobody leads {stream}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the servers wrote.
    pub(crate) fn logs(&self) -> String {
        let text = |node: &Node| {
            let log = self.folder.path().join(format!("{}.log", node.name));
            fs::read_to_string(log).unwrap_or_default()
        };
        self.nodes.iter().map(text).collect()
    }
}

impl Node {
    fn of(file: String, text: &str) -> Self {
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the line");
            line.split('#').next().unwrap_or(line).trim().trim_matches('"').to_owned()
        };
        let port = |key: &str| value(key).rsplit(':').next().unwrap().parse().expect("a port");
        let name = value("server_name:");
        Self { port: port("listen:"), monitor: port("http:"), file, name, process: None }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            self.kill9(node);
        }
        if std::thread::panicking() {
            eprintln!("--- the servers wrote ---\n{}", self.logs());
        }
    }
}

/// As the testkit looks for it.
fn nats_server() -> PathBuf {
    if let Some(named) = std::env::var_os("LOCKGATE_NATS_SERVER") {
        return PathBuf::from(named);
    }
    let installed = repository().join("target/tools/nats-server");
    if installed.is_file() { installed } else { PathBuf::from("nats-server") }
}
