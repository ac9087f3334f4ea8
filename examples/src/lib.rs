//! What the numbered programs share: the bus they run on, and a Lockgate in this process.

mod local;

use bus::{Bus, Stream, StreamConfig};

pub use local::LocalLockgate;

/// What a program may fail with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A new stream of this name; what an earlier run may have left on a server is removed first.
pub async fn fresh(bus: &Bus, config: &StreamConfig) -> Result<Stream, bus::Error> {
    remove(bus, config.name.as_str()).await?;
    bus.ensure_stream(config).await
}

/// Removes a stream that may exist.
pub async fn remove(bus: &Bus, stream: &str) -> Result<(), bus::Error> {
    match bus.delete_stream(stream).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The bus that `--bus URL` names; `embedded:` without it.
pub fn bus_url() -> Result<String, Failure> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(String::from("embedded:")),
        (Some("--bus"), Some(url), None) => Ok(url),
        _ => Err("usage: [--bus embedded:|nats://127.0.0.1:4222|kafka://127.0.0.1:9092]".into()),
    }
}
