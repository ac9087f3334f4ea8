//! The API server: each call bounded in time, each safe to repeat, none that hits another Job of the
//! same name.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::timeout;

use crate::names::{MANAGED_BY, OPERATOR, QUEUE, selector};

/// How long the API server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Objects in one page of a list.
const PAGE: u32 = 500;
/// What Kubernetes takes of an event's note.
const MAX_NOTE_BYTES: usize = 1024;

/// Why a call was not carried out. Every call may be repeated.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It was refused, or failed on its way.
    #[error("could not {what}: {error}")]
    Call {
        /// What was asked for.
        what: String,
        /// Why not.
        error: Box<kube::Error>,
    },
    /// There was no answer in time: nobody knows whether it was carried out.
    #[error("could not {what}: the API server did not answer within {} s", ANSWER_WITHIN.as_secs())]
    Late {
        /// What was asked for.
        what: String,
    },
    /// A name that is the operator's to give belongs to something else.
    #[error("Job {name} is there and not of the operator's making: delete or rename it")]
    Foreign {
        /// The name.
        name: String,
    },
}

impl Fault {
    /// True where the object is not, or no longer, the one that was meant: the next look tells.
    pub fn is_overtaken(&self) -> bool {
        matches!(self.code(), Some(404 | 409))
    }

    /// True where the API server has answered, about this object: what is asked about another one
    /// may go well.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Foreign { .. } => true,
            Self::Call { .. } => self.code().is_some_and(|code| code != 429 && code < 500),
            Self::Late { .. } => false,
        }
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Call { error, .. } => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Late { .. } | Self::Foreign { .. } => None,
        }
    }
}

/// One namespace of a cluster, through the permissions of `deploy/operator/role.yaml` alone. Cheap
/// to clone.
#[derive(Clone)]
pub struct Cluster {
    jobs: Api<Job>,
    config_maps: Api<ConfigMap>,
    pods: Api<Pod>,
    recorder: Recorder,
}

impl Cluster {
    /// A namespace. `instance` names this process in the events that it writes.
    ///
    /// The client is best made without retries of its own: the operator repeats by looking anew.
    pub fn new(client: Client, namespace: &str, instance: Option<String>) -> Self {
        let reporter = Reporter { controller: OPERATOR.into(), instance };
        Self {
            jobs: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Every Job of a work queue, as they are now: not from a cache. All of them, or an error.
    pub async fn jobs(&self, queue: &str) -> Result<Vec<Job>, Fault> {
        let mut found = Vec::new();
        let mut params = ListParams::default().labels(&selector(queue)).limit(PAGE);
        loop {
            let what = || format!("list the Jobs of {queue}");
            let page = answered(what, self.jobs.list(&params)).await?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(found),
            }
        }
    }

    /// Says when something about a Job of the operator's has changed, or may have. Never ends; what
    /// it misses the next look finds.
    pub fn changes(&self) -> impl Stream<Item = ()> + Send + use<> {
        let mine = watcher::Config::default().labels(&format!("{MANAGED_BY}={OPERATOR}"));
        watcher(self.jobs.clone(), mine).default_backoff().map(|change| {
            if let Err(error) = change {
                tracing::debug!(%error, "the watch on Jobs begins again");
            }
        })
    }

    /// Makes a Job. One of its name that the operator made for the same queue is this one.
    pub async fn create(&self, job: &Job) -> Result<(), Fault> {
        let name = job.name_any();
        let what = || format!("create Job {name}");
        match answered(what, self.jobs.create(&PostParams::default(), job)).await {
            Err(fault) if fault.code() == Some(409) => {
                let there = answered(what, self.jobs.get_opt(&name)).await?;
                match there {
                    Some(there) if is_same(&there, job) => Ok(()),
                    Some(_) => Err(Fault::Foreign { name }),
                    // Deleted meanwhile: the next look finds that it is not there.
                    None => Ok(()),
                }
            }
            made => made.map(drop),
        }
    }

    /// Puts a ConfigMap there as described, whatever is there. One that cannot be changed is deleted,
    /// and the next look puts it there.
    pub async fn apply(&self, config_map: &ConfigMap) -> Result<(), Fault> {
        let name = config_map.name_any();
        let (params, patch) = (PatchParams::apply(OPERATOR).force(), Patch::Apply(config_map));
        let what = || format!("apply ConfigMap {name}");
        let applied = answered(what, self.config_maps.patch(&name, &params, &patch)).await;
        if applied.as_ref().is_err_and(|fault| fault.code() == Some(422)) {
            let what = || format!("delete ConfigMap {name}, which cannot be changed");
            answered(what, self.config_maps.delete(&name, &DeleteParams::default())).await?;
        }
        applied.map(drop)
    }

    /// Lets Kubernetes start a Job.
    pub async fn release(&self, name: &str, uid: &str) -> Result<(), Fault> {
        // The uid is a condition: another Job of the name is not touched.
        let patch = json!({"metadata": {"uid": uid}, "spec": {"suspend": false}});
        let patch = Patch::Merge(&patch);
        let what = || format!("release Job {name}");
        answered(what, self.jobs.patch(name, &PatchParams::default(), &patch)).await.map(drop)
    }

    /// Deletes a Job, and then its pods and what it owns.
    pub async fn remove(&self, name: &str, uid: &str) -> Result<(), Fault> {
        let only = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        // Without a word on propagation its pods would be left behind.
        let params = DeleteParams::background().preconditions(only);
        let what = || format!("delete Job {name}");
        answered(what, self.jobs.delete(name, &params)).await.map(drop)
    }

    /// The pods of a Job that are still there.
    pub async fn pods(&self, name: &str) -> Result<Vec<Pod>, Fault> {
        let params = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
        let what = || format!("list the pods of Job {name}");
        Ok(answered(what, self.pods.list(&params)).await?.items)
    }

    /// Writes an event about a Job, for `kubectl describe`. One that cannot be written is logged.
    pub async fn tell(&self, job: &Job, reason: &str, note: String, warns: bool) {
        let event = Event {
            type_: if warns { EventType::Warning } else { EventType::Normal },
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: reason.to_owned(),
            secondary: None,
        };
        let about = job.object_ref(&());
        match timeout(ANSWER_WITHIN, self.recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(job = job.name_any(), %error, "event not written"),
            Err(_) => tracing::warn!(job = job.name_any(), "event not written in time"),
        }
    }
}

/// Whether both are of the operator's making, for the same queue.
fn is_same(there: &Job, ours: &Job) -> bool {
    [MANAGED_BY, QUEUE]
        .into_iter()
        .all(|label| there.labels().get(label) == ours.labels().get(label))
}

async fn answered<T>(
    what: impl Fn() -> String,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Fault> {
    match timeout(ANSWER_WITHIN, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Fault::Call { what: what(), error: Box::new(error) }),
        Err(_) => Err(Fault::Late { what: what() }),
    }
}

fn shortened(mut note: String) -> String {
    let mut end = MAX_NOTE_BYTES.min(note.len());
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    note
}
