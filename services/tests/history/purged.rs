//! A log whose beginning was removed.

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use bus::SubjectFilter;
use lockgate::events::Ingest;
use lockgate::http::Access;
use lockgate::model::{CloudEvent, Prefill};
use lockgate::registration;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::support::{World, name, read};
use super::{generation, realm, until};

async fn purge(world: &World) {
    let log = world.store.log(&realm()).await.unwrap();
    log.purge(&SubjectFilter::all()).await.unwrap();
}

async fn ask(world: &World, method: &str, path: &str) -> (u16, Value) {
    let router = registration::router(world.registration.clone(), Access::open());
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    read(router.oneshot(request).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn without_prefill_the_client_is_told_and_goes_on() {
    let mut world = World::new().await;
    world.publish("dir.user", "k", 0).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.user"], false).await;
    world.publish("dir.user", "k", 1).await;
    purge(&world).await;
    world.publish("dir.user", "k", 2).await;
    let mut stream = process.stream("people", None).await;
    let lost = stream.next().await.unwrap();
    assert_eq!(lost.name, "expired");
    assert!(lost.data["reason"].as_str().unwrap().contains("begins at 3"), "{lost:?}");
    assert_eq!(stream.take_shown(2).await, ["k=2", "up-to-date"]);
    let mut resumed = process.stream("people", Some(&stream.id)).await;
    assert_eq!(resumed.take_shown(1).await, ["up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_the_state_when_an_admin_says_so() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("dir.user", "bert", 2).await;
    purge(&world).await;
    world.publish("dir.user", "anna", 3).await;
    world.register("people", &["dir.*"], true).await;
    let (status, realms) = ask(&world, "GET", "/v1/realms").await;
    assert_eq!((status, &realms["realms"][0]["history"]), (200, &json!("incomplete")));
    assert_eq!(realms["realms"][0]["first_sequence"], 3, "{realms}");

    world.register("live", &["dir.*"], false).await;
    world.finish_prefill("live").await;
    let reason = loop {
        let kept = world.store.subscription(&name("people")).await.unwrap().unwrap();
        match kept.subscription.prefill {
            Prefill::Failed { reason } => break reason,
            _ => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    assert!(reason.contains("lockgate realms accept-history dir"), "{reason}");

    let (status, _) = ask(&world, "POST", "/v1/realms/nowhere/accept-history").await;
    assert_eq!(status, 404);
    let (status, accepted) = ask(&world, "POST", "/v1/realms/dir/accept-history").await;
    assert_eq!((status, &accepted["history"]), (200, &json!("accepted")), "{accepted}");
    let (status, _) = ask(&world, "POST", "/v1/subscriptions/people/prefill").await;
    assert_eq!(status, 202);
    let kept = generation(&world, "people", 2).await;
    let Prefill::Done { manifest } = kept.subscription.prefill else { panic!() };
    assert_eq!(manifest.rows, 1);

    // What is lost after that is not covered.
    purge(&world).await;
    let (_, realms) = ask(&world, "GET", "/v1/realms").await;
    assert_eq!(realms["realms"][0]["history"], "incomplete");
    world.store.bus().delete_stream("events-dir").await.unwrap();
    let (_, realms) = ask(&world, "GET", "/v1/realms").await;
    assert_eq!(realms["realms"][0], json!({ "name": "dir", "history": "missing" }));
}

#[tokio::test(start_paused = true)]
async fn whoever_was_behind_is_told_how_to_go_on_and_nobody_else_is_disturbed() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], true).await;
    let mut behind = process.stream("people", None).await;
    until(&mut behind, "up-to-date").await;
    let token = behind.id.clone();
    drop(behind);
    world.publish("dir.user", "anna", 2).await;
    let mut quick = process.stream("people", Some(&token)).await;
    until(&mut quick, "anna=2").await;
    purge(&world).await;
    world.publish("dir.user", "anna", 3).await;

    let mut late = process.stream("people", Some(&token)).await;
    let told = late.next().await.unwrap();
    let reason = told.data["reason"].as_str().unwrap();
    assert!(reason.contains("lockgate realms accept-history dir"), "{reason}");
    assert_eq!(late.within(Duration::from_secs(60)).await, Vec::<String>::new());
    until(&mut quick, "anna=3").await;
    generation(&world, "people", 1).await;

    // Once that was said, a reader who is behind has the state sent anew.
    ask(&world, "POST", "/v1/realms/dir/accept-history").await;
    let mut later = process.stream("people", Some(&token)).await;
    let shown = until(&mut later, "up-to-date").await;
    assert_eq!(shown[0], "expired");
    assert!(shown.contains(&String::from("anna=3")), "{shown:?}");
    generation(&world, "people", 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_log_no_longer_holds_is_stored_again() {
    let world = World::new().await;
    let ingest = Ingest::new(world.store.clone());
    let event = |id: &str| {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/t", "type": "dir.user", "subject": id,
        });
        CloudEvent::from_json(event.to_string().as_bytes()).unwrap()
    };
    let (one, two) = (event("1"), event("2"));
    let publish = async |event: &CloudEvent| {
        let receipt = ingest.publish(std::slice::from_ref(event)).await.remove(0).unwrap();
        (receipt.sequence, receipt.duplicate)
    };
    assert_eq!(publish(&one).await, (1, false));
    assert_eq!(publish(&one).await, (1, true));
    for gone in [1, 2] {
        purge(&world).await;
        assert_eq!(publish(&one).await, (gone + 1, false));
        assert_eq!(publish(&one).await, (gone + 1, true), "by whatever id it was stored");
    }
    assert_eq!(publish(&two).await, (4, false));
}
