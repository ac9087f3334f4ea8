//! What people break is mended, and what is asked for twice is done once.

use std::cell::RefCell;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};

use crate::control_plane::ControlPlane;
use crate::kubelet::Play;
use crate::place::Place;

/// Deletes a Job that is at work and the input of another one, while the operator runs.
pub(crate) async fn what_people_delete_is_made_again(plane: &ControlPlane) {
    let place = Place::new(plane, "mended").await;
    for name in ["no-job", "no-input"] {
        place.kubelet.play(&format!("prefill-{name}"), Play::Pending);
        place.ask(name).await;
    }
    // None, until both are deleted; then the uid of the Job that is no more.
    let deleted = RefCell::new(None);
    let mended = RefCell::new(None);
    place
        .operate(async |place| {
            let jobs = place.jobs().await;
            let named = |name: &str| jobs.iter().find(|job| job.name_any().starts_with(name));
            let (job, other) = (named("prefill-no-job"), named("prefill-no-input"));
            let gone = deleted.borrow().clone();
            match (job, other, gone) {
                (Some(job), Some(other), None) if place.left().await.1 == 2 => {
                    delete(place, job, other).await;
                    deleted.replace(job.uid());
                }
                (Some(job), _, Some(gone)) if job.uid().as_ref() != Some(&gone) => {
                    // Pods of the one that was deleted are not to start.
                    for name in ["no-job", "no-input"] {
                        place.kubelet.play(&format!("prefill-{name}"), Play::Well);
                    }
                    mended.replace(job.uid());
                }
                _ => {}
            }
            mended.borrow().is_some() && place.is_settled().await
        })
        .await;
    let reports = place.reports().await;
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert!(reports.values().all(|news| news == "prefill done, 3 rows"), "{reports:?}");
    let seen = place.kubelet.seen.lock().unwrap();
    assert_eq!((seen.started.len(), seen.pods), (2, 2), "{seen:?}");
    let again = seen.started.iter().find(|(name, _)| name.starts_with("prefill-no-job")).unwrap().1;
    assert_eq!(again.iter().next().cloned(), mended.take());
}

async fn delete(place: &Place, job: &Job, other: &Job) {
    let config_maps = Api::<ConfigMap>::namespaced(place.admin.clone(), &place.namespace);
    let jobs = Api::<Job>::namespaced(place.admin.clone(), &place.namespace);
    config_maps.delete(&other.name_any(), &DeleteParams::default()).await.unwrap();
    jobs.delete(&job.name_any(), &DeleteParams::background()).await.unwrap();
}

/// Two tasks for one prefill, too far apart for the stream to see it.
pub(crate) async fn the_same_task_twice_is_one_job(plane: &ControlPlane) {
    let place = Place::new(plane, "twice").await;
    place.kubelet.play("prefill-twice", Play::Pending);
    place.ask("twice").await;
    place.request("twice", Some("later")).await;
    place
        .operate(async |place| {
            // Both are taken before the Job ends, and one or both held.
            let waiting = place.waiting().await;
            if place.left().await.1 == 1 && waiting.is_some_and(|(not_taken, _)| not_taken == 0) {
                place.kubelet.play("prefill-twice", Play::Well);
            }
            place.is_settled().await
        })
        .await;
    assert_eq!(place.reports().await.len(), 1);
    assert_eq!(place.left().await.0, 1);
    let seen = place.kubelet.seen.lock().unwrap();
    assert_eq!((seen.started.len(), seen.pods), (1, 1), "{seen:?}");
}
