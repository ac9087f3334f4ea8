//! What a flow is: a name, roles, and what they are given.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::Arc;

use bus::Bus;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::counters::{Counter, Counters, Gauge};
use crate::http::Server;
use crate::settings::Settings;

/// What a role may fail with: it is printed for a person, with everything that caused it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A small system on the bus.
#[derive(Debug)]
pub struct Flow {
    /// As it is typed: `medicine`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Its parts, in the order in which they are started.
    pub roles: &'static [Role],
    /// Makes the streams and buckets that its roles stand on, where they are missing. It alters
    /// nothing that exists, so every process calls it first.
    pub prepare: fn(Context) -> BoxFuture<'static, Result<(), Failure>>,
}

/// A part of a flow that can run in a process of its own.
#[derive(Debug)]
pub struct Role {
    /// As it is typed: `patient`.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Runs until [`Context::shutdown`] is cancelled, and returns when its own work is settled. A
    /// one-shot returns when it is done.
    pub run: fn(Context) -> BoxFuture<'static, Result<(), Failure>>,
}

/// Takes what a role has to say: a line for a person, and the same for a script.
pub type Tell = Arc<dyn Fn(&str, &Value) + Send + Sync>;

/// The command that runs one role of this flow in a process of its own, on the same bus.
pub type Launch = Arc<dyn Fn(&str) -> Command + Send + Sync>;

/// What a role is given. Cloning is cheap.
#[derive(Clone)]
pub struct Context {
    /// Where the flow's messages are.
    pub bus: Bus,
    /// Whose key-value buckets keep the flow's state: the bus itself where it has compare-and-set.
    pub state: Bus,
    /// The address that roles with an HTTP side listen on, each at its own port.
    pub listen: IpAddr,
    /// Cancelled when the role has to end.
    pub shutdown: CancellationToken,
    /// What was set of the flow.
    pub settings: Settings,
    /// What its roles count.
    pub counters: Counters,
    /// The names of the roles that run in this process; [`crate::run()`] fills it in.
    pub roles: Arc<[&'static str]>,
    /// How a role is started in a process of its own; `None` where another process could not reach
    /// this bus.
    pub launch: Option<Launch>,
    /// What takes what its roles say; without it that goes to the log.
    pub tell: Option<Tell>,
}

impl Context {
    /// A context on these two, on the loopback address, with nothing set: what a role says goes to
    /// the log.
    pub fn new(bus: Bus, state: Bus) -> Self {
        Self {
            bus,
            state,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            shutdown: CancellationToken::new(),
            settings: Settings::default(),
            counters: Counters::default(),
            roles: Arc::default(),
            launch: None,
            tell: None,
        }
    }

    /// The counter of this name: what it counts is shown while the flow runs.
    pub fn counter(&self, name: &'static str) -> Counter {
        self.counters.counter(name)
    }

    /// The gauge of this name: what it stands at is shown while the flow runs.
    pub fn gauge(&self, name: &'static str) -> Gauge {
        self.counters.gauge(name)
    }

    /// Says something to whoever started the flow: `text` to a person, `record` to a script. For
    /// what happens seldom; what happens often is counted.
    pub fn tell(&self, text: &str, record: &Value) {
        match &self.tell {
            Some(tell) => tell(text, record),
            None => tracing::info!(%record, "{text}"),
        }
    }

    /// Says where a role listens, as `{"listening": "http://...", "role": "..."}`.
    pub(crate) fn listens(&self, role: &str, server: &Server) -> std::io::Result<()> {
        let url = format!("http://{}", server.addr()?);
        let record = serde_json::json!({ "listening": url, "role": role });
        self.tell(&format!("{role} listens at {url}"), &record);
        Ok(())
    }

    /// True when a role of this name runs in this process.
    pub fn runs(&self, role: &str) -> bool {
        self.roles.contains(&role)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("bus", &self.bus.backend())
            .field("state", &self.state.backend())
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}
