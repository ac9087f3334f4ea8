//! A work queue gets as many Jobs as its backlog needs.

use std::sync::Arc;

use bus::Bus;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use crate::cluster::Cluster;
use crate::conclude::{Ending, ending};
use crate::config::QueueJobs as Settings;
use crate::manifest;
use crate::metrics::{Metrics, level, of};
use crate::names::{queue_job, queue_job_number};
use crate::prefills::LookError;
use crate::queue_plan::{QueueJobs, Scale, plan};

/// What a look at a queue needs.
pub struct Queue {
    cluster: Cluster,
    bus: Bus,
    settings: Settings,
    metrics: Arc<Metrics>,
}

impl Queue {
    /// A queue of the configuration.
    pub fn new(cluster: Cluster, bus: Bus, settings: Settings, metrics: Arc<Metrics>) -> Self {
        Self { cluster, bus, settings, metrics }
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// One look: asks for the backlog, lists the Jobs, and creates those that are missing. True when
    /// one was created. Where either cannot be had nothing is done.
    ///
    /// A queue whose consumer is not there has no backlog: whoever takes from it first makes it, and
    /// with a floor that is the first Job.
    pub async fn look(&self) -> Result<bool, LookError> {
        let Settings { name, floor, ceiling, messages_per_job, job, .. } = &self.settings;
        let backlog = self.backlog().await?;
        let jobs = observed(name, &self.cluster.jobs(name).await?);
        self.metrics.backlog.get_or_create(&of(name)).set(level(backlog));
        self.metrics.at_work.get_or_create(&of(name)).set(level(jobs.at_work));
        let scale = Scale { floor: *floor, ceiling: *ceiling, messages_per_job: *messages_per_job };
        let missing = plan(scale, backlog, &jobs);
        for number in &missing {
            self.cluster.create(&manifest::queue_job(name, *number, job)).await?;
            tracing::info!(job = queue_job(name, *number), backlog, "created");
            self.metrics.created.get_or_create(&of(name)).inc();
        }
        Ok(!missing.is_empty())
    }

    async fn backlog(&self) -> Result<u64, bus::Error> {
        let Settings { stream, consumer, .. } = &self.settings;
        match self.bus.consumer_info(stream, consumer).await {
            Ok(info) => Ok(info.pending.saturating_add(info.unsettled)),
            Err(error) if error.is_not_found() => Ok(0),
            Err(error) => Err(error),
        }
    }
}

fn observed(queue: &str, jobs: &[Job]) -> QueueJobs {
    let taken = jobs.iter().filter_map(|job| queue_job_number(queue, &job.name_any())).collect();
    let mut seen = QueueJobs { taken, ..QueueJobs::default() };
    for job in jobs {
        match ending(job) {
            None => seen.at_work += 1,
            Some(Ending::Failed { .. }) => seen.failed += 1,
            Some(Ending::Complete) => {}
        }
    }
    seen
}
