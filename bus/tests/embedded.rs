//! The conformance suite on the embedded backend, with paused time: nothing here waits.

use std::sync::Arc;

use async_trait::async_trait;
use bus::conformance::Target;
use bus::embedded::Embedded;
use bus::{Bus, Result};

struct InProcess(Embedded);

#[async_trait]
impl Target for InProcess {
    async fn bus(&self) -> Result<Bus> {
        Ok(Bus::with_driver(Arc::new(self.0.another())))
    }

    async fn restart_broker(&self) -> Result<()> {
        Ok(())
    }
}

bus::conformance_tests!(
    #[tokio::test(start_paused = true)]
    InProcess(Embedded::new())
);
