//! A whole Lockgate in one thread, its time virtual and its chances drawn from a seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bus::Bus;
use bus::embedded::Embedded;
use bus::fault::{CrashSide, FaultRates, Faults};
use bytes::Bytes;
use futures_util::StreamExt;
use lockgate::http::Access;
use lockgate::platform::{Clock, Entropy, Platform};
use lockgate::roles::{Role, Roles};
use lockgate::store::{Store, StoreOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::wire::Wire;

const RESTART: Duration = Duration::from_millis(300);

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) rates: FaultRates,
    /// Crash this role at this operation of its first life.
    pub(crate) crash: Option<(Role, u64, CrashSide)>,
    /// Per mille chance that a role's next life ends in a crash too, at a random operation.
    pub(crate) crash_again: u64,
}

impl Plan {
    /// Nothing goes wrong.
    pub(crate) fn calm(seed: u64) -> Self {
        Self { seed, rates: FaultRates::NONE, crash: None, crash_again: 0 }
    }
}

/// Five roles on one embedded bus, each a process of its own as far as faults are concerned.
pub(crate) struct World {
    pub(crate) bus: Bus,
    clock: Clock,
    plan: Plan,
    calm: CancellationToken,
    alive: Mutex<BTreeMap<Role, Alive>>,
    operations: Mutex<BTreeMap<Role, u64>>,
    trace: Mutex<Vec<String>>,
}

#[derive(Clone)]
struct Alive {
    router: Router,
    faults: Faults,
}

impl World {
    /// Starts every role; the tasks end when `stop` is cancelled.
    pub(crate) async fn start(plan: Plan, stop: &CancellationToken) -> (Arc<Self>, JoinSet<()>) {
        // One clock for the bus and all roles, the same in every run.
        let noon = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let world = Arc::new(Self {
            bus: Bus::with_driver(Arc::new(Embedded::starting_at(noon))),
            clock: Clock::starting_at(noon),
            plan,
            calm: CancellationToken::new(),
            alive: Mutex::default(),
            operations: Mutex::default(),
            trace: Mutex::default(),
        });
        let mut keepers = JoinSet::new();
        for role in Role::ALL {
            keepers.spawn(world.clone().keep(role, stop.clone()));
        }
        (world, keepers)
    }

    /// No more faults from now on.
    pub(crate) fn heal(&self) {
        self.calm.cancel();
        for alive in self.alive.lock().expect("alive").values() {
            alive.faults.set_rates(FaultRates::NONE);
        }
    }

    /// How many operations each role's lives have begun so far.
    pub(crate) fn operations(&self) -> BTreeMap<Role, u64> {
        let mut operations = self.operations.lock().expect("operations").clone();
        for (role, alive) in self.alive.lock().expect("alive").iter() {
            *operations.entry(*role).or_default() += alive.faults.operations();
        }
        operations
    }

    /// Everything every role did, for two runs to be compared by.
    pub(crate) fn trace(&self) -> Vec<String> {
        let mut trace = self.trace.lock().expect("trace").clone();
        for (role, alive) in self.alive.lock().expect("alive").iter() {
            trace.extend(alive.faults.trace().into_iter().map(|line| format!("{role} {line}")));
        }
        trace
    }

    /// Lives a role's lives, one after the other.
    async fn keep(self: Arc<Self>, role: Role, stop: CancellationToken) {
        for life in 0u64.. {
            let faults = self.faults(role, life);
            let crashed = faults.crashed();
            let lived = tokio::select! { biased;
                () = crashed.cancelled() => false,
                () = self.live(role, life, &faults, &stop) => true,
            };
            self.alive.lock().expect("alive").remove(&role);
            *self.operations.lock().expect("operations").entry(role).or_default() +=
                faults.operations();
            let lines = faults.trace().into_iter().map(|line| format!("{role} {life} {line}"));
            self.trace.lock().expect("trace").extend(lines);
            if lived && stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(RESTART).await;
        }
    }

    /// One life: open the store, start the role, serve until told to stop.
    async fn live(&self, role: Role, life: u64, faults: &Faults, stop: &CancellationToken) {
        let platform = Platform {
            bus: faults.wrap(&self.bus),
            clock: self.clock,
            entropy: Entropy::seeded(self.mix(role, life)),
        };
        let Ok(store) = Store::open(platform, StoreOptions::default()).await else { return };
        let Ok(roles) = Roles::start(&store, &[role], &Access::open(), stop).await else { return };
        let alive = Alive { router: roles.router(), faults: faults.clone() };
        self.alive.lock().expect("alive").insert(role, alive);
        if let Err(error) = roles.join().await {
            // It ends as its process would, and is started again.
            assert!(error.is_retryable(), "{role} ended: {error:?}");
        }
    }

    fn faults(&self, role: Role, life: u64) -> Faults {
        let calm = self.calm.is_cancelled();
        let rates = if calm { FaultRates::NONE } else { self.plan.rates };
        let faults = Faults::new(self.mix(role, life)).with_rates(rates);
        faults.record(20_000);
        match self.plan.crash {
            Some((crashing, operation, side)) if crashing == role && life == 0 => {
                faults.crash_at(operation, side);
            }
            _ if calm => {}
            _ => {
                let dice = super::clients::Dice::new(self.mix(role, life) ^ 1);
                if dice.roll(1000) < self.plan.crash_again {
                    let side = if dice.roll(2) == 0 { CrashSide::Before } else { CrashSide::After };
                    faults.crash_at(1 + dice.roll(120), side);
                }
            }
        }
        faults
    }

    fn mix(&self, role: Role, life: u64) -> u64 {
        self.plan.seed.wrapping_mul(1009).wrapping_add(life * 31 + role as u64 * 7 + 1)
    }
}

#[async_trait]
impl Wire for World {
    async fn send(&self, role: Role, request: Request<Bytes>) -> Option<Response<Body>> {
        let alive = self.alive.lock().expect("alive").get(&role).cloned()?;
        let crashed = alive.faults.crashed();
        let response = tokio::select! { biased;
            () = crashed.cancelled() => return None,
            response = alive.router.oneshot(request.map(Body::from)) => response.ok()?,
        };
        // A body breaks off when its process dies.
        let (parts, body) = response.into_parts();
        let body = body.into_data_stream().take_until(crashed.cancelled_owned());
        Some(Response::from_parts(parts, Body::from_stream(body)))
    }
}
