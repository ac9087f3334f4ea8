//! Real servers for tests: started on a free port, stopped for certain.
//!
//! ```no_run
//! # async fn example() -> bus::Result<()> {
//! let mut server = bus::testkit::NatsServer::start().await?;
//! let bus = bus::Bus::connect(&server.url()).await?;
//! server.kill9();
//! server.restart().await?; // the same port, the same store
//! # Ok(()) }
//! ```

mod cluster;
mod kafka;
mod nats;
mod ports;
mod process;

pub use cluster::NatsCluster;
pub use kafka::KafkaBroker;
pub use nats::NatsServer;
pub use ports::free_port;
