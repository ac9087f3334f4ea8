//! The binary as a process, and a client that sees what curl would.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::{Child, Command};

/// What a bounded wait ends with at the latest.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Lockgate {
    pub(crate) child: Child,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
}

impl Lockgate {
    /// Every role on this bus, ready.
    pub(crate) async fn start(bus: &str) -> Self {
        Self::start_with(bus, &[]).await
    }

    /// The same with further arguments.
    pub(crate) async fn start_with(bus: &str, args: &[&str]) -> Self {
        let port = bus::testkit::free_port().expect("a free port");
        let child = command(&["--bus", bus, "--listen", &format!("127.0.0.1:{port}")])
            .args(args)
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        // reqwest wants a TLS provider even for plain HTTP; a second installation is refused.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let lockgate = Self { child, url: format!("http://127.0.0.1:{port}"), client };
        lockgate.until("ready", async |lockgate| lockgate.get("/readyz").await.0 == 200).await;
        lockgate
    }

    /// Waits, within the limit, until `holds` says so.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let started = Instant::now();
        while !holds(self).await {
            assert!(started.elapsed() < LIMIT, "not {what} within {LIMIT:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The status (0 when there is no connection) and the JSON of an answer.
    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        read(self.client.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn post(&self, path: &str, bearer: &str, body: &Value) -> (u16, Value) {
        read(self.request(path, bearer, body)).await
    }

    pub(crate) fn request(
        &self,
        path: &str,
        bearer: &str,
        body: &Value,
    ) -> reqwest::RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        if bearer.is_empty() { request } else { request.bearer_auth(bearer) }
    }

    /// Runs a client command against this server.
    pub(crate) async fn command(&self, args: &[&str], state: &std::path::Path) -> Output {
        let ran = command(args)
            .env("LOCKGATE_SERVER", &self.url)
            .env("XDG_STATE_HOME", state)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output();
        tokio::time::timeout(LIMIT, ran).await.expect("it ends").expect("it runs")
    }

    /// Sends SIGTERM.
    pub(crate) async fn terminate(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs");
        assert!(sent.success());
    }
}

/// The binary with arguments, silent, without this process' settings.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    for name in
        ["LOCKGATE_BUS", "LOCKGATE_LISTEN", "LOCKGATE_REALMS", "LOCKGATE_SERVER", "LOCKGATE_TOKEN"]
    {
        command.env_remove(name);
    }
    command.args(args).env("LOCKGATE_LOG", "error").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

async fn read(request: reqwest::RequestBuilder) -> (u16, Value) {
    match request.send().await {
        Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null)),
        Err(_) => (0, Value::Null),
    }
}
