//! The operator on a real API server, with real controllers, under exactly the permissions of
//! `deploy/operator/role.yaml`, in a namespace that enforces the restricted level. Pods are played by
//! patching their status. `make test-kube` gets the servers and runs this.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod control_plane;
mod kubelet;
mod mended;
mod place;

use std::time::{Duration, Instant};

use control_plane::ControlPlane;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kubelet::Play;
use lockgate_model::{HumanDuration, JobOutcome};
use lockgate_operator::manifest;
use place::Place;

/// One test, so that the servers are started once and end with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the servers that make test-kube gets"]
async fn the_operator_on_a_real_api_server() {
    let mut plane = ControlPlane::start().await;
    println!("servers: {:?}", plane.pids());
    permissions_are_those_of_the_role(&plane).await;
    prefills_are_done_and_nothing_is_left(&plane).await;
    every_end_is_reported(&plane).await;
    mended::what_people_delete_is_made_again(&plane).await;
    mended::the_same_task_twice_is_one_job(&plane).await;
    killed_operators_lose_and_double_nothing(&plane).await;
    another_queue_gets_its_jobs(&plane).await;
    from_task_to_running(&plane).await;
    an_api_server_may_go_away(&mut plane).await;
}

/// Every call of the operator is made under them too: what it needs and may not fails the rest.
async fn permissions_are_those_of_the_role(plane: &ControlPlane) {
    let place = Place::new(plane, "permissions").await;
    let refused =
        |error: kube::Error| matches!(error, kube::Error::Api(status) if status.code == 403);
    let client = || place.operator_client.clone();
    let list = ListParams::default();
    let secrets = Api::<Secret>::namespaced(client(), &place.namespace);
    assert!(refused(secrets.list(&list).await.unwrap_err()));
    let config_maps = Api::<ConfigMap>::namespaced(client(), &place.namespace);
    assert!(refused(config_maps.list(&list).await.unwrap_err()));
    let pods = Api::<Pod>::namespaced(client(), &place.namespace);
    assert!(refused(pods.delete("any", &DeleteParams::default()).await.unwrap_err()));
    assert!(refused(pods.create(&PostParams::default(), &Pod::default()).await.unwrap_err()));
    let elsewhere = Api::<Job>::namespaced(client(), "default");
    assert!(refused(elsewhere.list(&list).await.unwrap_err()));
    let everywhere = Api::<Job>::all(client());
    assert!(refused(everywhere.list(&list).await.unwrap_err()));
    let own = Api::<Job>::namespaced(client(), &place.namespace);
    assert_eq!(own.list(&list).await.unwrap().items.len(), 0);
}

async fn prefills_are_done_and_nothing_is_left(plane: &ControlPlane) {
    let mut place = Place::new(plane, "flow").await;
    let prefill = place.config.prefill.as_mut().unwrap();
    (prefill.at_once, prefill.job.keep) = (5, HumanDuration(Duration::from_secs(15)));
    for number in 0..50 {
        place.ask(&format!("s{number}")).await;
    }
    // The last event is written after the last task is settled.
    place
        .operate(async |place| place.is_settled().await && told(place, "Reported").await == 50)
        .await;
    let reports = place.reports().await;
    assert_eq!(reports.len(), 50);
    assert!(reports.values().all(|news| news == "prefill done, 3 rows"), "{reports:?}");
    {
        let seen = place.kubelet.seen.lock().unwrap();
        assert!(seen.most_at_work <= 5, "{seen:?}");
        assert_eq!((seen.pods, seen.started.len()), (50, 50), "{seen:?}");
    }
    assert_eq!(told(&place, "Released").await, 50);
    place
        .until("nothing is left", async |place| {
            let (jobs, pods, config_maps) = place.left().await;
            jobs + pods + config_maps == 0
        })
        .await;
}

/// How many events of this reason there are.
async fn told(place: &Place, reason: &str) -> usize {
    let events = Api::<Event>::namespaced(place.admin.clone(), &place.namespace);
    let events = events.list(&ListParams::default()).await.map_or(Vec::new(), |list| list.items);
    events.iter().filter(|event| event.reason.as_deref() == Some(reason)).count()
}

async fn every_end_is_reported(plane: &ControlPlane) {
    let mut place = Place::new(plane, "ends").await;
    place.config.prefill.as_mut().unwrap().job.retries = 0;
    let last_words = JobOutcome::failed("source-stuck: it goes back").to_last_words();
    place.kubelet.play("prefill-final", Play::Exit(64, last_words));
    place.kubelet.play("prefill-again", Play::Exit(1, String::from("panicked at x")));
    for name in ["final", "again"] {
        place.ask(name).await;
    }
    place.operate_until_settled().await;
    let reports = place.reports().await;
    assert_eq!(reports["final"], "prefill failed: source-stuck: it goes back");
    assert!(reports["again"].contains("(BackoffLimitExceeded), at last with: panicked at x"));

    let mut place = Place::new(plane, "deadline").await;
    place.config.prefill.as_mut().unwrap().job.deadline = HumanDuration(Duration::from_secs(3));
    place.kubelet.play("prefill-no-image", Play::Pending);
    place.ask("no-image").await;
    place.operate_until_settled().await;
    let reports = place.reports().await;
    assert!(
        reports["no-image"].starts_with("prefill failed: job-deadline-exceeded: Job prefill-no")
    );
}

/// A sample of what the tests in memory enumerate; and Jobs and inputs that somebody deletes.
async fn killed_operators_lose_and_double_nothing(plane: &ControlPlane) {
    let mut place = Place::new(plane, "killed").await;
    place.lease = Duration::from_secs(2);
    for number in 0..8 {
        place.ask(&format!("s{number}")).await;
    }
    for life in 1..=6u64 {
        place.operate_for(Duration::from_millis(life * 130)).await;
    }
    let config_maps = Api::<ConfigMap>::namespaced(place.admin.clone(), &place.namespace);
    let suspended: Vec<_> = place
        .jobs()
        .await
        .into_iter()
        .filter(|job| job.spec.as_ref().unwrap().suspend == Some(true))
        .collect();
    if let Some(job) = suspended.first() {
        let name = job.metadata.name.as_deref().unwrap();
        // There is one only if it was killed between the two steps.
        let _ = config_maps.delete(name, &DeleteParams::default()).await;
    }
    place.operate_until_settled().await;
    assert_eq!(place.reports().await.len(), 8);
    let seen = place.kubelet.seen.lock().unwrap();
    assert_eq!(seen.started.len(), 8, "{seen:?}");
    assert!(seen.started.values().all(|uids| uids.len() == 1), "{seen:?}");
    assert_eq!(seen.pods, 8, "{seen:?}");
}

async fn another_queue_gets_its_jobs(plane: &ControlPlane) {
    let mut place = Place::new(plane, "queue").await;
    place.config = lockgate_operator::Config::parse(
        "[[queue]]\nname = 'makers'\nstream = 'orders'\nconsumer = 'makers'\nceiling = 3\n\
         pod.containers = [{ name = 'maker', image = 'lockgate' }]\n",
    )
    .unwrap();
    let stream = bus::StreamConfig::parse("orders", &["orders.>"]).unwrap();
    let orders = place.bus.ensure_stream(&stream).await.unwrap();
    let makers = place.bus.consumer("orders", "makers").open().await.unwrap();
    for number in 0..5 {
        let order = bus::Message::new("orders.tabs", number.to_string()).unwrap();
        orders.publish(order).await.unwrap();
    }
    let taken = std::sync::atomic::AtomicUsize::new(0);
    place
        .operate(async |place| {
            // Each pod that was started takes one, as a medicine maker does.
            let started = place.kubelet.seen.lock().unwrap().pods;
            while taken.fetch_max(started, std::sync::atomic::Ordering::Relaxed) < started {
                for order in makers.fetch(1, Duration::from_millis(50)).await.unwrap() {
                    order.ack_confirmed().await.unwrap();
                }
            }
            let info = makers.info().await.unwrap();
            info.pending + info.unsettled == 0
        })
        .await;
    let seen = place.kubelet.seen.lock().unwrap();
    assert!(seen.most_at_work <= 3 && seen.started.len() >= 3, "{seen:?}");
}

/// How much the operator adds to what the API server needs to start a Job. Printed, not judged.
async fn from_task_to_running(plane: &ControlPlane) {
    let mut place = Place::new(plane, "speed").await;
    place.config.prefill.as_mut().unwrap().at_once = 30;
    let settings = place.config.prefill.clone().unwrap().job;
    let jobs = Api::<Job>::namespaced(place.admin.clone(), &place.namespace);
    let begun = Instant::now();
    for number in 0..30 {
        let mut job = manifest::queue_job("floor", number, &settings);
        job.metadata.labels = None;
        jobs.create(&PostParams::default(), &job).await.unwrap();
    }
    let running = |place: &Place, prefix: &str| {
        let seen = place.kubelet.seen.lock().unwrap();
        seen.times
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, at)| *at)
            .collect::<Vec<_>>()
    };
    let kubelet = place.kubelet.clone();
    let all =
        place.until("the floor is reached", async |place| running(place, "floor-").len() == 30);
    tokio::select! { () = all => {}, () = kubelet.run() => {} }
    let floor = running(&place, "floor-").into_iter().max().unwrap() - begun;
    let begun = Instant::now();
    for number in 0..30 {
        place.ask(&format!("s{number}")).await;
    }
    place.operate_until_settled().await;
    let ours = running(&place, "prefill-").into_iter().max().unwrap() - begun;
    println!("30 Jobs from task to running: {ours:?}; bare Jobs, created at once: {floor:?}");
}

async fn an_api_server_may_go_away(plane: &mut ControlPlane) {
    let place = Place::new(plane, "away").await;
    for number in 0..8 {
        place.ask(&format!("s{number}")).await;
    }
    let halfway = place.operate(async |place| place.reports().await.len() >= 2);
    halfway.await;
    let operated = place.operate_until_settled();
    let restarted = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        plane.stop_api();
        tokio::time::sleep(Duration::from_secs(2)).await;
        plane.start_api().await;
    };
    tokio::join!(operated, restarted);
    assert_eq!(place.reports().await.len(), 8);
    let seen = place.kubelet.seen.lock().unwrap();
    assert!(seen.started.values().all(|uids| uids.len() == 1), "{seen:?}");
}
