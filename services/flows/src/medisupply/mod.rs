//! MediSupply: orders are taken at once and validated later by a service that may be slow, failing
//! or down, and every order reaches its end all the same.
//!
//! ```text
//! client ── gateway ── order service ──► jobs ──► validation worker ──► external service
//!                          │                        │    ▲ breaker
//!                          └──► orders (KV) ◄───────┘    └─ parked: taken up after recovery
//! monitor: probes all of them, and says HEALTHY, DEGRADED, UNHEALTHY or DOWN
//! ```
//!
//! An order is `Processing` until it is `Validated`, `Rejected` or `Failed`, and changes once, by
//! compare-and-set. `Failed` is a permanent refusal. Where the external service could not be asked,
//! the order is parked and stays `Processing`: it is taken up when the service has recovered.

pub mod experiment;
mod external;
mod figures;
mod gateway;
mod http;
mod monitor;
mod order;
mod orders;
mod resume;
mod settings;
mod store;
mod validation;

use bus::Bus;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::net::IpAddr;
use tokio_util::sync::CancellationToken;

pub use external::{Fault, Mode};
pub use monitor::{BacklogStatus, Change, Health, HealthStatus, ServiceStatus};
pub use order::{NewOrder, Order, Status};
pub(crate) use settings::SETTINGS;
pub use settings::Settings;

use crate::flow::{Context, Failure, Flow, Role};
use crate::http::Server;
use crate::settings::Setting;
use figures::Figures;

/// The flow, on the ports of its settings.
pub const FLOW: Flow = Flow {
    name: "medisupply",
    about: "Orders that survive a validation service which is slow, failing or down",
    roles: &[
        Role {
            name: "external",
            about: "the validation service of somebody else, which fails on request",
            run: |context| run(context, external::run),
        },
        Role {
            name: "orders",
            about: "takes orders and queues them",
            run: |context| run(context, orders::run),
        },
        Role {
            name: "validation",
            about: "asks the external service about each order, behind a circuit breaker",
            run: |context| run(context, validation::run),
        },
        Role {
            name: "monitor",
            about: "probes the others and says how they are",
            run: |context| run(context, monitor::run),
        },
        Role {
            name: "gateway",
            about: "the one door for clients",
            run: |context| run(context, gateway::run),
        },
    ],
    prepare: |context| {
        async move { store::prepare(&Site::of(context)?).await.map_err(Failure::from) }.boxed()
    },
};

/// What a role of this flow is given.
#[derive(Clone)]
struct Site {
    bus: Bus,
    state: Bus,
    listen: IpAddr,
    shutdown: CancellationToken,
    settings: Settings,
    /// Whom its roles tell where they listen; nobody, in an experiment.
    told: Option<Context>,
}

impl Site {
    fn of(context: Context) -> Result<Self, Failure> {
        let mut settings = Settings::of(&context.settings)?;
        if ["orders", "validation"].iter().any(|role| context.runs(role)) {
            settings.figures = Figures::of(&context.counters);
        }
        let told = Some(context.clone());
        let Context { bus, state, listen, shutdown, .. } = context;
        Ok(Self { bus, state, listen, shutdown, settings, told })
    }

    /// A role's server, and where it listens told.
    async fn serve_at(&self, role: &str, port: u16, setting: &Setting) -> Result<Server, Failure> {
        let server = Server::bind(self.listen, port, setting).await?;
        if let Some(context) = &self.told {
            context.listens(role, &server)?;
        }
        Ok(server)
    }
}

fn run<F>(context: Context, role: fn(Site) -> F) -> BoxFuture<'static, Result<(), Failure>>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    async move { role(Site::of(context)?).await }.boxed()
}
