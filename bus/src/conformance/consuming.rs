//! Consuming: who gets what, from where, how much at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::Target;
use super::bench::{
    Case, PATIENCE, SHORT_LEASE, ack_all, assert_refused, collect, read, refuses, sequences, unique,
};
use crate::capability::{Capability, Support};
use crate::config::{Retention, Start, StreamConfig};
use crate::error::ErrorKind;
use crate::name::SubjectFilter;

/// Every consumer gets every message, whatever the others do with it.
pub async fn fanout_groups(target: &dyn Target) {
    let case = Case::new(target).await;
    let one = case.consumer("one").open().await.unwrap();
    let two = case.consumer("two").open().await.unwrap();
    case.publish_many("a", 20).await;
    for consumer in [one, two] {
        let deliveries = collect(&consumer, 20).await;
        assert_eq!(sequences(&deliveries), (1..=20).collect::<Vec<_>>(), "in stream order");
        ack_all(deliveries).await;
    }
}

/// Those who share a consumer, over two connections, share its messages: each goes to one.
pub async fn competing_consumers(target: &dyn Target) {
    let case = Case::new(target).await;
    if case.bus.support(Capability::RemoteSettle) == Support::Unsupported {
        return members_share(target).await;
    }
    let one = case.consumer("c").open().await.unwrap();
    let two = case.again(target).await.bus.bind(&case.name, "c").await.unwrap();
    case.publish_many("a", 200).await;
    let mut got = BTreeSet::new();
    for _ in 0..20 {
        let (left, right) = tokio::join!(collect(&one, 5), collect(&two, 5));
        for delivery in left.into_iter().chain(right) {
            assert_eq!(delivery.attempt(), 1);
            assert!(got.insert(delivery.message().sequence), "delivered to both");
            delivery.ack_confirmed().await.unwrap();
        }
    }
    assert_eq!(got.len(), 200);
    case.assert_nothing_before_a_new_message(&one).await;
}

/// Where a part of the stream belongs to one process at a time, two share it by parts. What moves
/// to the other while it is settled may come twice, and says so to who settles it.
async fn members_share(target: &dyn Target) {
    const MESSAGES: usize = 200;
    let case = Case::with(target, |config| config.partitions = 4).await;
    let one = case.consumer("c").open().await.unwrap();
    let two = case.again(target).await.bus.bind(&case.name, "c").await.unwrap();
    let (mut settled, mut shares) = (BTreeSet::new(), [0, 0]);
    let deadline = Instant::now() + PATIENCE;
    // The first may have had everything before the second was there: then there is more to share.
    for round in 0.. {
        let messages = (0..MESSAGES).map(|n| case.message("a", "x").key(format!("{round}-{n}")));
        for result in case.stream.publish_all(messages).await {
            result.unwrap();
        }
        while settled.len() < (round + 1) * MESSAGES {
            assert!(Instant::now() < deadline, "{} messages are settled", settled.len());
            let wait = Duration::from_millis(50);
            let fetched = tokio::join!(one.fetch(5, wait), two.fetch(5, wait));
            for (share, fetched) in [fetched.0.unwrap(), fetched.1.unwrap()].into_iter().enumerate()
            {
                for delivery in fetched {
                    let sequence = delivery.message().sequence;
                    match delivery.ack_confirmed().await {
                        Ok(()) => {
                            assert!(settled.insert(sequence), "{sequence} came after its ack");
                            shares[share] += 1;
                        }
                        Err(moved) => assert_eq!(moved.error.kind(), ErrorKind::Stale),
                    }
                }
            }
        }
        if shares.iter().all(|share| *share > 0) {
            break;
        }
    }
    drop(two);
    let sentinel = case.publish("sentinel").await;
    let last = collect(&one, 1).await.remove(0);
    assert_eq!(last.message().sequence, sentinel, "a settled message came again");
    last.ack_confirmed().await.unwrap();
}

/// Each start position begins where it says, for consumers and for readers.
pub async fn start_position(target: &dyn Target) {
    let case = Case::new(target).await;
    for rest in ["a", "b", "a", "c", "b"] {
        case.publish(rest).await;
        // Times must differ for a start by time to name one message.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let third = case.stream.get(3).await.unwrap().unwrap().timestamp;
    let cases: [(&str, Start, &[u64]); 7] = [
        ("beginning", Start::Beginning, &[1, 2, 3, 4, 5, 6, 7]),
        ("new", Start::New, &[6, 7]),
        ("sequence", Start::Sequence(4), &[4, 5, 6, 7]),
        ("ahead", Start::Sequence(7), &[7]),
        ("time", Start::Time(third), &[3, 4, 5, 6, 7]),
        ("later", Start::Time(third + Duration::from_millis(1)), &[4, 5, 6, 7]),
        ("last", Start::LastPerSubject, &[3, 4, 5, 6, 7]),
    ];
    let mut opened = Vec::new();
    for (name, start, expected) in cases {
        let consumer = case.consumer(name).start(start).open().await.unwrap();
        let reader = case.stream.reader(&[], start).await.unwrap();
        opened.push((name, expected, consumer, reader));
    }
    case.publish("a").await;
    case.publish("a").await;
    for (name, expected, consumer, mut reader) in opened {
        let consumed = collect(&consumer, expected.len()).await;
        assert_eq!(sequences(&consumed), expected, "consumer from {name}");
        ack_all(consumed).await;
        let seen = read(&mut reader, expected.len()).await;
        let seen: Vec<_> = seen.iter().map(|message| message.sequence).collect();
        assert_eq!(seen, expected, "reader from {name}");
    }
}

/// A consumer and a reader get what matches one of their filters, in stream order, and no more.
pub async fn subject_filters(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::SubjectFilter).await {
        return;
    }
    let cases: [(&str, &[&str], &[u64]); 5] = [
        ("literal", &["user.anna"], &[1, 5]),
        ("star", &["user.*"], &[1, 2, 5]),
        ("rest", &["user.>"], &[1, 2, 4, 5]),
        ("several", &["group.*", "user.anna"], &[1, 3, 5]),
        ("inner", &["*.ben"], &[2]),
    ];
    let mut opened = Vec::new();
    for (name, filters, expected) in cases {
        let filters: Vec<_> = filters.iter().map(|rest| case.subject(rest)).collect();
        let consumer = filters.iter().fold(case.consumer(name), |c, filter| c.filter(filter));
        let filters: Vec<_> = filters.iter().map(|f| SubjectFilter::new(f).unwrap()).collect();
        let reader = case.stream.reader(&filters, Start::Beginning).await.unwrap();
        opened.push((name, expected, consumer.open().await.unwrap(), reader));
    }
    for rest in ["user.anna", "user.ben", "group.all", "user.anna.mail", "user.anna"] {
        case.publish(rest).await;
    }
    for (name, expected, consumer, mut reader) in opened {
        let consumed = collect(&consumer, expected.len()).await;
        assert_eq!(sequences(&consumed), expected, "consumer with {name}");
        ack_all(consumed).await;
        case.wait_counts(name, (0, 0)).await;
        let seen = read(&mut reader, expected.len()).await;
        let seen: Vec<_> = seen.iter().map(|message| message.sequence).collect();
        assert_eq!(seen, expected, "reader with {name}");
    }
    let (wide, narrow) = (case.subject("user.*"), case.subject("user.anna"));
    let overlapping = case.consumer("both").filter(&wide).filter(&narrow).open().await;
    assert_eq!(overlapping.map(|_| ()).unwrap_err().kind(), ErrorKind::Invalid);
}

/// No more deliveries are out than the consumer allows; settling one makes room for one.
pub async fn max_in_flight_and_resume(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").max_unsettled(5).open().await.unwrap();
    let other = case.bus.bind(&case.name, "c").await.unwrap();
    case.publish_many("a", 20).await;
    let mut out = collect(&consumer, 5).await;
    for blocked in [&consumer, &other] {
        let more = blocked.fetch(20, Duration::from_millis(500)).await.unwrap();
        assert!(more.is_empty(), "{} deliveries above the limit", more.len());
    }
    assert_eq!(case.info("c").await.unsettled, 5);
    let mut seen = sequences(&out);
    while seen.len() < 20 {
        let first = out.remove(0);
        first.ack_confirmed().await.unwrap();
        let next = collect(&other, 1).await;
        seen.extend(sequences(&next));
        out.extend(next);
    }
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    ack_all(out).await;
    case.assert_nothing_before_a_new_message(&consumer).await;
}

/// What the backend says about a consumer is what happened.
pub async fn consumer_info_counts(target: &dyn Target) {
    let case = Case::new(target).await;
    let consumer = case.consumer("c").filter(&case.subject("a")).open().await.unwrap();
    case.consumer("b").start(Start::New).metadata("owner", "me").open().await.unwrap();
    for _ in 0..5 {
        case.publish("a").await;
        case.publish("b").await;
    }
    case.wait_counts("c", (5, 0)).await;
    let mut out = collect(&consumer, 3).await;
    case.wait_counts("c", (2, 3)).await;
    assert_eq!(case.info("c").await.delivered_sequence, 5);
    out.remove(0).ack_confirmed().await.unwrap();
    let info = case.info("c").await;
    assert_eq!((info.pending, info.unsettled), (2, 2));
    assert!((1..3).contains(&info.settled_sequence), "{}", info.settled_sequence);
    out.remove(0).retry(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(case.info("c").await.unsettled, 2, "a delayed retry is unsettled");
    out.extend(collect(&consumer, 2).await);
    ack_all(out).await;
    let info = case.info("c").await;
    assert_eq!((info.pending, info.unsettled, info.delivered_sequence), (0, 1, 9));
    assert!(info.settled_sequence < 3, "3 is not settled: {}", info.settled_sequence);

    let consumers = case.bus.consumers(&case.name).await.unwrap();
    let names: Vec<_> = consumers.iter().map(|info| info.config.name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(consumers[0].config.metadata.get("owner").map(String::as_str), Some("me"));
    assert_eq!(case.stream.info().await.unwrap().consumers, 2);
    case.bus.delete_consumer(&case.name, "b").await.unwrap();
    let twice = case.bus.delete_consumer(&case.name, "b").await;
    assert!(twice.unwrap_err().is_not_found());
    assert!(case.bus.consumer_info(&case.name, "b").await.unwrap_err().is_not_found());
    assert!(case.bus.bind(&case.name, "b").await.map(|_| ()).unwrap_err().is_not_found());
}

/// On a work queue a settled message is gone, an unsettled one stays, and no two consumers share.
pub async fn work_queue_settles_away(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::WorkQueue).await {
        let name = unique("q");
        let mut config = StreamConfig::parse(&name, &[&format!("{name}.>")]).unwrap();
        config.retention = Retention::WorkQueue;
        let declared = case.bus.ensure_stream(&config).await;
        return assert_refused(&case, declared, Capability::WorkQueue);
    }
    let case = Case::with(target, |config| config.retention = Retention::WorkQueue).await;
    let jobs = case.subject("job.*");
    let consumer = case.consumer("c").filter(&jobs).ack_wait(SHORT_LEASE).open().await.unwrap();
    let overlap = case.consumer("d").filter(&case.subject("job.a")).open().await;
    assert_eq!(overlap.map(|_| ()).unwrap_err().kind(), ErrorKind::Invalid);
    for rest in ["job.a", "job.b", "job.c"] {
        case.publish(rest).await;
    }
    let mut out = collect(&consumer, 3).await;
    out.remove(2).reject("no such job").await.unwrap();
    out.remove(0).ack_confirmed().await.unwrap();
    drop(out);
    let again = collect(&consumer, 1).await.remove(0);
    assert_eq!((again.message().sequence, again.attempt()), (2, 2));
    case.wait_messages(1).await;
    again.ack_confirmed().await.unwrap();
    case.wait_messages(0).await;
}
