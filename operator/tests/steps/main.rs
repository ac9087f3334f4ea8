//! The operator against an API server in memory: every step, and its death between any two.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod fake;
mod world;

use fake::{Play, When};
use serde_json::json;
use world::{CONFIG, World, of};

#[tokio::test(start_paused = true)]
async fn prefills_are_done_by_jobs_the_oldest_first_and_no_more_than_may_run() {
    let world = World::new(&CONFIG.replace("at_once = 2", "at_once = 5")).await;
    let mut asked = Vec::new();
    for number in 0..50 {
        asked.push(world.ask(&format!("s{:02}", (number * 7) % 50)).await);
    }
    world.operate_until_settled().await;
    let reports = world.reports().await;
    assert_eq!(reports.len(), 50);
    assert!(reports.values().all(|news| news == "prefill done, 3 rows"));
    world.fake.with(|cluster| {
        assert_eq!(cluster.most_at_work, 5);
        assert!(cluster.started.values().all(|uids| uids.len() == 1));
        // Of those that are released together the order is Kubernetes'.
        let place = |job: &String| cluster.order.iter().position(|started| started == job).unwrap();
        for (number, job) in asked.iter().enumerate() {
            assert!(place(job).abs_diff(number) < 5, "{job} was number {number}");
        }
        let told = |reason: &str| cluster.events.iter().filter(|e| e.starts_with(reason)).count();
        assert_eq!((told("Released"), told("Reported")), (50, 50));
    });
}

/// Kills the operator at every call, before and after it is carried out, and at every settlement.
#[tokio::test(start_paused = true)]
async fn its_death_between_any_two_steps_loses_and_doubles_nothing() {
    let mut points = 0;
    for when in [When::Before, When::After] {
        for at in 0.. {
            let world = World::new(CONFIG).await;
            world.fake.with(|cluster| cluster.kill_at = Some((at, when)));
            check_three(&world, &format!("killed {when:?} call {at}")).await;
            points += 1;
            if world.fake.with(|cluster| cluster.calls.len()) <= at {
                break;
            }
        }
    }
    for at in 0..4 {
        let world = World::new(CONFIG).await;
        world.kill_at_settle(Some(at));
        check_three(&world, &format!("killed at settlement {at}")).await;
    }
    assert!(points > 40, "{points} points: the operator does less than it did");
}

async fn check_three(world: &World, what: &str) {
    for name in ["a", "b", "c"] {
        world.ask(name).await;
    }
    world.operate_until_settled().await;
    assert_eq!(world.reports().await.len(), 3, "{what}");
    world.fake.with(|cluster| {
        assert_eq!(cluster.jobs.len(), 3, "{what}");
        assert_eq!(cluster.started.len(), 3, "{what}");
        assert!(
            cluster.started.values().all(|uids| uids.len() == 1),
            "{what}: {:?}",
            cluster.started
        );
        assert!(cluster.most_at_work <= 2, "{what}");
        for (name, job) in &cluster.jobs {
            let owner = &cluster.config_maps[name]["metadata"]["ownerReferences"][0]["uid"];
            assert_eq!(*owner, job["metadata"]["uid"], "{what}: it goes with its Job");
        }
    });
}

#[tokio::test(start_paused = true)]
async fn every_end_of_a_job_is_reported() {
    let world = World::new(CONFIG).await;
    for (name, play) in [
        ("final", Play::Final("source-stuck: it goes back")),
        ("again", Play::GivenUp("thread panicked at 'x'")),
        ("slow", Play::Deadline),
    ] {
        let job = world.ask(name).await;
        world.fake.with(|cluster| cluster.plays.insert(job, play));
    }
    world.operate_until_settled().await;
    let reports = world.reports().await;
    assert_eq!(reports["final"], "prefill failed: source-stuck: it goes back");
    assert!(reports["again"].contains("(BackoffLimitExceeded), at last with: thread panicked"));
    assert!(
        reports["slow"].starts_with("prefill failed: job-deadline-exceeded: Job prefill-slow-")
    );
    let warned = |cluster: &mut fake::Cluster| {
        cluster.events.iter().filter(|e| e.starts_with("PrefillFailed")).count()
    };
    assert_eq!(world.fake.with(warned), 3);
}

#[tokio::test(start_paused = true)]
async fn the_same_task_twice_is_one_job() {
    let world = World::new(CONFIG).await;
    let job = world.ask("a").await;
    world.fake.with(|cluster| cluster.plays.insert(job.clone(), Play::Runs));
    // Beyond the time in which the stream recognises it.
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    world.request(&of("a")).await;
    let one_is_enough = async || {
        let held = world.bus.consumer_info("lockgate-tasks", "operator").await;
        let running = world.fake.with(|cluster| cluster.started.contains_key(&job));
        if running && held.is_ok_and(|info| info.pending == 0 && info.unsettled == 1) {
            world.fake.with(|cluster| cluster.plays.clear());
        }
        world.is_settled().await
    };
    assert!(world.operate(one_is_enough).await);
    assert_eq!(world.reports().await.len(), 1);
    assert_eq!(world.fake.with(|cluster| cluster.started[&job].len()), 1);
}

#[tokio::test(start_paused = true)]
async fn a_prefill_that_nobody_waits_for_gets_no_job() {
    let world = World::new(CONFIG).await;
    world.ask("a").await;
    world.bus.kv("lockgate-subscriptions").await.unwrap().delete("a", None).await.unwrap();
    world.operate_until_settled().await;
    assert!(world.fake.with(|cluster| cluster.jobs.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_somebody_deletes_is_made_anew() {
    let world = World::new(CONFIG).await;
    let job = world.ask("a").await;
    world.fake.with(|cluster| cluster.plays.insert(job.clone(), Play::Runs));
    let delete_once = async || {
        world.fake.with(|cluster| {
            if cluster.started.contains_key(&job) && !cluster.plays.is_empty() {
                cluster.remove_job(&job);
                cluster.plays.clear();
            }
        });
        world.is_settled().await
    };
    assert!(world.operate(delete_once).await);
    assert_eq!(world.reports().await.len(), 1);
    assert_eq!(world.fake.with(|cluster| cluster.started[&job].len()), 2);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_somebody_deletes_is_given_again() {
    let world = World::new(CONFIG).await;
    let job = world.ask("a").await;
    // What it finds is of another time, and cannot be changed.
    let stale =
        json!({"data": {"task.json": "other"}, "metadata": {"ownerReferences": [{"uid": "x"}]}});
    world.fake.with(|cluster| cluster.config_maps.insert(job.clone(), stale));
    let deleted = std::cell::Cell::new(false);
    let delete_once = async || {
        world.fake.with(|cluster| {
            let released =
                cluster.jobs.get(&job).is_some_and(|job| job["spec"]["suspend"] == false);
            if released && !cluster.started.contains_key(&job) && !deleted.replace(true) {
                cluster.config_maps.remove(&job);
            }
        });
        world.is_settled().await
    };
    assert!(world.operate(delete_once).await);
    assert!(deleted.get(), "it was there to be deleted");
    assert_eq!(world.reports().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_list_nothing_is_started() {
    let world = World::new(CONFIG).await;
    world.ask("a").await;
    world.fake.with(|cluster| cluster.refuses = Some(("GET jobs", 500)));
    let mend_late = async || {
        world.fake.with(|cluster| {
            let lists = cluster.calls.iter().filter(|call| *call == "GET jobs").count();
            if lists >= 4 && cluster.refuses.is_some() {
                assert!(cluster.calls.iter().all(|call| call == "GET jobs"), "{:?}", cluster.calls);
                cluster.refuses = None;
            }
        });
        world.is_settled().await
    };
    assert!(world.operate(mend_late).await);
    assert_eq!(world.reports().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_one_job_keeps_no_other_from_its_steps() {
    let world = World::new(CONFIG).await;
    let taken = world.ask("a").await;
    world.ask("b").await;
    let foreign = json!({"metadata": {"name": taken, "uid": "theirs", "labels": {}},
                         "spec": {"suspend": true, "template": {}}});
    world.fake.with(|cluster| cluster.jobs.insert(taken.clone(), foreign.clone()));
    let b_is_done = async || world.reports().await.contains_key("b");
    assert!(world.operate(b_is_done).await);
    assert_eq!(world.fake.with(|cluster| cluster.jobs[&taken].clone()), foreign, "untouched");

    // Its input is refused: it is not released without it.
    let world = World::new(CONFIG).await;
    world.ask("a").await;
    world.fake.with(|cluster| cluster.refuses = Some(("PATCH configmaps", 403)));
    let tried = |cluster: &mut fake::Cluster| {
        cluster.calls.iter().filter(|call| call.starts_with("PATCH configmaps")).count() > 2
    };
    assert!(world.operate(async || world.fake.with(tried)).await);
    assert_eq!(world.fake.with(|cluster| cluster.at_work()), 0);
}

#[tokio::test(start_paused = true)]
async fn another_queue_gets_the_jobs_that_its_backlog_needs() {
    let config = "[[queue]]\nname = 'makers'\nstream = 'orders'\nconsumer = 'makers'\n\
        ceiling = 4\npod.containers = [{ name = 'maker', image = 'lockgate' }]\n";
    let world = World::new(config).await;
    let stream = bus::StreamConfig::parse("orders", &["orders.>"]).unwrap();
    let orders = world.bus.ensure_stream(&stream).await.unwrap();
    let makers = world.bus.consumer("orders", "makers").open().await.unwrap();
    for number in 0..6 {
        let order = bus::Message::new("orders.tabs", number.to_string()).unwrap();
        orders.publish(order).await.unwrap();
    }
    // Whoever is started takes one, as a medicine maker does.
    let taken = std::sync::atomic::AtomicUsize::new(0);
    let work = async || {
        let started = world.fake.with(|cluster| cluster.order.len());
        while taken.load(std::sync::atomic::Ordering::Relaxed) < started {
            taken.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let order = makers.fetch(1, std::time::Duration::from_millis(1)).await.unwrap().pop();
            if let Some(order) = order {
                order.ack_confirmed().await.unwrap();
            }
        }
        let info = makers.info().await.unwrap();
        info.pending + info.unsettled == 0 && world.fake.with(|cluster| cluster.at_work()) == 0
    };
    assert!(world.operate(work).await);
    world.fake.with(|cluster| {
        assert_eq!(cluster.most_at_work, 4);
        assert!(cluster.jobs.len() >= 6, "{:?}", cluster.jobs.keys());
        assert!(cluster.jobs.keys().all(|name| name.starts_with("makers-")));
        assert!(cluster.config_maps.is_empty());
    });
}
