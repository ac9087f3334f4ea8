//! The state at a sequence: every subject, each with its last message at or before the fence.

use std::collections::BTreeMap;

use bus::{Start, Subject, SubjectFilter};

use super::{PATIENCE, message, raw, server, stream};

#[tokio::test(flavor = "multi_thread")]
async fn newer_messages_hide_nothing_on_ten_thousand_subjects() {
    const SUBJECTS: usize = 10_000;
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let subject = |n: usize| format!("s.{n:05}.{}", "x".repeat(1 + n % 700));
    let before = (0..SUBJECTS).map(|n| message(&subject(n), "before"));
    for result in stream.publish_all(before).await {
        result.unwrap();
    }
    let fence = stream.info().await.unwrap().last_sequence;
    let after = (0..SUBJECTS).step_by(2).map(|n| message(&subject(n), "after"));
    for result in stream.publish_all(after).await {
        result.unwrap();
    }
    stream.publish(message("s.late", "after")).await.unwrap();

    let subjects = stream.subjects(&SubjectFilter::all()).await.unwrap();
    assert_eq!(subjects.len(), SUBJECTS + 1);
    assert!(subjects.is_sorted());
    let state = stream.last_at(&subjects, fence).await.unwrap();
    let state: BTreeMap<_, _> = state.into_iter().map(|m| (m.subject.clone(), m)).collect();
    assert_eq!(state.len(), SUBJECTS);
    for n in 0..SUBJECTS {
        let found = &state[&Subject::new(subject(n)).unwrap()];
        assert_eq!(
            (found.sequence, found.payload.as_deref()),
            (n as u64 + 1, Some(&b"before"[..]))
        );
    }
    // In the middle: half of the subjects are born behind it, in the block that holds it.
    let half = stream.last_at(&subjects, fence / 2).await.unwrap();
    assert_eq!(half.len(), SUBJECTS / 2);
    assert!(half.iter().all(|message| message.sequence <= fence / 2));
    assert!(stream.last_at(&subjects[..10], 0).await.unwrap().is_empty());
    let none = [Subject::new("s.never").unwrap()];
    assert!(stream.last_at(&none, fence).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_written_again_is_found_wherever_it_stood_before() {
    const SUBJECTS: usize = 500;
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let subject = |n: usize| format!("s.{n}");
    // Every third subject has several messages before the fence, every fifth has none.
    let before = (0..3 * SUBJECTS).filter(|n| {
        !(n % SUBJECTS).is_multiple_of(5) && (*n < SUBJECTS || (n % SUBJECTS).is_multiple_of(3))
    });
    for result in stream.publish_all(before.map(|n| message(&subject(n % SUBJECTS), n))).await {
        result.unwrap();
    }
    let fence = stream.info().await.unwrap().last_sequence;
    let mut held = BTreeMap::<u64, Subject>::new();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    while held.len() < fence as usize {
        let read = reader.next(500, PATIENCE).await.unwrap();
        held.extend(read.into_iter().map(|m| (m.sequence, m.subject)));
    }
    for result in stream.publish_all((0..SUBJECTS).map(|n| message(&subject(n), "after"))).await {
        result.unwrap();
    }
    let subjects = stream.subjects(&SubjectFilter::all()).await.unwrap();
    let raw = raw(&server).await.get_stream("S").await.unwrap();
    for up_to in [fence, fence - 100, fence] {
        let wanted: BTreeMap<&Subject, u64> =
            held.range(..=up_to).map(|(sequence, subject)| (subject, *sequence)).collect();
        let state = stream.last_at(&subjects, up_to).await.unwrap();
        let state: BTreeMap<&Subject, u64> =
            state.iter().map(|m| (&m.subject, m.sequence)).collect();
        assert_eq!(state, wanted, "up to {up_to}");
        // What is removed between two questions is not told the second time.
        let last = *held.range(..=fence).next_back().unwrap().0;
        raw.delete_message(last).await.unwrap();
        held.remove(&last);
    }
}

#[tokio::test]
async fn what_other_clients_store_stops_nobody() {
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let foreign = [String::from("s.a.x*y"), format!("s.{}", "x".repeat(2000))];
    let client = raw(&server).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Lg-Key", "100%");
    for subject in &foreign {
        let sent = client.publish_with_headers(subject.clone(), headers.clone(), "theirs".into());
        sent.await.unwrap().await.unwrap();
    }
    stream.publish(message("s.ours", "ours")).await.unwrap();

    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(reader.next(10, PATIENCE).await.unwrap());
    }
    let subjects: Vec<&str> = read.iter().map(|m| m.subject.as_str()).collect();
    assert_eq!(subjects, [foreign[0].as_str(), &foreign[1], "s.ours"]);
    assert_eq!(read[0].key.as_deref(), Some(&b"100%"[..]));

    let consumer = bus.consumer("S", "c").open().await.unwrap();
    for delivery in consumer.fetch(3, PATIENCE).await.unwrap() {
        assert_eq!(delivery.message(), &read[delivery.message().sequence as usize - 1]);
        delivery.ack_confirmed().await.unwrap();
    }
    assert_eq!(consumer.info().await.unwrap().settled_sequence, 3);

    let held = stream.subjects(&SubjectFilter::all()).await.unwrap();
    assert_eq!(held.len(), 3);
    let mut state = stream.last_at(&held, 3).await.unwrap();
    state.sort_by_key(|message| message.sequence);
    assert_eq!(state, read);
}

#[tokio::test]
async fn a_reader_from_the_last_of_each_subject_then_everything_newer() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    for n in 0..6 {
        stream.publish(message(&format!("s.{}", n % 3), n)).await.unwrap();
    }
    let mut reader = stream.reader(&[], Start::LastPerSubject).await.unwrap();
    for n in 6..8 {
        stream.publish(message("s.0", n)).await.unwrap();
    }
    let mut read = Vec::new();
    while read.len() < 5 {
        read.extend(reader.next(10, PATIENCE).await.unwrap().into_iter().map(|m| m.sequence));
    }
    assert_eq!(read, [4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn purging_keeps_the_sequence() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    for n in 0..6 {
        stream.publish(message(&format!("s.{}", n % 3), n)).await.unwrap();
    }
    assert_eq!(stream.purge(&SubjectFilter::new("s.1").unwrap()).await.unwrap(), 2);
    assert_eq!(stream.subjects(&SubjectFilter::all()).await.unwrap().len(), 2);
    assert_eq!(stream.purge(&SubjectFilter::all()).await.unwrap(), 4);
    let info = stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (7, 6, 0));
}
