//! The entrance: a backend chosen by URL. The one file that knows every adapter.

use std::sync::Arc;

use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::options::ConnectOptions;

/// How each backend is named, and whether this build has it.
const BACKENDS: [(&str, bool); 4] = [
    ("embedded:", true),
    ("embedded:///path", cfg!(feature = "disk")),
    ("nats://host:port", cfg!(feature = "nats")),
    ("kafka://host:port", cfg!(feature = "kafka")),
];

impl Bus {
    /// Connects to the backend that `url` names.
    ///
    /// - `embedded:` is in this process and in memory; every call makes a new, empty one.
    /// - `embedded:///path` is in this process and on disk (feature `disk`); calls with the same
    ///   folder share it. `?sync=interval` answers before the disk is synced: see
    ///   `bus::embedded::disk`.
    /// - `nats://host:4222[,host:4222...]` is NATS JetStream (feature `nats`), `tls://` the same
    ///   and never without TLS.
    /// - `kafka://host:9092[,host:9092...]` is Kafka (feature `kafka`).
    ///
    /// Credentials are never in the URL: see [`ConnectOptions`]. A URL that no backend of this
    /// build takes is [`crate::ErrorKind::Invalid`], servers that do not answer
    /// [`crate::ErrorKind::Unavailable`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, ConnectOptions::default()).await
    }

    /// The same with options.
    pub async fn connect_with(url: &str, options: ConnectOptions) -> Result<Self> {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        if scheme == Some("embedded")
            && let Some(what) = options.for_servers()
        {
            let why = "it is in this process, and connects to nothing";
            return Err(Error::invalid(format!("{what} is of no use to {url:?}: {why}")));
        }
        match scheme {
            Some("embedded") if url == "embedded:" => {
                Ok(Self::with_driver(Arc::new(crate::embedded::Embedded::new())))
            }
            #[cfg(feature = "disk")]
            Some("embedded") => {
                Ok(Self::with_driver(Arc::new(crate::embedded::disk::Disk::connect(url).await?)))
            }
            #[cfg(not(feature = "disk"))]
            Some("embedded") => Err(Error::invalid(format!(
                "{url:?} is on disk, and this build keeps nothing there: build it with feature \
                 disk, or use embedded:"
            ))),
            #[cfg(feature = "nats")]
            Some("nats" | "tls") => {
                Ok(Self::with_driver(Arc::new(crate::nats::Nats::connect(url, &options).await?)))
            }
            #[cfg(feature = "kafka")]
            Some("kafka") => {
                Ok(Self::with_driver(Arc::new(crate::kafka::Kafka::connect(url, &options).await?)))
            }
            _ => {
                let _ = options;
                let known: Vec<_> =
                    BACKENDS.iter().filter_map(|(url, built)| built.then_some(*url)).collect();
                let known = known.join(", ");
                Err(Error::invalid(format!("{url:?} names no backend of this build: use {known}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_only_a_server_could_use_is_refused_and_not_passed_over() {
        let tls = crate::Tls { required: true, ..Default::default() };
        let options = ConnectOptions { tls, ..Default::default() };
        let refused = Bus::connect_with("embedded:", options).await.err().unwrap();
        assert_eq!(
            refused.to_string(),
            "TLS is of no use to \"embedded:\": it is in this process, and connects to nothing"
        );
    }

    #[tokio::test]
    async fn an_unknown_backend_is_answered_with_those_of_this_build() {
        let refused = Bus::connect("amqp://localhost").await.err().unwrap().to_string();
        for (url, built) in BACKENDS {
            assert_eq!(refused.contains(&format!(" {url}")), built, "{refused}");
        }
    }
}

#[cfg(all(test, feature = "nats", feature = "kafka"))]
mod capabilities {
    use std::fmt::Write as _;

    use crate::{Capability, Support};

    /// The table of the documentation, as the backends answer.
    fn table() -> String {
        let mut table = String::from(
            "| Capability | `embedded:`, `embedded:///path` | `nats://` | `kafka://` |\n\
             |---|---|---|---|\n",
        );
        let word = |support| match support {
            Support::Native => "native",
            Support::Emulated => "emulated",
            Support::Unsupported => "-",
        };
        for capability in Capability::ALL {
            let embedded = word(crate::embedded::driver::support(capability));
            let nats = word(crate::nats::support(capability));
            let kafka = word(crate::kafka::support(capability));
            let line = format!("| [`{capability:?}`](Capability::{capability:?}): {capability}");
            let _ = writeln!(table, "{line} | {embedded} | {nats} | {kafka} |");
        }
        table
    }

    #[test]
    fn the_documented_table_is_what_the_backends_answer() {
        let (table, written) = (table(), include_str!("capabilities.md"));
        assert_eq!(written, table, "put this into bus/src/capabilities.md:\n{table}");
    }
}
