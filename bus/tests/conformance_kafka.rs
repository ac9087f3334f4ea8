//! The conformance suite on a real Kafka broker: one for all behaviours, and one of its own for
//! each that restarts it.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bus::conformance::Target;
use bus::testkit::KafkaBroker;
use bus::{Bus, Result};
use tokio::sync::{Mutex, MutexGuard};

/// The broker that the tests running now share; it ends with the last of them.
static SHARED: Mutex<Weak<Mutex<KafkaBroker>>> = Mutex::const_new(Weak::new());

/// A broker takes half a gigabyte and a processor to start: beside the shared one there is one.
static ALONE: Mutex<()> = Mutex::const_new(());

struct Kafka {
    broker: Arc<Mutex<KafkaBroker>>,
    url: String,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Kafka {
    async fn shared() -> Self {
        let mut shared = SHARED.lock().await;
        if let Some(broker) = shared.upgrade() {
            let url = broker.lock().await.url();
            return Self { broker, url, _turn: None };
        }
        let kafka = Self::start(None).await;
        *shared = Arc::downgrade(&kafka.broker);
        kafka
    }

    async fn alone() -> Self {
        Self::start(Some(ALONE.lock().await)).await
    }

    async fn start(_turn: Option<MutexGuard<'static, ()>>) -> Self {
        let broker = KafkaBroker::start().await.unwrap_or_else(|error| panic!("{error}"));
        let url = broker.url();
        Self { broker: Arc::new(Mutex::new(broker)), url, _turn }
    }
}

#[async_trait]
impl Target for Kafka {
    async fn bus(&self) -> Result<Bus> {
        Bus::connect(&self.url).await
    }

    async fn restart_broker(&self) -> Result<()> {
        let mut broker = self.broker.lock().await;
        broker.kill9();
        broker.restart().await
    }
}

bus::conformance_tests!(Kafka::shared().await, Kafka::alone().await);
