//! What an `EventSource` meets while the bus is away: by the HTML standard, any status but 200 ends
//! it for good.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use bus::fault::{FaultRates, Faults};

use super::support::{Process, SECRET, Stream, World};

const AWAY: FaultRates = FaultRates { fail_before: 1000, ..FaultRates::NONE };

async fn open(process: &Process, accept: &str, last_id: &str) -> Response<Body> {
    let request = Request::get("/v1/subscriptions/people/events")
        .header("authorization", format!("Bearer {SECRET}"))
        .header("accept", accept)
        .header("last-event-id", last_id);
    process.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_passing_fault_is_waited_for_within_the_answer() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.subscribe("people", &["dir.*"], true).await;
    let faults = Faults::new(1);
    let process = world.disturbed_process(&faults).await;
    let first = open(&process, "text/event-stream", "").await;
    let mut stream = Stream::new(first);
    assert_eq!(stream.take_shown(4).await.last().unwrap(), "up-to-date");

    faults.set_rates(AWAY);
    let again = open(&process, "text/event-stream", &stream.id).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.headers()["content-type"], "text/event-stream");
    let mut again = Stream::new(again);
    let waiting = again.next().await.unwrap();
    assert_eq!(
        (waiting.name.as_str(), &waiting.data["reason"]),
        ("waiting", &"the bus is away".into())
    );
    assert_eq!(again.id, "", "it says nothing of where the client stands");
    assert_eq!(again.within(Duration::from_secs(20)).await, Vec::<String>::new());
    assert_eq!(again.heartbeats, 1);
    world.publish("dir.user", "anna", 2).await;
    faults.set_rates(FaultRates::NONE);
    assert_eq!(again.take_shown(2).await, ["anna=2", "up-to-date"]);

    // Nobody is kept for ever without having been asked who he is.
    faults.set_rates(AWAY);
    let mut kept = Stream::new(open(&process, "text/event-stream", &stream.id).await);
    let started = tokio::time::Instant::now();
    assert_eq!(kept.next().await.unwrap().name, "waiting");
    assert!(kept.next().await.is_none());
    assert!(started.elapsed() <= Duration::from_secs(60), "{:?}", started.elapsed());

    // Whoever reads statuses gets one.
    let plain = open(&process, "*/*", &stream.id).await;
    assert_eq!(plain.status(), 503);
    assert!(plain.headers().contains_key("retry-after"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_a_status_also_for_an_event_source() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.subscribe("people", &["dir.*"], false).await;
    let process = world.process().await;
    for (path, status) in [("people", 401), ("nobody", 404)] {
        let request = Request::get(format!("/v1/subscriptions/{path}/events"))
            .header("accept", "text/event-stream");
        let refused = process.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(refused.status(), status);
    }
}
