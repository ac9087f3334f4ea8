//! From a URL and options to a connection that keeps itself alive.

use std::error::Error as StdError;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, Event, ServerAddr, rustls};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::options::{ConnectOptions, JetStream, Sasl, Tls};

/// How long the first connection may take, all servers and attempts together.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const CONNECT_RETRY: Duration = Duration::from_millis(200);
/// Between attempts to come back; jittered so that a restarted server is not stampeded.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_CAP: Duration = Duration::from_secs(2);
/// A dead peer is noticed after two unanswered pings.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How often the connection was established, and when last.
pub(super) type Established = (u64, Instant);

/// A connection, and a counter that grows each time it was established anew.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) connects: watch::Receiver<Established>,
    /// What the subjects of the JetStream API begin with.
    pub(super) api: String,
}

/// Connects to the first server of `url` that answers; from then on the client reconnects for as
/// long as it lives.
pub(super) async fn connect(url: &str, options: &ConnectOptions) -> Result<Connected> {
    let servers = parse_servers(url)?;
    let api = api_prefix(options)?;
    let (established, connects) = watch::channel((0, Instant::now()));
    let settings = settings(options, established).await?;
    let deadline = Instant::now() + CONNECT_LIMIT;
    let mut last = String::from("no answer");
    loop {
        let attempt = settings.clone().connect(&servers[..]);
        match tokio::time::timeout_at(deadline, attempt).await {
            Ok(Ok(client)) => return Ok(Connected { client, connects, api }),
            Ok(Err(error)) => match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    let refused = format!("{url} refused the credentials: check user and account");
                    return Err(Error::with_source(ErrorKind::Invalid, refused, error));
                }
                ConnectErrorKind::ServerParse | ConnectErrorKind::Tls => {
                    let what = format!("{url} cannot be connected to: {}", innermost(&error));
                    return Err(Error::with_source(ErrorKind::Invalid, what, error));
                }
                _ if is_of_certificates(&error) => {
                    let what = format!(
                        "{url} cannot be trusted: {}: check the roots and the name in its certificate",
                        innermost(&error)
                    );
                    return Err(Error::with_source(ErrorKind::Invalid, what, error));
                }
                _ => last = innermost(&error),
            },
            Err(_elapsed) => {}
        }
        if Instant::now() + CONNECT_RETRY >= deadline {
            let limit = CONNECT_LIMIT.as_secs();
            let what = format!("{url} did not answer within {limit} s: {last}");
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        tokio::time::sleep(CONNECT_RETRY).await;
    }
}

/// Splits `nats://a:4222,b:4222` into its servers; the client itself takes a list only.
fn parse_servers(url: &str) -> Result<Vec<ServerAddr>> {
    let (scheme, hosts) = url
        .split_once("://")
        .ok_or_else(|| Error::invalid(format!("{url:?} is not nats://host:port[,host:port...]")))?;
    hosts
        .split(',')
        .map(|part| {
            let part = part.rsplit_once("://").map_or(part, |(_, host)| host);
            let server: ServerAddr = format!("{scheme}://{part}").parse().map_err(|source| {
                let what = format!("{part:?} is not the address of a server: write host:port");
                Error::with_source(ErrorKind::Invalid, what, source)
            })?;
            if server.has_user_pass() {
                return Err(Error::invalid(
                    "credentials never stand in the URL: give a credentials file or a user",
                ));
            }
            Ok(server)
        })
        .collect()
}

async fn settings(
    options: &ConnectOptions,
    established: watch::Sender<Established>,
) -> Result<async_nats::ConnectOptions> {
    let jitter = RandomState::new();
    Ok(client_options(options)
        .await?
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempts| reconnect_delay(attempts, &jitter))
        .event_callback(move |event| {
            note(&event, &established);
            std::future::ready(())
        }))
}

/// The options of NATS' own client, by which [`crate::Bus::connect_with`] proves who is there and
/// protects the connection: for a program that asks a server something beside the bus. How the bus
/// comes back is not among them.
///
/// Reads the files that `options` name: one that is missing or holds something else is
/// [`ErrorKind::Invalid`] and named, and so are options that exclude each other.
pub async fn client_options(options: &ConnectOptions) -> Result<async_nats::ConnectOptions> {
    let mut settings = async_nats::ConnectOptions::new()
        .name(options.client_name.as_deref().unwrap_or("lockgate"))
        .connection_timeout(CONNECT_LIMIT);
    if let Some(prefix) = &options.inbox_prefix {
        let prefix = crate::name::Subject::new(prefix).map_err(|error| {
            error.context(format!("the inbox prefix {prefix:?} is no beginning of a subject"))
        })?;
        settings = settings.custom_inbox_prefix(prefix);
    }
    prove(protect(settings, &options.tls).await?, options).await
}

/// Who is there.
async fn prove(
    mut settings: async_nats::ConnectOptions,
    options: &ConnectOptions,
) -> Result<async_nats::ConnectOptions> {
    let ConnectOptions { credentials, nkey_seed, token, user, sasl, .. } = options;
    if *sasl != Sasl::Plain {
        return Err(Error::invalid(format!("NATS knows no {sasl}: that is Kafka's")));
    }
    let ways = [credentials.is_some(), nkey_seed.is_some(), token.is_some(), user.is_some()];
    if ways.iter().filter(|given| **given).count() > 1 {
        return Err(Error::invalid(
            "NATS takes one proof of who is there: a credentials file, an nkey seed, a token, or \
             a user and password",
        ));
    }
    if let Some(path) = credentials {
        let text = read_text(path, "credentials").await?;
        settings = settings.credentials(&text).map_err(|source| {
            let what = format!("{} holds no credentials of a user", path.display());
            Error::with_source(ErrorKind::Invalid, what, source)
        })?;
    }
    if let Some(path) = nkey_seed {
        let text = read_text(path, "nkey seed").await?;
        let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
        let none = || Error::invalid(format!("{} holds no seed of a user (SU...)", path.display()));
        settings = settings.nkey(seed.ok_or_else(none)?.to_owned());
    }
    if let Some(token) = token {
        settings = settings.token(token.clone());
    }
    if let Some((user, password)) = user {
        settings = settings.user_and_password(user.clone(), password.clone());
    }
    Ok(settings)
}

/// TLS. The files are read once here, so that one that is missing is told by name.
async fn protect(
    mut settings: async_nats::ConnectOptions,
    tls: &Tls,
) -> Result<async_nats::ConnectOptions> {
    let Tls { roots, certificate, key, .. } = tls;
    for (file, what) in [(roots, "roots"), (certificate, "certificate"), (key, "key")] {
        if let Some(path) = file {
            let text = read_text(path, what).await?;
            if !text.contains("-----BEGIN ") {
                return Err(Error::invalid(format!("{} is no PEM file", path.display())));
            }
        }
    }
    if let Some(roots) = roots {
        settings = settings.add_root_certificates(roots.clone());
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            settings = settings.add_client_certificate(certificate.clone(), key.clone());
        }
        (None, None) => {}
        _ => {
            return Err(Error::invalid(
                "a client certificate needs its key, and a key its certificate",
            ));
        }
    }
    Ok(settings.require_tls(tls.is_wanted()))
}

/// What the subjects of the JetStream API begin with: `$JS.API` unless `options` say otherwise.
pub fn api_prefix(options: &ConnectOptions) -> Result<String> {
    let prefix = match &options.jetstream {
        None => String::from("$JS.API"),
        Some(JetStream::Domain(domain)) => format!("$JS.{domain}.API"),
        Some(JetStream::ApiPrefix(prefix)) => prefix.trim_end_matches('.').to_owned(),
    };
    let what = || format!("{prefix:?} is no beginning of the JetStream API's subjects");
    crate::name::Subject::new(&prefix).map_err(|error| error.context(what()))?;
    Ok(prefix)
}

async fn read_text(path: &Path, what: &'static str) -> Result<String> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(owned)).await;
    let what = || format!("the {what} file {} cannot be read", path.display());
    match read {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(source)) => Err(Error::with_source(ErrorKind::Invalid, what(), source)),
        Err(source) => Err(Error::with_source(ErrorKind::Invalid, what(), source)),
    }
}

fn reconnect_delay(attempts: usize, jitter: &RandomState) -> Duration {
    // The first attempt is immediate: most often only the connection was cut.
    let Some(step) = attempts.checked_sub(1) else { return Duration::ZERO };
    let full = RECONNECT_FIRST.saturating_mul(1 << step.min(10)).min(RECONNECT_CAP);
    let per_mille = 500 + jitter.hash_one(attempts) % 500;
    full * u32::try_from(per_mille).unwrap_or(1000) / 1000
}

fn note(event: &Event, established: &watch::Sender<Established>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            established.send_modify(|(count, at)| (*count, *at) = (*count + 1, Instant::now()));
        }
        Event::Disconnected => tracing::warn!("the connection to NATS is gone, reconnecting"),
        // A denied permission shows nowhere else: the operation itself just times out.
        Event::ServerError(error) => tracing::error!(%error, "NATS reports an error"),
        Event::SlowConsumer(subscription) => tracing::error!(
            subscription,
            "messages were dropped in this process: they come again after the ack wait"
        ),
        // Each attempt to reconnect reports one; that the connection is gone was said.
        Event::ClientError(error) => tracing::debug!(%error, "the NATS client reports an error"),
        Event::LameDuckMode => tracing::warn!("the NATS server is shutting down, moving on"),
        Event::Draining | Event::Closed => {}
    }
}

/// True for a server whose certificate is refused: the next attempt would end in the same way.
fn is_of_certificates(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = within.and_then(|within| within.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The text at the bottom of the chain, where the operating system's words are.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    let text = deepest.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_servers_parse_and_share_the_scheme() {
        let servers = parse_servers("nats://a:4222,b:4333,nats://c:4444").unwrap();
        let hosts: Vec<_> = servers.iter().map(|s| (s.host().to_owned(), s.port())).collect();
        let expected = [("a", 4222), ("b", 4333), ("c", 4444)];
        assert_eq!(hosts, expected.map(|(host, port)| (host.to_owned(), port)));
    }

    #[test]
    fn credentials_in_the_url_are_refused_and_not_repeated() {
        let error = parse_servers("nats://anna:secret@a:4222").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn delays_grow_to_the_cap_and_never_to_nothing() {
        let jitter = RandomState::new();
        assert_eq!(reconnect_delay(0, &jitter), Duration::ZERO);
        for attempts in 1..1000 {
            let delay = reconnect_delay(attempts, &jitter);
            assert!(delay >= RECONNECT_FIRST / 2 && delay <= RECONNECT_CAP, "{delay:?}");
        }
    }
}
