//! The conformance suite on a real `nats-server`: one for all behaviours, and one of its own for
//! each that restarts it.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bus::conformance::Target;
use bus::testkit::NatsServer;
use bus::{Bus, Result};
use tokio::sync::Mutex;

/// The server that the tests running now share; it ends with the last of them.
static SHARED: Mutex<Weak<Mutex<NatsServer>>> = Mutex::const_new(Weak::new());

struct Nats {
    server: Arc<Mutex<NatsServer>>,
    url: String,
}

impl Nats {
    async fn shared() -> Self {
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            let url = server.lock().await.url();
            return Self { server, url };
        }
        let nats = Self::alone().await;
        *shared = Arc::downgrade(&nats.server);
        nats
    }

    async fn alone() -> Self {
        let server = NatsServer::start().await.unwrap_or_else(|error| panic!("{error}"));
        let url = server.url();
        Self { server: Arc::new(Mutex::new(server)), url }
    }
}

#[async_trait]
impl Target for Nats {
    async fn bus(&self) -> Result<Bus> {
        Bus::connect(&self.url).await
    }

    async fn restart_broker(&self) -> Result<()> {
        let mut server = self.server.lock().await;
        server.kill9();
        server.restart().await
    }
}

bus::conformance_tests!(Nats::shared().await, Nats::alone().await);
