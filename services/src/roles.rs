//! The roles of this process: started together, watched, joined.

use std::fmt;

use axum::Router;
use clap::ValueEnum;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::events::{self, Ingest};
use crate::http::{Access, metrics_router};
use crate::messages::{self, Messages, MessagesOptions};
use crate::registration::{self, Registration};
use crate::store::Store;
use crate::{dispatcher, prefill};

/// A part of Lockgate that can run in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Registers subscriptions and writes their records (HTTP).
    Registration,
    /// Takes events in (HTTP).
    Events,
    /// Serves subscriptions (HTTP).
    Messages,
    /// Mends the difference between the records and the queues.
    Dispatcher,
    /// Fills prefill queues.
    Prefill,
    /// Carries Kafka topics into logs and back, by the routes of a file (--bridges).
    Bridge,
}

impl Role {
    /// Every role that needs nothing but a bus, in the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::Registration, Self::Events, Self::Messages, Self::Dispatcher, Self::Prefill];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registration => "registration",
            Self::Events => "events",
            Self::Messages => "messages",
            Self::Dispatcher => "dispatcher",
            Self::Prefill => "prefill",
            Self::Bridge => "bridge",
        })
    }
}

/// Roles at work in this process.
pub struct Roles {
    /// Who is at work, and how that ended.
    tasks: JoinSet<(String, Result<(), bus::Error>)>,
    stop: CancellationToken,
    router: Router,
}

impl Roles {
    /// Starts the roles. They stop when `shutdown` is cancelled, or the bus fails for good.
    pub async fn start(
        store: &Store,
        roles: &[Role],
        access: &Access,
        shutdown: &CancellationToken,
    ) -> Result<Self, bus::Error> {
        let stop = shutdown.child_token();
        let router = metrics_router(store.platform.metrics.clone(), access.clone());
        let mut running = Self { tasks: JoinSet::new(), stop, router };
        for role in roles {
            running.add(*role, store, access).await?;
        }
        running.watch(store.bus().clone());
        Ok(running)
    }

    /// Adds work that ends when it is told to, as roles do.
    pub fn also<W>(&mut self, role: Role, work: impl FnOnce(CancellationToken) -> W)
    where
        W: Future<Output = Result<(), bus::Error>> + Send + 'static,
    {
        self.spawn(role, work(self.stop.clone()));
    }

    /// The HTTP side of the roles that have one.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Waits until every role has ended. The first that ends without having been told to stops
    /// the others, and its reason is returned.
    pub async fn join(mut self) -> Result<(), bus::Error> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let told = self.stop.is_cancelled();
            let failed = match ended {
                Ok((_, Ok(()))) if told => continue,
                Ok((who, Ok(()))) => ended_early(&who, "without a reason"),
                Ok((who, Err(error))) => error.context(format!("{who} ended")),
                Err(panicked) => ended_early("a role of this process", &panicked.to_string()),
            };
            self.stop.cancel();
            outcome = outcome.and(Err(failed));
        }
        // A role that only answers requests has no task: it ends when it is told to.
        self.stop.cancelled().await;
        outcome
    }

    async fn add(&mut self, role: Role, store: &Store, access: &Access) -> Result<(), bus::Error> {
        let (store, stop) = (store.clone(), self.stop.clone());
        match role {
            Role::Registration => {
                let registration = Registration::new(store);
                self.serve(registration::router(registration.clone(), access.clone()));
                self.spawn(role, registration::run(registration, stop));
            }
            Role::Events => {
                self.serve(events::router(Ingest::new(store), access.clone()));
            }
            Role::Messages => {
                let messages =
                    Messages::start(store, MessagesOptions::default(), stop.clone()).await?;
                self.serve(messages::router(messages.clone()));
                self.serve(messages::topics_router(messages.clone(), access.clone()));
                self.spawn(role, async move {
                    stop.cancelled().await;
                    messages.join().await;
                    Ok(())
                });
            }
            Role::Dispatcher => self.spawn(role, dispatcher::run(store, stop)),
            Role::Prefill => self.spawn(role, prefill::run(store, stop)),
            // Its routes are known to whoever started this: see [`Roles::also`].
            Role::Bridge => {}
        }
        Ok(())
    }

    /// A bus that failed for good ends the process: nothing works on it any more.
    fn watch(&mut self, bus: bus::Bus) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let failed = tokio::select! { biased;
                () = stop.cancelled() => Ok(()),
                failure = bus.failed() => Err(failure),
            };
            (String::from("the bus"), failed)
        });
    }

    fn serve(&mut self, router: Router) {
        self.router = std::mem::take(&mut self.router).merge(router);
    }

    fn spawn(
        &mut self,
        role: Role,
        work: impl Future<Output = Result<(), bus::Error>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (format!("role {role}"), work.await) });
    }
}

fn ended_early(who: &str, why: &str) -> bus::Error {
    bus::Error::new(bus::ErrorKind::Backend, format!("{who} ended early: {why}"))
}
