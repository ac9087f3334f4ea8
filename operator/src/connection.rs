//! How the operator reaches the bus: the options and variables of the other roles.

use std::fs;
use std::path::PathBuf;

use bus::{ConnectOptions, Tls};
use clap::Args;

/// Secrets are in files: on a command line everybody on the machine could read them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connecting to the bus")]
pub(crate) struct Connection {
    /// The bus that Lockgate's roles are on
    #[arg(long, env = "LOCKGATE_BUS", value_name = "URL")]
    bus: String,
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

impl Connection {
    /// The URL, and what the files hold.
    pub(crate) fn options(&self) -> Result<(&str, ConnectOptions), String> {
        if self.bus.starts_with("embedded:") {
            return Err(String::from(
                "--bus embedded: is inside another process: give the NATS server that the roles use",
            ));
        }
        let token = match &self.nats_token_file {
            None => None,
            Some(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
                let line = text.lines().next().map(str::trim_end).filter(|line| !line.is_empty());
                let empty = || format!("{} holds no secret: it is empty", path.display());
                Some(line.ok_or_else(empty)?.to_owned())
            }
        };
        let options = ConnectOptions {
            credentials: self.nats_credentials.clone(),
            nkey_seed: self.nats_nkey_seed.clone(),
            token,
            tls: Tls {
                required: self.bus_tls,
                roots: self.bus_ca.clone(),
                certificate: self.bus_cert.clone(),
                key: self.bus_key.clone(),
            },
            client_name: Some(String::from("lockgate-operator")),
            inbox_prefix: self.nats_inbox_prefix.clone(),
            ..ConnectOptions::default()
        };
        Ok((&self.bus, options))
    }
}
