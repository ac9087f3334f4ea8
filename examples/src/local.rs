//! Every role of Lockgate in this process, as `lockgate` alone starts them.

use std::net::SocketAddr;

use bus::Bus;
use lockgate::http::{Access, Health, ListenOptions, Server, app};
use lockgate::platform::Platform;
use lockgate::roles::{Role, Roles};
use lockgate::store::{Store, StoreOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Failure;

/// A Lockgate that listens on a free port of this machine, open to it alone.
pub struct LocalLockgate {
    url: String,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), Failure>>,
}

impl LocalLockgate {
    /// Connects to the bus and starts every role.
    pub async fn start(bus: &str) -> Result<Self, Failure> {
        let (access, stop) = (Access::open(), CancellationToken::new());
        let server = Server::bind(&ListenOptions {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            access: access.clone(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        })
        .await?;
        let bus = Bus::connect(bus).await?;
        // JetStream sets aside what a stream may grow to, and this is a small one.
        let small = 64 << 20;
        let options =
            StoreOptions { log_max_bytes: small, prefill_max_bytes: small, ..Default::default() };
        let store = Store::open(Platform::new(bus), options).await?;
        let roles = Roles::start(&store, &Role::ALL, &access, &stop).await?;
        let app = app(roles.router(), server.guard(), Health::new(store, stop.clone()));
        let url = format!("http://{}", server.addr());
        let drain = stop.clone();
        let serving = tokio::spawn(async move {
            let ((), ended) = tokio::join!(server.serve(app, drain), roles.join());
            Ok(ended?)
        });
        Ok(Self { url, stop, serving })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Drains and ends it.
    pub async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.serving.await?
    }
}
