//! What a connection needs beside the URL.

use std::fmt;
use std::path::PathBuf;

/// What a connection needs beside the URL: who is there, how the wire is protected, and where in
/// an account things are. A backend refuses what it has no use for
/// ([`crate::ErrorKind::Invalid`]); secrets are in files or in memory, never in URLs, and `Debug`
/// shows none.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::Error> {
/// use bus::{Bus, ConnectOptions};
///
/// let options = ConnectOptions { client_name: Some("billing".into()), ..Default::default() };
/// let bus = Bus::connect_with("embedded:", options).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ConnectOptions {
    /// NATS: a credentials file (`.creds`), which holds a JWT and the seed that signs for it.
    pub credentials: Option<PathBuf>,
    /// NATS: a file with the seed of an nkey (`SU...`).
    pub nkey_seed: Option<PathBuf>,
    /// NATS: a token.
    pub token: Option<String>,
    /// A user and password: of NATS, or for SASL of Kafka.
    pub user: Option<(String, String)>,
    /// Kafka: how `user` is proved.
    pub sasl: Sasl,
    /// How the wire is protected.
    pub tls: Tls,
    /// The name this connection shows in the server's monitoring.
    pub client_name: Option<String>,
    /// NATS: what reply subjects begin with, in place of `_INBOX`, for a user who may subscribe to
    /// no others.
    pub inbox_prefix: Option<String>,
    /// NATS: where the JetStream API is, if it is not the account's own.
    pub jetstream: Option<JetStream>,
}

impl ConnectOptions {
    /// The first of what is given that only a server could use.
    pub(crate) fn for_servers(&self) -> Option<&'static str> {
        let given = [
            (self.credentials.is_some(), "a credentials file"),
            (self.nkey_seed.is_some(), "an nkey seed"),
            (self.token.is_some(), "a token"),
            (self.user.is_some(), "a user"),
            (self.tls.is_wanted(), "TLS"),
            (self.inbox_prefix.is_some(), "an inbox prefix"),
            (self.jetstream.is_some(), "a place of JetStream"),
        ];
        given.into_iter().find_map(|(is_given, what)| is_given.then_some(what))
    }
}

/// TLS. With a root or a certificate the connection is never without TLS.
///
/// ```
/// use bus::{ConnectOptions, Tls};
///
/// let tls = Tls {
///     roots: Some("/etc/lockgate/ca.pem".into()),
///     certificate: Some("/etc/lockgate/client.pem".into()),
///     key: Some("/etc/lockgate/client-key.pem".into()),
///     ..Tls::default()
/// };
/// assert!(tls.is_wanted() && !ConnectOptions::default().tls.is_wanted());
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Connect with TLS only. Without it NATS uses TLS where the server asks for it, and Kafka none.
    pub required: bool,
    /// A PEM file with the authorities to trust; without it those of the system.
    pub roots: Option<PathBuf>,
    /// A PEM file with this client's certificate and those above it (mutual TLS).
    pub certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// True when the connection must have TLS.
    pub fn is_wanted(&self) -> bool {
        let Self { required, roots, certificate, key } = self;
        *required || [roots, certificate, key].iter().any(|file| file.is_some())
    }
}

/// How a user is proved to a Kafka broker (RFC 4616, RFC 5802, RFC 7677).
///
/// ```
/// use bus::{ConnectOptions, Sasl};
///
/// let user = Some((String::from("billing"), String::from("a password")));
/// let options = ConnectOptions { user, sasl: Sasl::ScramSha512, ..Default::default() };
/// assert_eq!(options.sasl.to_string(), "SCRAM-SHA-512");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Sasl {
    /// The password itself: over TLS only, unless the network is trusted.
    #[default]
    Plain,
    /// A proof with SHA-256.
    ScramSha256,
    /// A proof with SHA-512.
    ScramSha512,
}

/// As SASL names it.
impl fmt::Display for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        })
    }
}

/// Where the JetStream API of NATS is.
///
/// ```
/// use bus::{ConnectOptions, JetStream};
///
/// // Of a hub, seen from a leaf node; or as another account exports it.
/// let hub = JetStream::Domain(String::from("hub"));
/// let exported = JetStream::ApiPrefix(String::from("acc.JS.API"));
/// let options = ConnectOptions { jetstream: Some(hub), ..Default::default() };
/// # drop((exported, options));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum JetStream {
    /// In this domain: `$JS.<domain>.API`.
    Domain(String),
    /// Behind this prefix, in place of `$JS.API`.
    ApiPrefix(String),
}

/// Without secrets, so that none stands in a log.
impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { credentials, nkey_seed, token, user, sasl, tls, .. } = self;
        f.debug_struct("ConnectOptions")
            .field("credentials", credentials)
            .field("nkey_seed", nkey_seed)
            .field("token", &token.as_ref().map(|_| "<hidden>"))
            .field("user", &user.as_ref().map(|(name, _)| (name, "<hidden>")))
            .field("sasl", sasl)
            .field("tls", tls)
            .field("client_name", &self.client_name)
            .field("inbox_prefix", &self.inbox_prefix)
            .field("jetstream", &self.jetstream)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_stands_in_a_log() {
        let user = Some((String::from("anna"), String::from("open sesame")));
        let token = Some(String::from("sesame too"));
        let shown = format!("{:?}", ConnectOptions { user, token, ..Default::default() });
        assert!(shown.contains("anna") && !shown.contains("sesame"), "{shown}");
    }
}
