//! Plays the kubelet: pods start and end as they are told to, by their status alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use lockgate_model::{JobOutcome, Manifest, Report, Task};
use serde_json::json;

/// How the pods of a Job end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Play {
    /// Well, with the last words of a prefill that is complete.
    Well,
    /// With this exit code and these last words.
    Exit(i32, String),
    /// They never start: no node, or no image.
    Pending,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The uids of the Jobs whose pods were started, by the Job's name.
    pub(crate) started: BTreeMap<String, BTreeSet<String>>,
    pub(crate) pods: usize,
    pub(crate) most_at_work: usize,
    /// When the first pod of a Job was started.
    pub(crate) times: BTreeMap<String, Instant>,
}

#[derive(Clone)]
pub(crate) struct Kubelet {
    pods: Api<Pod>,
    config_maps: Api<ConfigMap>,
    /// By the beginning of the Job's name.
    plays: Arc<Mutex<Vec<(String, Play)>>>,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Kubelet {
    pub(crate) fn new(admin: Client, namespace: &str) -> Self {
        Self {
            pods: Api::namespaced(admin.clone(), namespace),
            config_maps: Api::namespaced(admin, namespace),
            plays: Arc::default(),
            seen: Arc::default(),
        }
    }

    /// Says how the pods of the Jobs end whose names begin so; the last word holds.
    pub(crate) fn play(&self, job: &str, play: Play) {
        self.plays.lock().unwrap().push((job.to_owned(), play));
    }

    /// Plays until it is dropped. An API server that is away is waited for.
    pub(crate) async fn run(&self) {
        loop {
            if let Ok(pods) = self.pods.list(&ListParams::default()).await {
                let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone());
                let active = pods
                    .items
                    .iter()
                    .filter(|pod| !matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed")));
                let active = active.count();
                {
                    let mut seen = self.seen.lock().unwrap();
                    seen.most_at_work = seen.most_at_work.max(active);
                }
                for pod in &pods.items {
                    // It may be gone meanwhile: the next round sees what is there.
                    let _ = match phase(pod).as_deref() {
                        Some("Running") => self.end(pod).await,
                        Some("Succeeded" | "Failed") => Ok(()),
                        _ => self.begin(pod).await,
                    };
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn play_of(&self, job: &str) -> Play {
        let plays = self.plays.lock().unwrap();
        let found = plays.iter().rev().find(|(prefix, _)| job.starts_with(prefix));
        found.map_or(Play::Well, |(_, play)| play.clone())
    }

    async fn begin(&self, pod: &Pod) -> Result<(), kube::Error> {
        let (job, uid) = owner(pod);
        if self.play_of(&job) == Play::Pending {
            return Ok(());
        }
        // A kubelet does not start it before what it mounts is there.
        if let Some(name) = mounts(pod) {
            self.config_maps.get(&name).await?;
        }
        let ready = json!({"type": "Ready", "status": "True"});
        let state = json!({"running": {"startedAt": now()}});
        self.patch(pod, "Running", true, state, json!([ready])).await?;
        let mut seen = self.seen.lock().unwrap();
        seen.pods += 1;
        seen.times.entry(job.clone()).or_insert_with(Instant::now);
        seen.started.entry(job).or_default().insert(uid);
        Ok(())
    }

    async fn end(&self, pod: &Pod) -> Result<(), kube::Error> {
        let (code, words) = match self.play_of(&owner(pod).0) {
            Play::Well => (0, self.work(pod).await?),
            Play::Exit(code, words) => (code, words),
            Play::Pending => return Ok(()),
        };
        let state = json!({"terminated": {"exitCode": code, "message": words,
                                          "startedAt": now(), "finishedAt": now()}});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.patch(pod, phase, false, state, json!([])).await
    }

    /// Reads the task as the worker would, and says what the worker would say.
    async fn work(&self, pod: &Pod) -> Result<String, kube::Error> {
        let Some(name) = mounts(pod) else { return Ok(String::new()) };
        let data = self.config_maps.get(&name).await?.data.unwrap_or_default();
        let task: Task = serde_json::from_str(&data["task.json"]).unwrap();
        let generation = task.of.generation;
        let manifest = Manifest { generation, fence: [].into(), rows: 3, digest: String::new() };
        Ok(JobOutcome::reported(Report::PrefillDone { of: task.of, manifest }).to_last_words())
    }

    async fn patch(
        &self,
        pod: &Pod,
        phase: &str,
        ready: bool,
        state: serde_json::Value,
        conditions: serde_json::Value,
    ) -> Result<(), kube::Error> {
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let status = json!({"name": container.name, "image": container.image, "imageID": "",
                            "ready": ready, "restartCount": 0, "state": state});
        let status = json!({"status": {"phase": phase, "startTime": now(),
                            "conditions": conditions, "containerStatuses": [status]}});
        let params = PatchParams::default();
        self.pods.patch_status(&pod.name_any(), &params, &Patch::Merge(&status)).await.map(drop)
    }
}

fn owner(pod: &Pod) -> (String, String) {
    let owner = &pod.owner_references()[0];
    (owner.name.clone(), owner.uid.clone())
}

fn mounts(pod: &Pod) -> Option<String> {
    let volumes = pod.spec.as_ref()?.volumes.as_ref()?;
    volumes.iter().find_map(|volume| Some(volume.config_map.as_ref()?.name.clone()))
}

fn now() -> String {
    Timestamp::now().round(k8s_openapi::jiff::Unit::Second).unwrap().to_string()
}
