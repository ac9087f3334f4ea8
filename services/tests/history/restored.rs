//! A log that is put back from a backup: other events come under sequences that were used.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bus::Bus;
use bus::testkit::NatsServer;

use super::support::{Process, Stream, World};
use super::{generation, until};

const TOPICS: &[&str] = &["dir.user"];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn put_back(backup: &Path, folder: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy(backup, folder);
}

async fn publish(world: &World, kind: &str, events: u64) {
    for data in 0..events {
        world.publish("dir.user", &format!("{kind}{data}"), data).await;
    }
}

/// Everyone has the new events: whoever was ahead of the backup is told.
async fn judge(stream: &mut Stream, events: u64) {
    let mut shown = Vec::new();
    let mut missing: BTreeSet<String> = (0..events).map(|n| format!("new{n}={n}")).collect();
    while !missing.is_empty() {
        let event = stream.take_shown(1).await.remove(0);
        missing.remove(&event);
        shown.push(event);
    }
    assert!(shown.contains(&String::from("expired")), "{shown:?}");
}

async fn caught_up(process: &Process, who: &str) -> Stream {
    let mut stream = process.stream(who, None).await;
    until(&mut stream, "up-to-date").await;
    stream
}

/// The log alone is put back, while its readers stay connected; then the whole store. Each time
/// more events are published than were lost, so that the head is past every position again.
#[tokio::test]
async fn a_nats_log_put_back_under_open_streams() {
    for whole in [false, true] {
        let mut server = NatsServer::start().await.unwrap();
        let backup = tempfile::tempdir().unwrap();
        let mut world = World::on(Bus::connect(&server.url()).await.unwrap()).await;
        publish(&world, "old", 10).await;
        let process = world.process().await;
        world.subscribe("people", TOPICS, true).await;
        world.subscribe("live", TOPICS, false).await;
        let (mut people, mut live) =
            (caught_up(&process, "people").await, caught_up(&process, "live").await);

        let log = server.store().join("jetstream/$G/streams/events-dir/msgs");
        let folder = if whole { server.store() } else { log };
        server.stop().await.unwrap();
        copy(&folder, backup.path());
        server.restart().await.unwrap();
        publish(&world, "lost", 5).await;
        until(&mut people, "lost4=4").await;
        until(&mut live, "lost4=4").await;
        let (of_people, of_live) = (people.id.clone(), live.id.clone());
        server.stop().await.unwrap();
        put_back(backup.path(), &folder);
        server.restart().await.unwrap();
        publish(&world, "new", 12).await;

        judge(&mut people, 12).await;
        judge(&mut live, 12).await;
        generation(&world, "people", 2).await;
        for (who, token) in [("people", of_people), ("live", of_live)] {
            let mut resumed = process.stream(who, Some(&token)).await;
            judge(&mut resumed, 12).await;
        }
    }
}

#[tokio::test]
async fn a_folder_put_back_while_nobody_looks() {
    let (folder, backup) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("bus");
    let open = async || Bus::connect(&format!("embedded://{}", path.display())).await.unwrap();
    let mut world = World::on(open().await).await;
    publish(&world, "old", 10).await;
    world.subscribe("people", TOPICS, true).await;
    world.subscribe("live", TOPICS, false).await;
    world.end().await;
    copy(&path, backup.path());

    let mut world = World::on(open().await).await;
    let process = world.process().await;
    publish(&world, "lost", 5).await;
    let mut tokens = Vec::new();
    for who in ["people", "live"] {
        world.finish_prefill(who).await;
        tokens.push((who, caught_up(&process, who).await.id));
    }
    process.stop().await;
    world.end().await;
    put_back(backup.path(), &path);

    let mut world = World::on(open().await).await;
    let process = world.process().await;
    world.finish_prefill("people").await;
    publish(&world, "new", 12).await;
    for (who, token) in tokens {
        let mut resumed = process.stream(who, Some(&token)).await;
        judge(&mut resumed, 12).await;
        let mut again = process.stream(who, Some(&resumed.id)).await;
        let shown = until(&mut again, "up-to-date").await;
        assert!(!shown.contains(&String::from("expired")), "{shown:?}");
    }
}
