//! A whole Lockgate in one thread, its time virtual and its chances drawn from a seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bus::embedded::Embedded;
use bus::fault::{CrashSide, FaultRates, Faults};
use bus::{Bus, Message, StoredMessage};
use bytes::Bytes;
use futures_util::StreamExt;
use lockgate::http::Access;
use lockgate::metrics::Metrics;
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
    /// Every life of a process has a wall clock that is up to a day off.
    pub(crate) clocks_are_off: bool,
    /// After this many milliseconds a log is put back as it was at an earlier time.
    pub(crate) restore: Option<u64>,
}

impl Plan {
    /// Nothing goes wrong.
    pub(crate) fn calm(seed: u64) -> Self {
        let (crash, crash_again, clocks_are_off, restore) = (None, 0, false, None);
        Self { seed, rates: FaultRates::NONE, crash, crash_again, clocks_are_off, restore }
    }
}

/// Five roles on one embedded bus, each a process of its own as far as faults are concerned, and the
/// messages role twice.
pub(crate) struct World {
    pub(crate) bus: Bus,
    clock: Clock,
    plan: Plan,
    calm: CancellationToken,
    alive: Mutex<BTreeMap<Process, Alive>>,
    operations: Mutex<BTreeMap<Process, u64>>,
    trace: Mutex<Vec<String>>,
    requests: AtomicU64,
}

/// A role, and which of its replicas.
type Process = (Role, u64);

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
            requests: AtomicU64::new(plan.seed),
        });
        let mut keepers = JoinSet::new();
        for role in Role::ALL {
            keepers.spawn(world.clone().keep((role, 0), stop.clone()));
        }
        keepers.spawn(world.clone().keep((Role::Messages, 1), stop.clone()));
        (world, keepers)
    }

    /// No more faults from now on.
    pub(crate) fn heal(&self) {
        self.calm.cancel();
        for alive in self.alive.lock().expect("alive").values() {
            alive.faults.set_rates(FaultRates::NONE);
        }
    }

    /// How many operations the lives of each role's first replica have begun so far.
    pub(crate) fn operations(&self) -> BTreeMap<Role, u64> {
        let mut operations = self.operations.lock().expect("operations").clone();
        for (process, alive) in self.alive.lock().expect("alive").iter() {
            *operations.entry(*process).or_default() += alive.faults.operations();
        }
        let first = operations.into_iter().filter(|((_, replica), _)| *replica == 0);
        first.map(|((role, _), operations)| (role, operations)).collect()
    }

    /// Everything every role did, for two runs to be compared by.
    pub(crate) fn trace(&self) -> Vec<String> {
        let mut trace = self.trace.lock().expect("trace").clone();
        for ((role, replica), alive) in self.alive.lock().expect("alive").iter() {
            let lines = alive.faults.trace().into_iter();
            trace.extend(lines.map(|line| format!("{role} {replica} {line}")));
        }
        trace
    }

    /// Lives a process' lives, one after the other.
    async fn keep(self: Arc<Self>, process: Process, stop: CancellationToken) {
        let (role, replica) = process;
        for life in 0u64.. {
            let faults = self.faults(process, life);
            let crashed = faults.crashed();
            let lived = tokio::select! { biased;
                () = crashed.cancelled() => false,
                () = self.live(process, life, &faults, &stop) => true,
            };
            self.alive.lock().expect("alive").remove(&process);
            *self.operations.lock().expect("operations").entry(process).or_default() +=
                faults.operations();
            let lines =
                faults.trace().into_iter().map(|line| format!("{role} {replica} {life} {line}"));
            self.trace.lock().expect("trace").extend(lines);
            if lived && stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(RESTART).await;
        }
    }

    /// One life: open the store, start the role, serve until told to stop.
    async fn live(&self, process: Process, life: u64, faults: &Faults, stop: &CancellationToken) {
        let (role, _) = process;
        let platform = Platform {
            bus: faults.wrap(&self.bus),
            clock: self.clock(process, life),
            entropy: Entropy::seeded(self.mix(process, life)),
            metrics: Metrics::default(),
        };
        let Ok(store) = Store::open(platform, StoreOptions::default()).await else { return };
        let Ok(roles) = Roles::start(&store, &[role], &Access::open(), stop).await else { return };
        let alive = Alive { router: roles.router(), faults: faults.clone() };
        self.alive.lock().expect("alive").insert(process, alive);
        if let Err(error) = roles.join().await {
            // It ends as its process would, and is started again.
            assert!(error.is_retryable(), "{role} ended: {error:?}");
        }
    }

    /// The machine's clock as this life of a process finds it.
    fn clock(&self, process: Process, life: u64) -> Clock {
        if !self.plan.clocks_are_off {
            return self.clock;
        }
        let dice = super::clients::Dice::new(self.mix(process, life) ^ 2);
        let (day, off) = (Duration::from_secs(86_400), Duration::from_secs(dice.roll(2 * 86_400)));
        Clock::starting_at(self.clock.now() - day + off)
    }

    /// Puts a log back from a backup of an earlier time: what came after it is gone, and others
    /// come under its sequences.
    pub(crate) async fn restore(&self, realm: &str, dice: &super::clients::Dice) {
        let name = format!("events-{realm}");
        let Ok(log) = self.bus.stream(&name).await else { return };
        let info = log.info().await.expect("log info");
        let keeps = dice.roll(info.last_sequence + 1);
        let mut backup = Vec::new();
        for sequence in 1..=keeps {
            let message = log.get(sequence).await.expect("log read").expect("nothing is removed");
            let StoredMessage { subject, key, headers, payload, .. } = message;
            let (id, expect, not_before) = (None, None, None);
            let rollup = false;
            backup.push(Message { subject, key, headers, payload, id, expect, not_before, rollup });
        }
        self.bus.delete_stream(&name).await.expect("the log is removed");
        // A publisher may have made it anew meanwhile.
        let made = self.bus.create_stream_if_missing(&info.config).await;
        let log = made.expect("the log is put back").handle;
        for message in backup {
            log.publish(message).await.expect("the backup is played");
        }
    }

    fn faults(&self, process: Process, life: u64) -> Faults {
        let calm = self.calm.is_cancelled();
        let rates = if calm { FaultRates::NONE } else { self.plan.rates };
        let faults = Faults::new(self.mix(process, life)).with_rates(rates);
        faults.record(20_000);
        match self.plan.crash {
            Some((crashing, operation, side)) if (crashing, 0) == process && life == 0 => {
                faults.crash_at(operation, side);
            }
            _ if calm => {}
            _ => {
                let dice = super::clients::Dice::new(self.mix(process, life) ^ 1);
                if dice.roll(1000) < self.plan.crash_again {
                    let side = if dice.roll(2) == 0 { CrashSide::Before } else { CrashSide::After };
                    faults.crash_at(1 + dice.roll(120), side);
                }
            }
        }
        faults
    }

    fn mix(&self, (role, replica): Process, life: u64) -> u64 {
        let process = role as u64 * 7 + replica * 1_000_003;
        self.plan.seed.wrapping_mul(1009).wrapping_add(life * 31 + process + 1)
    }
}

#[async_trait]
impl Wire for World {
    async fn send(&self, role: Role, request: Request<Bytes>) -> Option<Response<Body>> {
        // A client stays with a replica for a few requests, as one behind a proxy does.
        let replica = match role {
            Role::Messages => self.requests.fetch_add(1, Ordering::Relaxed) / 3 % 2,
            _ => 0,
        };
        let alive = self.alive.lock().expect("alive").get(&(role, replica)).cloned()?;
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
