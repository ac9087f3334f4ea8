//! The binary as a process: this build's, or the one that `LOCKGATE_BENCH_BINARY` names, so that two
//! builds can be compared.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

const READY_WITHIN: Duration = Duration::from_secs(120);
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server with every role.
pub(crate) struct Lockgate {
    child: Child,
    pub(crate) url: String,
    pub(crate) client: reqwest::Client,
}

impl Lockgate {
    pub(crate) async fn start(bus: &str) -> Self {
        Self::start_again(bus).await.0
    }

    /// The server once it is ready, and how long that took.
    pub(crate) async fn start_again(bus: &str) -> (Self, Duration) {
        let port = bus::testkit::free_port().expect("a free port");
        let started = Instant::now();
        let binary = std::env::var_os("LOCKGATE_BENCH_BINARY");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_lockgate").into());
        let child = Command::new(binary)
            .args(["--bus", bus, "--listen", &format!("127.0.0.1:{port}")])
            .env("LOCKGATE_LOG", "warn")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        // reqwest wants a TLS provider even for plain HTTP; a second installation is refused.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let lockgate = Self { child, url: format!("http://127.0.0.1:{port}"), client };
        while !lockgate.is_ready().await {
            assert!(started.elapsed() < READY_WITHIN, "not ready within {READY_WITHIN:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        (lockgate, started.elapsed())
    }

    async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Stops it as SIGTERM does.
    pub(crate) async fn stop(mut self) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs");
        assert!(sent.success());
        let ended = tokio::time::timeout(STOPPED_WITHIN, self.child.wait()).await;
        assert!(ended.expect("it ends").expect("it ran").success());
    }
}
