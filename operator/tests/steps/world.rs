//! A bus with prefills to be done, the fake cluster, and operators that come and go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus::middleware::{Handling, Middleware, Work};
use bus::{Bus, Outcome, Start, SubjectFilter, Topology};
use lockgate_model::{Executor, Incarnation, Report, SubscriptionName, Task, names as bus_names};
use lockgate_operator::{Cluster, Config, Operator, names};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, NAMESPACE};

pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) fake: Fake,
    pub(crate) config: Config,
    kills: SettleKills,
}

/// Kills the operator when it is about to settle its n-th task.
#[derive(Clone, Default)]
struct SettleKills {
    fake: Fake,
    at: Arc<Mutex<Option<usize>>>,
    count: Arc<AtomicUsize>,
}

impl Middleware for SettleKills {
    fn handle(&self, _work: &Arc<Work>, next: Handling) -> Handling {
        let kills = self.clone();
        Box::pin(async move {
            let how = next.await;
            if matches!(how, Ok(Outcome::Ack)) {
                let number = kills.count.fetch_add(1, Ordering::Relaxed);
                if *kills.at.lock().unwrap() == Some(number) {
                    return kills.fake.kill().await;
                }
            }
            how
        })
    }
}

pub(crate) const CONFIG: &str = "[prefill]\nat_once = 2\n\
    pod.containers = [{ name = 'prefill', image = 'lockgate' }]\n";

impl World {
    pub(crate) async fn new(config: &str) -> Self {
        let fake = Fake::default();
        let kills = SettleKills { fake: fake.clone(), ..SettleKills::default() };
        let bus = Bus::connect("embedded:").await.unwrap().with_middleware(kills.clone());
        let topology = concat!(env!("CARGO_MANIFEST_DIR"), "/../nats/topology.toml");
        bus.ensure_topology(&Topology::read(topology).unwrap()).await.unwrap();
        Self { bus, fake, config: Config::parse(config).unwrap(), kills }
    }

    /// A subscription that waits for its prefill, and the task for it. The name of its Job.
    pub(crate) async fn ask(&self, name: &str) -> String {
        let of = of(name);
        let record = json!({"name": name, "uid": of.uid, "generation": 1, "topics": ["people.*"],
            "prefill": {"status": "pending"}, "fence": {}, "ack_wait_ms": 30000, "created_ms": 1,
            "secret_hash": ""});
        let records = self.bus.kv(bus_names::SUBSCRIPTIONS_BUCKET).await.unwrap();
        records.put(name, record.to_string()).await.unwrap();
        self.request(&of).await;
        names::prefill_job(&of)
    }

    pub(crate) async fn request(&self, of: &Incarnation) {
        let tasks = self.bus.stream(bus_names::TASKS_STREAM).await.unwrap();
        let task = Task { of: of.clone() }.message(Executor::Kubernetes).unwrap();
        tasks.publish(task).await.unwrap();
    }

    pub(crate) fn kill_at_settle(&self, number: Option<usize>) {
        *self.kills.at.lock().unwrap() = number;
    }

    /// Runs an operator until `done`, or until it is killed: false then.
    pub(crate) async fn operate(&self, done: impl AsyncFn() -> bool) -> bool {
        let killed = CancellationToken::new();
        *self.fake.killed.lock().unwrap() = killed.clone();
        let cluster = Cluster::new(self.fake.client(), NAMESPACE, Some(String::from("test")));
        let operator = Operator::new(cluster, self.bus.clone(), self.config.clone());
        let stop = CancellationToken::new();
        let watching = async {
            while !done().await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            stop.cancel();
            std::future::pending::<()>().await;
        };
        let deadline = tokio::time::sleep(Duration::from_secs(3600));
        tokio::select! { biased;
            () = killed.cancelled() => false,
            ended = operator.run(stop.clone()) => {
                ended.unwrap();
                true
            }
            () = watching => unreachable!(),
            () = deadline => panic!("not done within an hour: {:?}", self.fake.with(|c| c.calls.clone())),
        }
    }

    /// As [`World::operate`], with a new operator for each that is killed, until no task is left.
    pub(crate) async fn operate_until_settled(&self) {
        while !self.operate(|| self.is_settled()).await {}
    }

    pub(crate) async fn is_settled(&self) -> bool {
        match self.bus.consumer_info(bus_names::TASKS_STREAM, "operator").await {
            Ok(info) => info.pending == 0 && info.unsettled == 0,
            Err(_) => false,
        }
    }

    /// What was reported, by subscription. Each prefill once.
    pub(crate) async fn reports(&self) -> BTreeMap<String, String> {
        let tasks = self.bus.stream(bus_names::TASKS_STREAM).await.unwrap();
        let filter = SubjectFilter::new(bus_names::REPORT_SUBJECT).unwrap();
        let mut reader = tasks.reader(&[filter], Start::Beginning).await.unwrap();
        let mut reports = BTreeMap::new();
        for message in reader.next(1000, Duration::from_millis(100)).await.unwrap() {
            let report: Report = serde_json::from_slice(&message.payload.unwrap()).unwrap();
            let before = reports.insert(report.of().name.to_string(), report.news());
            assert_eq!(before, None, "reported twice");
        }
        reports
    }
}

pub(crate) fn of(name: &str) -> Incarnation {
    let name = SubscriptionName::new(name).unwrap();
    Incarnation { name, uid: String::from("00ff00ff00ff00ff"), generation: 1 }
}
