//! `lockgate` and `lockgate run`: roles in this process, until told to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus::Bus;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::failure::Failure;
use crate::http::{Access, Health, ListenOptions, Server, app};
use crate::limits::DRAIN;
use crate::model::{Executor, RealmList};
use crate::platform::Platform;
use crate::roles::{Role, Roles};
use crate::store::{Store, StoreOptions};

/// Where the roles run and who may use them.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeOptions {
    /// The bus: `embedded:` (in memory, nothing is kept), `embedded:///path` (kept in that folder)
    /// or `nats://host:port[,host:port...]`
    #[arg(long, env = "LOCKGATE_BUS", default_value = "embedded:", value_name = "URL")]
    pub(crate) bus: String,
    /// The address to listen on; any other than a loopback address needs tokens
    #[arg(long, env = "LOCKGATE_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub(crate) listen: SocketAddr,
    /// A file of admin tokens, one a line, each of 16 characters or more
    #[arg(long, env = "LOCKGATE_ADMIN_TOKENS", value_name = "FILE")]
    admin_tokens: Option<PathBuf>,
    /// A file of tokens that may publish and nothing else
    #[arg(long, env = "LOCKGATE_PUBLISH_TOKENS", value_name = "FILE")]
    publish_tokens: Option<PathBuf>,
    /// A further host name to answer for, without its port; may be repeated
    #[arg(long, env = "LOCKGATE_ALLOW_HOSTS", value_delimiter = ',', value_name = "HOST")]
    allow_host: Vec<String>,
    /// An origin whose pages may use the API, for example https://app.example.org; may be repeated
    #[arg(long, env = "LOCKGATE_ALLOW_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// The realms that the first event of one may make, as `a,b`, or `*` for any: a realm takes
    /// room on the bus, and a typo must not. Without it, any where `--listen` is a loopback address
    /// or the bus is embedded, and none otherwise; those that exist always take events
    #[arg(long, env = "LOCKGATE_REALMS", value_name = "REALMS")]
    realms: Option<RealmList>,
    /// Copies of every stream and bucket that this makes in a NATS cluster; what exists stays as it
    /// is (see `lockgate topology`), here and below
    #[arg(long, env = "LOCKGATE_REPLICAS", default_value_t = 1, value_name = "1|3|5",
          value_parser = PossibleValuesParser::new(["1", "3", "5"]).try_map(|copies| copies.parse::<u8>()))]
    replicas: u8,
    /// The most bytes a realm's log may hold; then publishing is refused, so that no history is
    /// lost in silence
    #[arg(long, env = "LOCKGATE_LOG_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(1 << 20..))]
    log_max_bytes: u64,
    /// The most bytes all prefill queues together may hold; then prefills fail
    #[arg(long, env = "LOCKGATE_PREFILL_MAX_BYTES", default_value_t = 1 << 30, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(1 << 20..))]
    prefill_max_bytes: u64,
    /// How long the rows of a complete prefill are kept; who begins with them later is prefilled
    /// again
    #[arg(long, env = "LOCKGATE_PREFILL_MAX_AGE", default_value = "7d", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    prefill_max_age: Duration,
    /// How long an event's id is remembered, so that a repeat is recognised
    #[arg(long, env = "LOCKGATE_DUPLICATE_WINDOW", default_value = "2m", value_name = "TIME",
          value_parser = humantime::parse_duration)]
    duplicate_window: Duration,
    /// Who carries out the prefills that are requested here: a process with the prefill role, or
    /// `lockgate-operator`, which makes a Kubernetes Job for each. Old rows are let go by the
    /// prefill role in either case
    #[arg(long, env = "LOCKGATE_PREFILL_EXECUTOR", default_value = "worker", value_name = "NAME",
          value_parser = PossibleValuesParser::new(["worker", "kubernetes"]).try_map(|name| name.parse::<Executor>()))]
    prefill_executor: Executor,
    /// The routes of the role bridge, as a TOML file (see `lockgate bridge`)
    #[arg(long, env = "LOCKGATE_BRIDGES", value_name = "FILE")]
    bridges: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

/// Roles of this process, listening.
pub(crate) struct Serving {
    server: Server,
    roles: Roles,
    store: Store,
    pub(crate) addr: SocketAddr,
    open: bool,
}

impl ServeOptions {
    /// On this bus, on a free port of this machine, with logs of at most `log_max_bytes` and
    /// everything else as it is by default.
    pub(crate) fn local(bus: String, log_max_bytes: u64) -> Self {
        let store = StoreOptions::default();
        Self {
            bus,
            bridges: None,
            connection: Connection::default(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin_tokens: None,
            publish_tokens: None,
            allow_host: Vec::new(),
            allow_origin: Vec::new(),
            realms: Some(RealmList::Any),
            replicas: store.replicas,
            log_max_bytes,
            prefill_max_bytes: store.prefill_max_bytes,
            prefill_max_age: store.prefill_max_age,
            duplicate_window: store.duplicate_window,
            prefill_executor: store.prefill_executor,
        }
    }

    /// Connects, starts the roles and listens; they stop when `stop` is cancelled.
    pub(crate) async fn start(
        &self,
        roles: &[Role],
        stop: &CancellationToken,
    ) -> Result<Serving, Failure> {
        let access = self.access()?;
        let bridges = super::bridge::routes_of(roles, self.bridges.as_deref())?;
        let listen = ListenOptions {
            addr: self.listen,
            access: access.clone(),
            allowed_hosts: self.allow_host.clone(),
            allowed_origins: self.allow_origin.clone(),
        };
        let server = Server::bind(&listen).await.map_err(|error| Failure::new(chain(&error)))?;
        let bus =
            Bus::connect_with(&self.bus, self.connection.options()?).await.map_err(|error| {
                let way_out =
                    "start a server: make nats-up      or use the embedded bus: --bus embedded:";
                match error.is_retryable() {
                    // A folder: the error says what to do about it.
                    true if self.bus.starts_with("embedded:") => {
                        Failure::unavailable(chain(&error))
                    }
                    true => Failure::unavailable(format!("{}\n  {way_out}", chain(&error))),
                    false => Failure::from(error),
                }
            })?;
        let (platform, options) = (Platform::new(bus), self.store_options());
        let store = match roles {
            // The one role that has nothing to do with subscriptions.
            [Role::Bridge] => Store::open_without_key(platform, options).await?,
            _ => Store::open(platform, options).await?,
        };
        let mut roles = Roles::start(&store, roles, &access, stop).await?;
        if let Some(bridges) = bridges {
            super::bridge::carry(&mut roles, &store, bridges)?;
        }
        Ok(Serving { addr: server.addr(), open: access.is_open(), server, roles, store })
    }

    fn access(&self) -> Result<Access, Failure> {
        let read = |file: &Option<PathBuf>| file.as_deref().map_or(Ok(Vec::new()), tokens);
        if self.publish_tokens.is_some() && self.admin_tokens.is_none() {
            let what = "with publish tokens alone nobody could register a subscription";
            return Err(Failure::usage(format!("{what}: give --admin-tokens as well")));
        }
        Access::new(&read(&self.admin_tokens)?, &read(&self.publish_tokens)?)
            .map_err(|invalid| Failure::usage(invalid.to_string()))
    }

    fn store_options(&self) -> StoreOptions {
        StoreOptions {
            dead_letters_max_bytes: StoreOptions::default().dead_letters_max_bytes,
            replicas: self.replicas,
            log_max_bytes: self.log_max_bytes,
            prefill_max_bytes: self.prefill_max_bytes,
            prefill_max_age: self.prefill_max_age,
            duplicate_window: self.duplicate_window,
            realms: self.realms(),
            prefill_executor: self.prefill_executor,
        }
    }

    fn realms(&self) -> RealmList {
        let alone = self.bus.starts_with("embedded:") || self.listen.ip().is_loopback();
        let by_default = || if alone { RealmList::Any } else { RealmList::none() };
        self.realms.clone().unwrap_or_else(by_default)
    }
}

impl Serving {
    /// What the roles work on.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Warns of each setting that what is on the bus does not have.
    pub(crate) async fn warn_of_drift(&self) {
        match self.store.drift().await {
            Ok(found) => found.iter().for_each(|drift| tracing::warn!("{drift}")),
            Err(error) => tracing::warn!(%error, "streams and buckets were not looked through"),
        }
    }

    /// As [`Serving::serve`], and closes the bus.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Failure> {
        let store = self.store.clone();
        let ended = self.serve(stop).await;
        close(&store).await;
        ended
    }

    /// Serves until `stop` is cancelled, or until a role ends by itself, which is a failure and
    /// cancels `stop`. Returns when requests have finished and what was on its way to the bus has
    /// arrived, after ten seconds at the latest.
    pub(crate) async fn serve(self, stop: CancellationToken) -> Result<(), Failure> {
        let Self { server, roles, store, .. } = self;
        let health = Health::new(store, stop.clone());
        let app = app(roles.router(), server.guard(), health);
        let work = async {
            let roles = async {
                let ended = roles.join().await;
                stop.cancel();
                ended
            };
            let ((), ended) = tokio::join!(server.serve(app, stop.clone()), roles);
            ended
        };
        let drained = async {
            stop.cancelled().await;
            tracing::info!("stopping: what is at work has {} s to finish", DRAIN.as_secs());
            tokio::time::sleep(DRAIN).await;
        };
        let ended = tokio::select! { biased;
            ended = work => ended,
            () = drained => {
                tracing::warn!("not drained within {} s, what is left comes again", DRAIN.as_secs());
                return Ok(());
            }
        };
        Ok(ended?)
    }

    /// What a person reads at the start.
    pub(crate) fn banner(&self, options: &ServeOptions, roles: &[Role]) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let (bus, addr) = (&options.bus, self.addr);
        let kept = if bus == "embedded:" { " (memory, nothing is kept)" } else { "" };
        let ready: Vec<String> = roles.iter().map(|role| format!("{role} ready")).collect();
        let mut text = format!("Lockgate {version} · bus {bus}{kept} · http://{addr}\n");
        text.push_str(&format!("  {}\n", ready.join(" · ")));
        text.push_str(match self.open {
            true => "  no tokens: open to this machine alone, Host and Origin are checked\n",
            false => "  tokens are asked for: authorization: Bearer TOKEN\n",
        });
        if roles.contains(&Role::Events) && options.realms() != RealmList::Any {
            let realms = options.realms();
            text.push_str(&format!("  realms that events may make: {realms} (--realms)\n"));
        }
        if self.open && roles == Role::ALL {
            text.push_str(&format!(
                "  try   curl -s {addr}/v1/subscriptions -H 'content-type: application/json' \
                 -d '{{\"name\":\"me\",\"topics\":[\"demo.*\"],\"prefill\":true}}'\n        \
                 lockgate demo          prefill to live before your eyes, verified\n        \
                 lockgate --help\n"
            ));
        }
        text
    }
}

/// Lets go of the bus, within a second.
pub(crate) async fn close(store: &Store) {
    match tokio::time::timeout(Duration::from_secs(1), store.bus().close()).await {
        Ok(Err(error)) => tracing::warn!(%error, "the bus was not closed in order"),
        Ok(Ok(())) => {}
        Err(_) => tracing::warn!("the bus did not close within 1 s"),
    }
}

fn tokens(file: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::usage(format!("token file {} cannot be read: {error}", file.display()))
    })?;
    // Some systems begin a file of text with a byte order mark.
    let text = text.trim_start_matches('\u{FEFF}');
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: Vec<String> = lines.map(String::from).collect();
    if tokens.is_empty() {
        let file = file.display();
        return Err(Failure::usage(format!("token file {file} is empty: write one token a line")));
    }
    Ok(tokens)
}

/// An error with everything that caused it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(&format!(": {cause_text}"));
        }
        source = cause.source();
    }
    text
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        match error.is_retryable() {
            true => Self::unavailable(chain(&error)),
            false => Self::new(chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::Realm;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeOptions,
    }

    #[test]
    fn events_may_make_any_realm_by_default_on_a_bus_or_a_machine_of_ones_own() {
        let realms = |args: &[&str]| {
            let line = Line::try_parse_from([&["lockgate"], args].concat());
            line.map(|line| line.serve.realms()).map_err(|error| error.to_string())
        };
        let (nats, network) = (["--bus", "nats://nats:4222"], ["--listen", "0.0.0.0:8080"]);
        assert_eq!(realms(&nats), Ok(RealmList::Any));
        assert_eq!(realms(&network), Ok(RealmList::Any));
        let shared = [nats, network].concat();
        assert_eq!(realms(&shared), Ok(RealmList::none()));
        assert_eq!(realms(&[&shared[..], &["--realms", "*"]].concat()), Ok(RealmList::Any));
        let orders = RealmList::Only([Realm::new("orders").unwrap()].into());
        assert_eq!(realms(&["--realms", "orders"]), Ok(orders));
        assert!(realms(&["--realms", "Orders"]).unwrap_err().contains("a-z 0-9 _ -"));
    }
}
