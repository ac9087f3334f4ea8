//! How a command reaches the bus beside its URL: the same options wherever there is a `--bus`.

use std::fs;
use std::path::{Path, PathBuf};

use bus::{ConnectOptions, JetStream, Sasl, Tls};
use clap::{Args, ValueEnum};
use lockgate_bridge::{self as bridges, KafkaCluster};

use super::failure::Failure;

/// Secrets are in files: on a command line everybody on the machine could read them.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connecting to the bus")]
pub(super) struct Connection {
    /// A NATS credentials file (.creds); credentials never stand in the URL
    #[arg(long, env = "LOCKGATE_NATS_CREDENTIALS", value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// A file with the seed of a NATS nkey (SU...)
    #[arg(long, env = "LOCKGATE_NATS_NKEY_SEED", value_name = "FILE")]
    nats_nkey_seed: Option<PathBuf>,
    /// A file with a NATS token
    #[arg(long, env = "LOCKGATE_NATS_TOKEN_FILE", value_name = "FILE")]
    nats_token_file: Option<PathBuf>,
    /// What NATS reply subjects begin with, in place of _INBOX
    #[arg(long, env = "LOCKGATE_NATS_INBOX_PREFIX", value_name = "SUBJECT")]
    nats_inbox_prefix: Option<String>,
    /// The JetStream domain, for example of the hub behind a leaf node
    #[arg(long, env = "LOCKGATE_NATS_DOMAIN", value_name = "NAME")]
    nats_domain: Option<String>,
    /// What the subjects of the JetStream API begin with, in place of $JS.API
    #[arg(
        long,
        env = "LOCKGATE_NATS_API_PREFIX",
        value_name = "SUBJECT",
        conflicts_with = "nats_domain"
    )]
    nats_api_prefix: Option<String>,
    /// The user of NATS or Kafka
    #[arg(long, env = "LOCKGATE_BUS_USER", value_name = "NAME", requires = "bus_password_file")]
    bus_user: Option<String>,
    /// A file with the user's password
    #[arg(long, env = "LOCKGATE_BUS_PASSWORD_FILE", value_name = "FILE", requires = "bus_user")]
    bus_password_file: Option<PathBuf>,
    /// How the user is proved to Kafka
    #[arg(long, env = "LOCKGATE_KAFKA_SASL", value_enum, default_value = "plain")]
    kafka_sasl: SaslName,
    /// Connect with TLS only; so do a root and a certificate
    #[arg(long, env = "LOCKGATE_BUS_TLS")]
    bus_tls: bool,
    /// A PEM file with the authorities to trust, in place of the system's
    #[arg(long, env = "LOCKGATE_BUS_CA", value_name = "FILE")]
    bus_ca: Option<PathBuf>,
    /// A PEM file with this client's certificate
    #[arg(long, env = "LOCKGATE_BUS_CERT", value_name = "FILE", requires = "bus_key")]
    bus_cert: Option<PathBuf>,
    /// A PEM file with the certificate's private key
    #[arg(long, env = "LOCKGATE_BUS_KEY", value_name = "FILE", requires = "bus_cert")]
    bus_key: Option<PathBuf>,
}

/// As the option names it.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum SaslName {
    #[default]
    Plain,
    ScramSha256,
    ScramSha512,
}

impl Connection {
    /// Reads what the files hold.
    pub(super) fn options(&self) -> Result<ConnectOptions, Failure> {
        let password = self.bus_password_file.as_deref().map(secret).transpose()?;
        let domain = self.nats_domain.clone().map(JetStream::Domain);
        Ok(ConnectOptions {
            credentials: self.nats_credentials.clone(),
            nkey_seed: self.nats_nkey_seed.clone(),
            token: self.nats_token_file.as_deref().map(secret).transpose()?,
            user: self.bus_user.clone().zip(password),
            sasl: match self.kafka_sasl {
                SaslName::Plain => Sasl::Plain,
                SaslName::ScramSha256 => Sasl::ScramSha256,
                SaslName::ScramSha512 => Sasl::ScramSha512,
            },
            tls: Tls {
                required: self.bus_tls,
                roots: self.bus_ca.clone(),
                certificate: self.bus_cert.clone(),
                key: self.bus_key.clone(),
            },
            client_name: Some(String::from("lockgate")),
            inbox_prefix: self.nats_inbox_prefix.clone(),
            jetstream: domain.or_else(|| self.nats_api_prefix.clone().map(JetStream::ApiPrefix)),
        })
    }
}

impl Connection {
    /// The brokers of a `kafka://` bus, as a file of routes names them.
    pub(super) fn kafka(&self, url: &str) -> KafkaCluster {
        KafkaCluster {
            brokers: url.trim_start_matches("kafka://").to_owned(),
            user: self.bus_user.clone(),
            password_file: self.bus_password_file.clone(),
            sasl: match self.kafka_sasl {
                SaslName::Plain => bridges::SaslName::Plain,
                SaslName::ScramSha256 => bridges::SaslName::ScramSha256,
                SaslName::ScramSha512 => bridges::SaslName::ScramSha512,
            },
            tls: self.bus_tls,
            ca: self.bus_ca.clone(),
            cert: self.bus_cert.clone(),
            key: self.bus_key.clone(),
        }
    }
}

/// The first line of a file that holds a secret and nothing else.
fn secret(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    match text.lines().next().map(str::trim_end) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(Failure::usage(format!("{} holds no secret: it is empty", path.display()))),
    }
}
