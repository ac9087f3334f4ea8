//! What came of creating.

#[cfg(feature = "nats")]
use crate::error::Result;

/// What a driver answers when it was asked to create what is missing.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// use bus::{Creation, StreamConfig};
///
/// let mut config = StreamConfig::parse("orders", &["orders.>"])?;
/// assert!(bus.driver().create_stream(&config).await?.is_created());
/// config.max_bytes = Some(1 << 20);
/// let Creation::Exists(info) = bus.driver().create_stream(&config).await? else { panic!() };
/// assert_eq!(info.config.max_bytes, None, "what is there stays as it is");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Creation<T> {
    /// There was none, and now there is one as it was asked for.
    Created(T),
    /// There was one, it is exactly as it was, and this is how it looks.
    Exists(T),
}

impl<T> Creation<T> {
    /// True when there was none before.
    pub fn is_created(&self) -> bool {
        matches!(self, Self::Created(_))
    }

    /// What is there now, whoever made it.
    pub fn get(&self) -> &T {
        let (Self::Created(now) | Self::Exists(now)) = self;
        now
    }

    /// The same in other words, unless they cannot be found.
    #[cfg(feature = "nats")]
    pub(crate) fn try_map<U>(self, map: impl FnOnce(T) -> Result<U>) -> Result<Creation<U>> {
        Ok(match self {
            Self::Created(now) => Creation::Created(map(now)?),
            Self::Exists(now) => Creation::Exists(map(now)?),
        })
    }
}
