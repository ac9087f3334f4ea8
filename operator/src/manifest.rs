//! The Jobs and ConfigMaps that the operator makes.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, EnvVar, PodSpec, PodTemplateSpec, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use lockgate_model::{EXIT_FINAL, Incarnation, Task};

use crate::config::JobSettings;
use crate::names::{self, OF, PREFILL, TASK_FILE};

const TASK_VOLUME: &str = "lockgate-task";
const TASK_FOLDER: &str = "/etc/lockgate/task";
/// Where `lockgate prefill-job` looks for its task.
const TASK_VARIABLE: &str = "LOCKGATE_PREFILL_TASK";

/// The Job of a prefill, suspended. Its pod runs `lockgate prefill-job` unless the configuration
/// says something else, with the task as a file.
pub fn prefill_job(of: &Incarnation, settings: &JobSettings) -> Job {
    let name = names::prefill_job(of);
    let mut pod = settings.pod.clone();
    let config_map = ConfigMapVolumeSource { name: name.clone(), ..Default::default() };
    let volume =
        Volume { name: TASK_VOLUME.into(), config_map: Some(config_map), ..Default::default() };
    pod.volumes.get_or_insert_default().push(volume);
    if let Some(container) = pod.containers.first_mut() {
        give_task(container);
    }
    let mut job = job(name, PREFILL, pod, settings);
    let of = serde_json::to_string(of).unwrap_or_default();
    job.metadata.annotations = Some(BTreeMap::from([(OF.to_owned(), of)]));
    if let Some(spec) = &mut job.spec {
        spec.suspend = Some(true);
    }
    job
}

/// A Job of another work queue. Its name is its whole identity.
pub fn queue_job(queue: &str, number: u64, settings: &JobSettings) -> Job {
    job(names::queue_job(queue, number), queue, settings.pod.clone(), settings)
}

/// What the pod of a prefill mounts: the task. It belongs to the Job and goes with it.
pub fn prefill_input(of: &Incarnation, job_uid: &str) -> ConfigMap {
    let name = names::prefill_job(of);
    let owner = OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: name.clone(),
        uid: job_uid.to_owned(),
        ..OwnerReference::default()
    };
    let task = serde_json::to_string(&Task { of: of.clone() }).unwrap_or_default();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(names::labels(PREFILL)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([(TASK_FILE.to_owned(), task)])),
        ..ConfigMap::default()
    }
}

/// Whose prefill a Job is of, if it says so.
pub fn incarnation(job: &Job) -> Option<Incarnation> {
    serde_json::from_str(job.metadata.annotations.as_ref()?.get(OF)?).ok()
}

fn give_task(container: &mut Container) {
    if container.command.is_none() && container.args.is_none() {
        container.args = Some(vec![String::from("prefill-job")]);
    }
    let variable = EnvVar {
        name: TASK_VARIABLE.into(),
        value: Some(format!("{TASK_FOLDER}/{TASK_FILE}")),
        ..EnvVar::default()
    };
    container.env.get_or_insert_default().push(variable);
    let mount = VolumeMount {
        name: TASK_VOLUME.into(),
        mount_path: TASK_FOLDER.into(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    container.volume_mounts.get_or_insert_default().push(mount);
}

fn job(name: String, queue: &str, pod: PodSpec, settings: &JobSettings) -> Job {
    let labels = names::labels(queue);
    let main = pod.containers.first().map(|container| container.name.clone());
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let metadata =
        ObjectMeta { name: Some(name), labels: Some(labels.clone()), ..ObjectMeta::default() };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(pod),
    };
    let spec = JobSpec {
        completions: Some(1),
        parallelism: Some(1),
        backoff_limit: Some(settings.retries),
        active_deadline_seconds: Some(seconds(settings.deadline.0)),
        ttl_seconds_after_finished: i32::try_from(seconds(settings.keep.0)).ok(),
        pod_failure_policy: Some(failure_policy(main)),
        template,
        ..JobSpec::default()
    };
    Job { metadata, spec: Some(spec), status: None }
}

/// What says that it would fail again is not repeated; a pod that was evicted is no failure.
fn failure_policy(container_name: Option<String>) -> PodFailurePolicy {
    let is_final = PodFailurePolicyOnExitCodesRequirement {
        container_name,
        operator: "In".into(),
        values: vec![i32::from(EXIT_FINAL)],
    };
    let disrupted = PodFailurePolicyOnPodConditionsPattern {
        type_: "DisruptionTarget".into(),
        status: Some("True".into()),
    };
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "FailJob".into(),
                on_exit_codes: Some(is_final),
                on_pod_conditions: None,
            },
            PodFailurePolicyRule {
                action: "Ignore".into(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![disrupted]),
            },
        ],
    }
}

#[cfg(test)]
mod tests {
    use lockgate_model::SubscriptionName;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_prefill_job_is_suspended_and_knows_its_task() {
        let text = "[prefill]\nkeep = '10m'\npod.containers = [{ name = 'p', image = 'lockgate' }]";
        let settings = Config::parse(text).unwrap().prefill.unwrap().job;
        let name = SubscriptionName::new("people").unwrap();
        let of = Incarnation { name, uid: String::from("00ff00ff00ff00ff"), generation: 3 };
        let job = prefill_job(&of, &settings);
        assert_eq!(incarnation(&job), Some(of.clone()));
        let spec = job.spec.unwrap();
        assert_eq!((spec.suspend, spec.ttl_seconds_after_finished), (Some(true), Some(600)));
        let container = &spec.template.spec.unwrap().containers[0];
        assert_eq!(container.args, Some(vec![String::from("prefill-job")]));
        let variable = &container.env.as_ref().unwrap()[0];
        assert_eq!(variable.value.as_deref(), Some("/etc/lockgate/task/task.json"));

        let input = prefill_input(&of, "u-1");
        assert_eq!(input.metadata.name, job.metadata.name);
        assert_eq!(input.metadata.owner_references.unwrap()[0].uid, "u-1");
        let task: Task = serde_json::from_str(&input.data.unwrap()[TASK_FILE]).unwrap();
        assert_eq!(task.of, of);
    }
}
