//! Reading: state at a sequence, subjects, readers, holes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Target;
use super::bench::{
    Case, PATIENCE, ack_all, assert_refused, collect, eventually, read, refuses, sequences,
};
use crate::capability::{Capability, Support};
use crate::config::Start;
use crate::consumer::Consumer;
use crate::error::ErrorKind;
use crate::message::StoredMessage;
use crate::name::{Subject, SubjectFilter};
use crate::stream::Reader;

/// The state at a sequence is what was last then, for more subjects than fit a page, however
/// much was published since.
pub async fn state_at_sequence(target: &dyn Target) {
    const SUBJECTS: usize = 1100;
    let case = Case::new(target).await;
    if refuses(&case, Capability::StateAtSequence).await {
        return;
    }
    let round = |round: &'static str| {
        let messages = (0..SUBJECTS).map(move |n| format!("k.{n}"));
        messages.map(|rest| case.message(&rest, round)).collect::<Vec<_>>()
    };
    let mut fence = 0;
    for name in ["old", "fence", "new"] {
        for result in case.stream.publish_all(round(name)).await {
            let sequence = result.unwrap().sequence;
            fence = if name == "fence" { fence.max(sequence) } else { fence };
        }
    }
    case.publish("late").await;
    let mut subjects: Vec<_> = round("").into_iter().map(|message| message.subject).collect();
    subjects.push(Subject::new(case.subject("late")).unwrap());
    subjects.push(Subject::new(case.subject("never")).unwrap());
    let state = case.stream.last_at(&subjects, fence).await.unwrap();
    assert_eq!(state.len(), SUBJECTS, "one each, none for the late and the unknown");
    for message in &state {
        assert_eq!(message.payload.as_deref(), Some(&b"fence"[..]), "{}", message.subject);
        assert!(message.sequence <= fence);
    }
    let places = [SubjectFilter::new(case.subject("k.*")).unwrap()];
    let (mut told, mut all) = (BTreeMap::new(), BTreeMap::new());
    let tell = |subject: &str, sequence| _ = told.insert(subject.to_owned(), sequence);
    case.stream.state(&places, fence, tell).await.unwrap();
    let tell = |subject: &str, sequence| _ = all.insert(subject.to_owned(), sequence);
    case.stream.state(&[], fence, tell).await.unwrap();
    let last = state.iter().map(|message| (message.subject.to_string(), message.sequence));
    assert!(told == last.collect() && all == told, "the places are those of the messages");
    let mut none = 0;
    case.stream.state(&places, 0, |_, _| none += 1).await.unwrap();
    assert_eq!(none, 0, "nothing is before the first");
    let exact = &subjects[7..8];
    for (up_to, expected) in [(8, Some(8)), (7, None), (1107, Some(8)), (1108, Some(1108))] {
        let found = case.stream.last_at(exact, up_to).await.unwrap();
        assert_eq!(found.first().map(|message| message.sequence), expected, "at {up_to}");
    }
    if refuses(&case, Capability::SelectivePurge).await {
        let late = SubjectFilter::new(case.subject("late")).unwrap();
        return assert_refused(&case, case.stream.purge(&late).await, Capability::SelectivePurge);
    }
    // A sequence that was not given yet is the state now, also when the end of the log is gone.
    let last = case.stream.info().await.unwrap().last_sequence;
    let late = SubjectFilter::new(case.subject("late")).unwrap();
    for _ in 0..2 {
        for up_to in [last, last + 1, last + 1_000_000, u64::MAX] {
            let found = case.stream.last_at(exact, up_to).await.unwrap();
            assert_eq!(found.first().map(|message| message.sequence), Some(2208), "at {up_to}");
        }
        case.stream.purge(&late).await.unwrap();
    }
}

/// Every subject that holds a message is listed, sorted, each once; one that holds none is not.
pub async fn subjects_complete(target: &dyn Target) {
    const SUBJECTS: usize = 2500;
    let case = Case::new(target).await;
    let rest = |n: usize| match n % 2 {
        0 => format!("even.k{}", n % SUBJECTS),
        _ => format!("odd.k{}", n % SUBJECTS),
    };
    let messages = (0..2 * SUBJECTS).map(|n| case.message(&rest(n), "x"));
    for result in case.stream.publish_all(messages).await {
        result.unwrap();
    }
    let mut expected: Vec<_> = (0..SUBJECTS).map(|n| case.subject(&rest(n))).collect();
    expected.sort();
    let list = |filter: SubjectFilter| {
        let stream = case.stream.clone();
        async move {
            let subjects = stream.subjects(&filter).await.unwrap();
            subjects.iter().map(Subject::to_string).collect::<Vec<_>>()
        }
    };
    let filter = |rest: &str| SubjectFilter::new(case.subject(rest)).unwrap();
    assert!(list(SubjectFilter::all()).await == expected, "not every subject, sorted, once");
    assert_eq!(list(filter("odd.k1")).await, [case.subject("odd.k1")]);
    let purged = case.stream.purge(&filter("even.*")).await;
    if case.bus.support(Capability::SelectivePurge) == Support::Unsupported {
        return assert_refused(&case, purged, Capability::SelectivePurge);
    }
    let purged = purged.unwrap();
    assert_eq!(purged, SUBJECTS as u64);
    expected.retain(|subject| subject.contains(".odd."));
    assert!(list(SubjectFilter::all()).await == expected, "purged subjects are still listed");
    assert_eq!(list(filter("odd.k1")).await, [case.subject("odd.k1")]);
    assert!(list(filter("even.>")).await.is_empty());
}

/// What matches behind a sequence is counted, purged messages not, and nothing is left behind.
pub async fn counting(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::Counting).await {
        let refused = case.stream.count(&[], 0).await;
        return assert_refused(&case, refused, Capability::Counting);
    }
    let filter = |rest: &str| SubjectFilter::new(case.subject(rest)).unwrap();
    let count = |filters: Vec<SubjectFilter>, after: u64| {
        let stream = case.stream.clone();
        async move { stream.count(&filters, after).await.unwrap() }
    };
    assert_eq!(count(vec![], 0).await, 0, "an empty stream");
    // a.0 b.1 c.0 a.1 b.0 c.1 and so on: a has 1, 4, 7 ...
    for n in 0..60 {
        case.publish(&format!("{}.{}", ["a", "b", "c"][n % 3], n % 2)).await;
    }
    for (filters, after, expected) in [
        (vec![], 0, 60),
        (vec![], 59, 1),
        (vec![filter("a.*")], 0, 20),
        (vec![filter("a.*")], 1, 19),
        (vec![filter("a.*")], 58, 0),
        (vec![filter("a.0"), filter("b.>")], 30, 5 + 10),
        (vec![filter("none")], 0, 0),
        (vec![], 60, 0),
        (vec![], u64::MAX, 0),
    ] {
        assert_eq!(count(filters.clone(), after).await, expected, "{filters:?} after {after}");
    }
    let overlapping = case.stream.count(&[filter("a.*"), filter("a.1")], 0).await;
    assert_eq!(overlapping.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(case.bus.consumers(&case.name).await.unwrap(), []);
    if !refuses(&case, Capability::SelectivePurge).await {
        assert_eq!(case.stream.purge(&filter("a.0")).await.unwrap(), 10);
        assert_eq!(count(vec![filter("a.*")], 0).await, 10);
        assert_eq!(count(vec![], 30).await, 25);
    }
    let gone = case.bus.stream(&case.name).await.unwrap();
    case.bus.delete_stream(&case.name).await.unwrap();
    assert!(gone.count(&[], 0).await.unwrap_err().is_not_found());
}

/// A reader goes on where it stopped after the broker was away: no gap, no repeat.
pub async fn reader_resumes(target: &dyn Target) {
    let case = Case::new(target).await;
    case.publish_many("a", 10).await;
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let mut seen = read(&mut reader, 4).await;
    target.restart_broker().await.unwrap();
    seen.extend(read(&mut reader, 6).await);
    for n in 0..10 {
        let mut message = case.message("b", n.to_string());
        if case.bus.support(Capability::Deduplication) != Support::Unsupported {
            message = message.id(format!("b{n}"));
        }
        eventually("publish", || case.stream.publish(message.clone())).await;
    }
    seen.extend(read(&mut reader, 10).await);
    let seen: Vec<_> = seen.iter().map(|message| message.sequence).collect();
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    let nothing = reader.next(1, Duration::from_millis(200)).await.unwrap();
    assert!(nothing.is_empty(), "the reader repeats itself");
}

/// A page ends with the message that fills it, at one message at the least, and the next page goes
/// on behind it.
pub async fn pages_are_bounded_in_bytes(target: &dyn Target) {
    let case = Case::new(target).await;
    for n in 0..12 {
        let size = if n == 5 { 60_000 } else { 1000 };
        case.stream.publish(case.message("a", vec![b'x'; size])).await.unwrap();
    }
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let mut seen = Vec::new();
    for max_bytes in [0, 1, 3000, usize::MAX].into_iter().cycle() {
        let page = reader.next_within(100, max_bytes, PATIENCE).await.unwrap();
        let bytes: usize = page.iter().map(StoredMessage::size).sum();
        let last = page.last().map_or(0, StoredMessage::size);
        assert!(!page.is_empty() && (page.len() == 1 || bytes - last < max_bytes), "{bytes}");
        seen.extend(page.iter().map(|message| message.sequence));
        if seen.len() >= 12 {
            break;
        }
    }
    assert_eq!(seen, (1..=12).collect::<Vec<_>>());
}

/// Messages purged from the middle leave a hole that stops nobody, and no sequence is given twice.
pub async fn offset_gaps(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").open().await.unwrap();
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    for n in 0..12 {
        case.publish(if n % 3 == 1 { "gone" } else { "kept" }).await;
    }
    let kept = [1, 3, 4, 6, 7, 9, 10, 12];
    let before = read(&mut reader, 2).await;
    assert_eq!(before.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2]);
    if refuses(&case, Capability::SelectivePurge).await {
        return purged_whole(&case, &consumer, reader).await;
    }
    let gone = SubjectFilter::new(case.subject("gone")).unwrap();
    assert_eq!(case.stream.purge(&gone).await.unwrap(), 4);
    assert!(case.stream.get(5).await.unwrap().is_none());
    // A reader may have read ahead of the purge: what is kept comes, in order, whatever else does.
    let mut ahead = Vec::new();
    while ahead.last() != Some(&12) {
        ahead.push(read(&mut reader, 1).await[0].sequence);
    }
    assert!(ahead.is_sorted_by(|a, b| a < b), "{ahead:?}");
    ahead.retain(|sequence| sequence % 3 != 2);
    assert_eq!(ahead, kept[1..]);
    let mut after = case.stream.reader(&[], Start::Sequence(2)).await.unwrap();
    let after: Vec<_> = read(&mut after, 7).await.iter().map(|m| m.sequence).collect();
    assert_eq!(after, kept[1..]);
    let consumed = collect(&consumer, kept.len()).await;
    assert_eq!(sequences(&consumed), kept);
    ack_all(consumed).await;
    let info = case.info("c").await;
    assert_eq!((info.pending, info.unsettled), (0, 0));
    assert!(info.settled_sequence >= 12, "the hole holds the position at {info:?}");
    assert_eq!(case.stream.purge(&SubjectFilter::all()).await.unwrap(), 8);
    let info = case.stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (13, 12, 0));
    assert_eq!(case.publish("kept").await, 13);
    assert_eq!(sequences(&collect(&consumer, 1).await), [13]);
}

/// The same with the one hole that every backend can make: everything up to now.
async fn purged_whole(case: &Case, consumer: &Consumer, mut reader: Reader) {
    let first = collect(consumer, 1).await.remove(0);
    assert_eq!(first.message().sequence, 1);
    assert_eq!(case.stream.purge(&SubjectFilter::all()).await.unwrap(), 12);
    let info = case.stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (13, 12, 0));
    assert!(case.stream.get(5).await.unwrap().is_none());
    assert_eq!(case.publish("kept").await, 13);
    // What was read ahead of the purge comes, in order; then what is there.
    let (mut ahead, mut consumed) = (vec![2], vec![1]);
    while ahead.last() != Some(&13) {
        ahead.push(read(&mut reader, 1).await[0].sequence);
    }
    let mut out = vec![first];
    while consumed.last() != Some(&13) {
        out.extend(collect(consumer, 1).await);
        consumed = sequences(&out);
    }
    for seen in [&ahead, &consumed] {
        assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    }
    ack_all(out).await;
    case.wait_counts("c", (0, 0)).await;
    let info = case.info("c").await;
    assert!(info.settled_sequence >= 13, "the hole holds the position at {info:?}");
}
