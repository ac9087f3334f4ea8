//! The conformance suite on a cluster of three `nats-server`s, with three copies of everything:
//! one for all behaviours, and one of its own for each that restarts it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bus::conformance::Target;
use bus::testkit::NatsCluster;
use bus::{Bus, Result};
use tokio::sync::Mutex;

/// The cluster that the tests running now share; it ends with the last of them.
static SHARED: Mutex<Weak<Mutex<NatsCluster>>> = Mutex::const_new(Weak::new());
/// How long a node is away, so that others have to be elected.
const AWAY: Duration = Duration::from_secs(1);

struct Cluster {
    servers: Arc<Mutex<NatsCluster>>,
    url: String,
}

impl Cluster {
    async fn shared() -> Self {
        let mut shared = SHARED.lock().await;
        if let Some(servers) = shared.upgrade() {
            let url = servers.lock().await.url();
            return Self { servers, url };
        }
        let cluster = Self::alone().await;
        *shared = Arc::downgrade(&cluster.servers);
        cluster
    }

    async fn alone() -> Self {
        let servers = NatsCluster::start(3).await.unwrap_or_else(|error| panic!("{error}"));
        let url = servers.url();
        Self { servers: Arc::new(Mutex::new(servers)), url }
    }
}

#[async_trait]
impl Target for Cluster {
    async fn bus(&self) -> Result<Bus> {
        Bus::connect(&self.url).await
    }

    /// One node after the other, whichever leads.
    async fn restart_broker(&self) -> Result<()> {
        let mut servers = self.servers.lock().await;
        for node in 0..servers.nodes() {
            servers.kill9(node);
            tokio::time::sleep(AWAY).await;
            servers.restart(node).await?;
            servers.wait_healthy().await?;
        }
        Ok(())
    }

    fn replicas(&self) -> u8 {
        3
    }
}

bus::conformance_tests!(Cluster::shared().await, Cluster::alone().await);
