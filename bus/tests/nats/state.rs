//! The state at a sequence: every subject, each with its last message at or before the fence.

use std::collections::BTreeMap;

use bus::{Start, Subject, SubjectFilter};

use super::{PATIENCE, message, server, stream};

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
