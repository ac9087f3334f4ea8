//! Stream mode.

use std::time::Duration;

use lockgate::messages::{MessagesOptions, RingSize};

use super::support::{World, name};

#[tokio::test(start_paused = true)]
async fn prefill_comes_first_and_then_every_change() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    world.publish("dir.user", "bert", 2).await;
    world.publish("dir.user", "anna", 3).await;
    world.publish("dir.other", "x", 4).await;
    let process = world.process().await;
    world.register("people", &["dir.user"], true).await;
    world.publish("dir.user", "anna", 5).await;
    world.finish_prefill("people").await;

    let mut stream = process.stream("people", None).await;
    let headers = stream.response.headers().clone();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["cache-control"], "no-store, no-transform");
    assert_eq!(headers["x-accel-buffering"], "no");

    let start = stream.next().await.unwrap();
    assert_eq!((start.name.as_str(), &start.data["rows"]), ("prefill-start", &2.into()));
    assert_eq!(start.data["fence"]["dir"], 4);
    let mut rows = stream.take_shown(2).await;
    rows.sort();
    assert_eq!(rows, ["anna=3", "bert=2"]);
    let end = stream.next().await.unwrap();
    assert_eq!((end.name.as_str(), &end.data["rows"]), ("prefill-end", &2.into()));
    assert_eq!(stream.take_shown(2).await, ["anna=5", "up-to-date"]);

    world.publish("dir.other", "y", 6).await;
    world.publish("dir.user", "carl", 7).await;
    assert_eq!(stream.take_shown(1).await, ["carl=7"]);
    assert_eq!(stream.within(Duration::from_secs(60)).await, Vec::<String>::new());
    assert_eq!(stream.heartbeats, 4, "one each fifteen seconds of silence");
}

#[tokio::test(start_paused = true)]
async fn each_id_resumes_without_gap_or_repeat() {
    let mut world = World::new().await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 1).await;
        world.publish("late.user", key, 2).await;
    }
    let process = world.process().await;
    world.subscribe("people", &["*.*"], true).await;
    for key in ["a", "b", "c"] {
        world.publish("dir.user", key, 3).await;
    }

    let mut whole = process.stream("people", None).await;
    // Start, six rows, end, three live events, up to date.
    let all = whole.take_shown(12).await;
    assert_eq!(
        (all[0].as_str(), all[7].as_str(), all[11].as_str()),
        ("prefill-start", "prefill-end", "up-to-date")
    );
    let mut reader = process.stream("people", None).await;
    for taken in 1..=12 {
        reader.take_shown(1).await;
        let mut resumed = process.stream("people", Some(&reader.id)).await;
        // Whoever stood at the end is told once more that nothing is missing.
        let rest =
            if taken == 12 { vec![String::from("up-to-date")] } else { all[taken..].to_vec() };
        assert_eq!(resumed.take_shown(rest.len()).await, rest, "after {taken}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_prefill_is_done_there_is_progress_and_nothing_else() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    world.register("people", &["dir.*"], true).await;
    world.publish("dir.user", "anna", 2).await;
    let mut stream = process.stream("people", None).await;
    assert_eq!(stream.within(Duration::from_secs(30)).await, Vec::<String>::new());
    let early = stream.id.clone();
    assert!(!early.is_empty(), "the first frame has an id, to resume by");

    world.finish_prefill("people").await;
    let mut shown = stream.take_shown(5).await;
    shown.retain(|event| event != "progress");
    let rest = 5 - shown.len();
    shown.extend(stream.take_shown(rest).await);
    assert_eq!(shown, ["prefill-start", "anna=1", "prefill-end", "anna=2", "up-to-date"]);
    let mut resumed = process.stream("people", Some(&early)).await;
    assert_eq!(resumed.take_shown(5).await, shown);
}

#[tokio::test(start_paused = true)]
async fn another_prefill_starts_over_for_open_streams_and_old_tokens() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    let kept = world.subscribe("people", &["dir.*"], true).await;
    let mut stream = process.stream("people", None).await;
    stream.take_shown(4).await;
    let old = stream.id.clone();

    world.publish("dir.user", "anna", 2).await;
    assert_eq!(stream.take_shown(1).await, ["anna=2"]);
    world.registration.prefill_again(kept).await.unwrap();
    world.finish_prefill("people").await;
    let again = ["expired", "prefill-start", "anna=2", "prefill-end", "up-to-date"];
    let mut shown = stream.within(Duration::from_secs(5)).await;
    shown.retain(|event| event != "progress");
    assert_eq!(shown, again);
    let mut resumed = process.stream("people", Some(&old)).await;
    assert_eq!(resumed.take_shown(5).await, again);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_subscription_ends_its_streams() {
    let mut world = World::new().await;
    world.publish("dir.user", "anna", 1).await;
    let process = world.process().await;
    world.subscribe("people", &["dir.*"], false).await;
    let mut stream = process.stream("people", None).await;
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    world.registration.delete(&name("people"), None).await.unwrap();
    assert_eq!(stream.take_shown(1).await, ["deleted"]);
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_reader_behind_the_ring_catches_up_from_the_log_and_joins_it() {
    let mut world = World::new().await;
    world.publish("dir.user", "k", 0).await;
    let ring = RingSize { entries: 4, bytes: 1 << 20 };
    let process = world.process_with(MessagesOptions { ring, ..MessagesOptions::default() }).await;
    world.subscribe("people", &["dir.user"], false).await;
    let mut quick = process.stream("people", None).await;
    assert_eq!(quick.take_shown(1).await, ["up-to-date"]);
    for data in 1..=600 {
        world.publish("dir.user", "k", data).await;
        world.publish("dir.noise", "k", data).await;
    }
    let expected: Vec<String> = (1..=600).map(|data| format!("k={data}")).collect();
    let mut slow = process.stream("people", None).await;
    for stream in [&mut quick, &mut slow] {
        assert_eq!(stream.take_shown(600).await, expected);
        assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    }
    world.publish("dir.user", "k", 601).await;
    assert_eq!(quick.take_shown(1).await, ["k=601"]);
    assert_eq!(slow.take_shown(1).await, ["k=601"]);
}

#[tokio::test(start_paused = true)]
async fn a_realm_that_joins_later_is_served_from_its_beginning() {
    let mut world = World::new().await;
    world.publish("dir.user", "a", 1).await;
    let process = world.process().await;
    world.subscribe("all", &["*.*"], true).await;
    let mut stream = process.stream("all", None).await;
    assert_eq!(stream.take_shown(4).await.last().unwrap(), "up-to-date");
    world.publish("born.later", "b", 2).await;
    let shown = stream.within(Duration::from_secs(60)).await;
    assert!(shown.contains(&String::from("b=2")), "{shown:?}");
    let mut resumed = process.stream("all", Some(&stream.id)).await;
    assert_eq!(resumed.take_shown(1).await, ["up-to-date"]);
}

#[tokio::test(start_paused = true)]
async fn streams_end_on_shutdown_and_after_their_time() {
    let mut world = World::new().await;
    world.publish("dir.user", "a", 1).await;
    let max_stream_age = Duration::from_secs(100);
    let options = MessagesOptions { max_stream_age, ..MessagesOptions::default() };
    let process = world.process_with(options).await;
    world.subscribe("people", &["dir.*"], false).await;

    let opened = tokio::time::Instant::now();
    let mut stream = process.stream("people", None).await;
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    assert!(stream.next().await.is_none());
    let age = opened.elapsed();
    assert!((90..=111).contains(&age.as_secs()), "{age:?}");

    let mut stream = process.stream("people", None).await;
    assert_eq!(stream.take_shown(1).await, ["up-to-date"]);
    process.shutdown().cancel();
    let told = tokio::time::Instant::now();
    assert!(stream.next().await.is_none());
    process.stop().await;
    assert!(told.elapsed() < Duration::from_secs(1));
}
