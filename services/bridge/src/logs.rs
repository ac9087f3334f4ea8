//! The port to the logs: whoever runs a bridge says how a realm's log comes to be.

use async_trait::async_trait;
use bus::{Bus, Error, Stream, StreamConfig};

use crate::names;

/// Opens the logs of realms, making them where that is allowed.
#[async_trait]
pub trait Logs: Send + Sync {
    /// The bus that the logs are on.
    fn bus(&self) -> &Bus;

    /// Copies of what a bridge makes itself: the bucket of leases and statuses.
    fn replicas(&self) -> u8 {
        1
    }

    /// The log of a realm. It must capture `events.<realm>.*.*` and [`names::reserved_filter`].
    async fn log(&self, realm: &str) -> Result<Stream, Error>;
}

/// Logs that are declared here, each where it is missing: for programs that are no Lockgate.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use lockgate_bridge::{Declared, Logs};
///
/// let logs = Declared(bus::Bus::connect("embedded:").await?);
/// let log = logs.log("shop").await?;
/// assert_eq!(log.name().as_str(), "events-shop");
/// # Ok(())
/// # }
/// ```
pub struct Declared(pub Bus);

#[async_trait]
impl Logs for Declared {
    fn bus(&self) -> &Bus {
        &self.0
    }

    async fn log(&self, realm: &str) -> Result<Stream, Error> {
        let events = format!("events.{realm}.*.*");
        let reserved = names::reserved_filter(realm)?;
        let subjects = [events.as_str(), reserved.as_str()];
        let config = StreamConfig::parse(&names::log_stream(realm), &subjects)?;
        Ok(self.0.create_stream_if_missing(&config).await?.handle)
    }
}
