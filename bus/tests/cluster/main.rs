//! A cluster of three whose leaders are killed and cut off under load: nothing that had a receipt
//! is lost, nothing is stored twice, order is kept, and a confirmed ack is final.

// The lint knows test functions, but not the functions that these share.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod load;
mod placement;

use std::time::Duration;

use bus::Bus;
use bus::testkit::NatsCluster;
use load::Load;
use tokio::sync::{Mutex, MutexGuard};

/// Long enough for anything on a busy machine; never waited for when things work.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the load runs between two faults.
const CALM: Duration = Duration::from_millis(1500);

/// Three servers, and the load on them, are enough for one machine at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn cluster() -> (NatsCluster, Bus, MutexGuard<'static, ()>) {
    let turn = ONE_AT_A_TIME.lock().await;
    let cluster = NatsCluster::start(3).await.unwrap();
    let bus = Bus::connect(&cluster.url()).await.unwrap();
    (cluster, bus, turn)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_lose_nothing_and_repeat_nothing() {
    let (mut cluster, bus, _turn) = cluster().await;
    let load = Load::start(&bus, &cluster.url()).await;
    for leader_of in ["S", "KV_counters", "S"] {
        tokio::time::sleep(CALM).await;
        let before = load.progress();
        let leader = cluster.leader_of(leader_of).await.unwrap();
        cluster.kill9(leader);
        // With one node away the others go on.
        load.moves_on(before).await;
        cluster.restart(leader).await.unwrap();
        cluster.wait_healthy().await.unwrap();
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_and_comes_back_does_no_harm() {
    let (mut cluster, bus, _turn) = cluster().await;
    let load = Load::start(&bus, &cluster.url()).await;
    for leader_of in ["S", "KV_counters"] {
        tokio::time::sleep(CALM).await;
        let cut_off = cluster.leader_of(leader_of).await.unwrap();
        cluster.freeze(cut_off).unwrap();
        // Another leads, and the one of before learns of it only when it is back.
        let other = cluster.leader_of(leader_of).await.unwrap();
        assert_ne!(other, cut_off);
        tokio::time::sleep(CALM).await;
        let before = load.progress();
        cluster.thaw(cut_off).unwrap();
        load.moves_on(before).await;
        cluster.wait_healthy().await.unwrap();
    }
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_power_has_what_it_gave_receipts_for() {
    let (mut cluster, bus, _turn) = cluster().await;
    let load = Load::start(&bus, &cluster.url()).await;
    for _ in 0..2 {
        tokio::time::sleep(CALM).await;
        let before = load.progress();
        (0..cluster.nodes()).for_each(|node| cluster.kill9(node));
        for node in 0..cluster.nodes() {
            cluster.restart(node).await.unwrap();
        }
        cluster.wait_healthy().await.unwrap();
        load.moves_on(before).await;
    }
    load.finish().await;
}
