//! Streams, consumers and buckets declared in a file, and brought about.
//!
//! ```
//! use bus::{Bus, Topology};
//! use bus::topology::Action;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), bus::Error> {
//! let bus = Bus::connect("embedded:").await?;
//! let topology = Topology::parse(r#"
//!     [streams.orders]
//!     subjects = ["orders.>"]
//!     max-bytes = "1GiB"
//!
//!     [streams.orders.consumers.billing]
//!     filters = ["orders.created"]
//!     ack-wait = "1m"
//!
//!     [buckets.state]
//! "#)?;
//! let changes = bus.ensure_topology(&topology).await?;
//! assert!(changes.iter().all(|change| change.action == Action::Create));
//! assert!(bus.ensure_topology(&topology).await?.is_empty(), "twice changes nothing");
//! # Ok(())
//! # }
//! ```

mod file;
mod plan;
mod write;

use std::fmt;
use std::path::Path;

use crate::bus::Bus;
use crate::config::{BucketConfig, ConsumerConfig, StreamConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::name::StreamName;

pub use crate::difference::Difference;

/// What should exist. What it does not name is left alone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::{StreamConfig, Topology};
///
/// // From code as well as from a file, and for a cluster of another size than it was written for.
/// let declared = Topology {
///     streams: vec![StreamConfig::parse("orders", &["orders.>"])?],
///     ..Topology::default()
/// };
/// assert_eq!(declared, Topology::parse("[streams.orders]\nsubjects = ['orders.>']")?);
/// assert_eq!(declared.replicas(3).streams[0].replicas, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Topology {
    /// The streams.
    pub streams: Vec<StreamConfig>,
    /// The consumers, each with its stream, which need not be declared here.
    pub consumers: Vec<(StreamName, ConsumerConfig)>,
    /// The buckets.
    pub buckets: Vec<BucketConfig>,
}

impl Topology {
    /// Reads a TOML file. What is malformed, unknown or missing in it is
    /// [`ErrorKind::Invalid`] and names the line.
    ///
    /// Tables `[streams.NAME]`, `[streams.NAME.consumers.NAME]` and `[buckets.NAME]` hold the
    /// fields of [`StreamConfig`], [`ConsumerConfig`] and [`BucketConfig`] in kebab case; a field
    /// that is left out has the default of the type. Durations are written `"30s"` or `"7d"`,
    /// sizes `"1GiB"`. `[defaults]` may set `replicas` and `storage` for all of them.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| {
            let what = format!("cannot read the topology {}: {source}", path.display());
            Error::with_source(ErrorKind::Invalid, what, source)
        })?;
        Self::parse(&text).map_err(|error| error.context(path.display()))
    }

    /// The same from text.
    pub fn parse(text: &str) -> Result<Self> {
        file::parse(text)
    }

    /// The same with this many copies of everything, for a cluster of another size.
    #[must_use]
    pub fn replicas(mut self, replicas: u8) -> Self {
        self.streams.iter_mut().for_each(|stream| stream.replicas = replicas);
        self.buckets.iter_mut().for_each(|bucket| bucket.replicas = replicas);
        self
    }
}

/// What must be done to a stream, consumer or bucket so that it is as declared.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// let declared = bus::Topology::parse("[streams.orders]\nsubjects = ['orders.>']\nmax-age = '7d'")?;
/// let change = bus.compare_topology(&declared).await?.remove(0); // nothing is changed yet
/// assert_eq!(change.to_string(), "~ stream orders\n    max-age: none -> 7days");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which: `stream orders`, `consumer billing of orders`, `bucket state`.
    pub what: String,
    /// What to do to it.
    pub action: Action,
    /// Where it differs; empty for one that is to be created.
    pub differences: Vec<Difference>,
}

/// See [`Change`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// # let bus = bus::Bus::connect("embedded:").await?;
/// # bus.ensure_stream(&bus::StreamConfig::parse("orders", &["orders.>"])?).await?;
/// use bus::Topology;
/// use bus::topology::Action;
///
/// let declared = Topology::parse("[streams.orders]\nsubjects = ['orders.>']\nstorage = 'memory'\n[buckets.state]")?;
/// let changes = bus.compare_topology(&declared).await?;
/// let actions: Vec<_> = changes.iter().map(|change| change.action).collect();
/// assert_eq!(actions, [Action::Refuse, Action::Create], "where a stream is kept cannot be changed");
/// assert!(bus.ensure_topology(&declared).await.is_err(), "so nothing is done at all");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It does not exist.
    Create,
    /// It exists and can be changed into what is declared.
    Update,
    /// It exists and cannot: someone must delete it or declare what is there.
    Refuse,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Create => '+',
            Action::Update => '~',
            Action::Refuse => '!',
        };
        write!(f, "{sign} {}", self.what)?;
        for difference in &self.differences {
            write!(f, "\n    {difference}")?;
        }
        Ok(())
    }
}

impl Bus {
    /// What [`Bus::ensure_topology`] would do; changes nothing. Empty when all is as declared.
    pub async fn compare_topology(&self, topology: &Topology) -> Result<Vec<Change>> {
        plan::changes(self, topology).await
    }

    /// Brings the topology about and returns what was changed; a second time that is nothing.
    ///
    /// A difference that cannot be mended is [`ErrorKind::Mismatch`] with all of them written
    /// out, before anything is changed. A crash on the way leaves what a repetition mends. What
    /// the backend cannot do is [`ErrorKind::Unsupported`].
    pub async fn ensure_topology(&self, topology: &Topology) -> Result<Vec<Change>> {
        let changes = plan::changes(self, topology).await?;
        let refused: Vec<_> =
            changes.iter().filter(|change| change.action == Action::Refuse).collect();
        if !refused.is_empty() {
            let list: String = refused.iter().map(|change| format!("\n{change}")).collect();
            let what = format!(
                "the topology differs from {} where it cannot be changed; delete or declare \
                 what is there:{list}",
                self.backend()
            );
            return Err(Error::new(ErrorKind::Mismatch, what));
        }
        for stream in &topology.streams {
            self.ensure_stream(stream).await?;
        }
        for (stream, consumer) in &topology.consumers {
            self.ensure_consumer(stream, consumer).await?;
        }
        for bucket in &topology.buckets {
            self.ensure_bucket(bucket).await?;
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests;
