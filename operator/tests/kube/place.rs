//! A namespace of its own for each scenario, with a bus, prefills to be done, and operators.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::{Bus, Start, SubjectFilter, Topology};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use lockgate_model::{Executor, Incarnation, Report, SubscriptionName, Task, names as bus_names};
use lockgate_operator::{Cluster, Config, Operator};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, LIMIT, apply};
use crate::kubelet::Kubelet;

const UID: &str = "00ff00ff00ff00ff";
const ROLE: &str = include_str!("../../../deploy/operator/role.yaml");

pub(crate) struct Place {
    pub(crate) admin: Client,
    /// With a token of the service account that the Role is bound to.
    pub(crate) operator_client: Client,
    pub(crate) namespace: String,
    pub(crate) bus: Bus,
    pub(crate) config: Config,
    pub(crate) kubelet: Kubelet,
    pub(crate) lease: Duration,
}

impl Place {
    pub(crate) async fn new(plane: &ControlPlane, namespace: &str) -> Self {
        let admin = plane.admin();
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let made = json!({"metadata": {"name": namespace, "labels": labels}});
        let made: Namespace = serde_json::from_value(made).unwrap();
        Api::all(admin.clone()).create(&PostParams::default(), &made).await.unwrap();
        apply(&admin, namespace, ROLE).await;
        let accounts = Api::<ServiceAccount>::namespaced(admin.clone(), namespace);
        // Pods are refused before the account that they run as is there.
        let began = Instant::now();
        while accounts.get_opt("default").await.unwrap().is_none() {
            assert!(began.elapsed() < LIMIT, "no default service account");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let asked = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() }),
            ..TokenRequest::default()
        };
        let post = PostParams::default();
        let asked = accounts.create_token_request("lockgate-operator", &post, &asked).await;
        let token = asked.unwrap().status.unwrap().token.unwrap();
        let bus = Bus::connect("embedded:").await.unwrap();
        let topology = concat!(env!("CARGO_MANIFEST_DIR"), "/../nats/topology.toml");
        bus.ensure_topology(&Topology::read(topology).unwrap()).await.unwrap();
        let config = Config::parse(
            "[prefill]\nat_once = 2\npod.containers = [{ name = 'prefill', image = 'lockgate' }]\n",
        );
        Self {
            kubelet: Kubelet::new(admin.clone(), namespace),
            operator_client: plane.client(&token),
            admin,
            namespace: namespace.to_owned(),
            bus,
            config: config.unwrap(),
            lease: Duration::from_secs(30),
        }
    }

    /// A subscription that waits for its prefill, and the task for it.
    pub(crate) async fn ask(&self, name: &str) {
        let record = json!({"name": name, "uid": UID, "generation": 1, "topics": ["people.*"],
            "prefill": {"status": "pending"}, "fence": {}, "ack_wait_ms": 30000, "created_ms": 1,
            "secret_hash": ""});
        let records = self.bus.kv(bus_names::SUBSCRIPTIONS_BUCKET).await.unwrap();
        records.put(name, record.to_string()).await.unwrap();
        self.request(name, None).await;
    }

    /// A task for its prefill; under an id of its own it is none that the stream knows.
    pub(crate) async fn request(&self, name: &str, id: Option<&str>) {
        let name = SubscriptionName::new(name).unwrap();
        let of = Incarnation { name, uid: String::from(UID), generation: 1 };
        let mut task = Task { of }.message(Executor::Kubernetes).unwrap();
        if let Some(id) = id {
            task = task.id(id);
        }
        let tasks = self.bus.stream(bus_names::TASKS_STREAM).await.unwrap();
        tasks.publish(task).await.unwrap();
    }

    fn operator(&self) -> Operator {
        let instance = Some(String::from("test"));
        let cluster = Cluster::new(self.operator_client.clone(), &self.namespace, instance);
        let mut operator = Operator::new(cluster, self.bus.clone(), self.config.clone());
        operator.lease = self.lease;
        operator
    }

    /// Runs an operator and the kubelet until `done`, within the limit.
    pub(crate) async fn operate(&self, done: impl AsyncFn(&Self) -> bool) {
        let stop = CancellationToken::new();
        let waited = async {
            self.until("done", done).await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! { biased;
            ended = self.operator().run(stop.clone()) => ended.unwrap(),
            () = self.kubelet.run() => unreachable!(),
            () = waited => unreachable!(),
        }
    }

    /// Kills an operator after this long, wherever it is.
    pub(crate) async fn operate_for(&self, life: Duration) {
        tokio::select! { biased;
            ended = self.operator().run(CancellationToken::new()) => panic!("it ended: {ended:?}"),
            () = self.kubelet.run() => unreachable!(),
            () = tokio::time::sleep(life) => {}
        }
    }

    pub(crate) async fn operate_until_settled(&self) {
        self.operate(async |place| place.is_settled().await).await;
    }

    pub(crate) async fn is_settled(&self) -> bool {
        self.waiting().await == Some((0, 0))
    }

    /// How many tasks nobody has taken yet, and how many are taken and not settled.
    pub(crate) async fn waiting(&self) -> Option<(u64, u64)> {
        let info = self.bus.consumer_info(bus_names::TASKS_STREAM, "operator").await.ok()?;
        Some((info.pending, info.unsettled))
    }

    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let started = Instant::now();
        while !holds(self).await {
            if started.elapsed() > LIMIT {
                let jobs: Vec<_> = self.jobs().await.into_iter().map(|job| job.status).collect();
                panic!("not {what} in {}: {:?} {jobs:?}", self.namespace, self.kubelet.seen);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
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

    pub(crate) async fn jobs(&self) -> Vec<Job> {
        let jobs = Api::namespaced(self.admin.clone(), &self.namespace);
        jobs.list(&ListParams::default()).await.map_or(Vec::new(), |list| list.items)
    }

    /// How many Jobs, pods and inputs there are.
    pub(crate) async fn left(&self) -> (usize, usize, usize) {
        let (client, list) = (&self.admin, ListParams::default());
        let pods = Api::<Pod>::namespaced(client.clone(), &self.namespace);
        let config_maps = Api::<ConfigMap>::namespaced(client.clone(), &self.namespace);
        let mine = list.clone().labels("app.kubernetes.io/managed-by=lockgate-operator");
        let pods = pods.list(&list).await.unwrap().items.len();
        let config_maps = config_maps.list(&mine).await.unwrap().items.len();
        (self.jobs().await.len(), pods, config_maps)
    }
}
