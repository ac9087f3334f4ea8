//! Transactions that are open, of other programs and of this crate's own units: what was
//! acknowledged beside them is never reported as absent.

use bus::{BucketConfig, BucketName, Bus, Capability, Start, Stream, Subject, SubjectFilter};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use tokio_util::sync::CancellationToken;

use super::reading::{raw, read};
use super::{PATIENCE, message, shared, stream, unique};

/// Another program's transaction, with three records in partition 0.
async fn begin(url: &str, topic: &str) -> FutureProducer {
    let mut config = raw(url);
    config.set("transactional.id", unique("foreign")).set("transaction.timeout.ms", "120000");
    let producer: FutureProducer = config.create().unwrap();
    let begun = producer.clone();
    let begin = move || {
        begun.init_transactions(PATIENCE).unwrap();
        begun.begin_transaction().unwrap();
    };
    tokio::task::spawn_blocking(begin).await.unwrap();
    for n in 0..3 {
        let key = format!("theirs{n}");
        let record = FutureRecord::to(topic).key(&key).payload("theirs").partition(0);
        producer.send(record, PATIENCE).await.unwrap();
    }
    producer
}

async fn end(producer: FutureProducer, commit: bool) {
    let end = move || match commit {
        true => producer.commit_transaction(PATIENCE).unwrap(),
        false => producer.abort_transaction(PATIENCE).unwrap(),
    };
    tokio::task::spawn_blocking(end).await.unwrap();
}

fn subject(stream: &Stream, rest: &str) -> Subject {
    Subject::new(format!("{}.{rest}", stream.name())).unwrap()
}

fn body(message: &bus::StoredMessage) -> &str {
    std::str::from_utf8(message.payload.as_deref().unwrap()).unwrap()
}

#[tokio::test]
async fn what_an_open_transaction_hides_is_an_error_and_never_an_older_truth() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let name = stream.name().to_string();
    stream.publish(message(&stream, "a", "v1")).await.unwrap();
    let theirs = begin(&broker.url(), &name).await;
    let last = stream.publish(message(&stream, "a", "v2")).await.unwrap().sequence;
    assert_eq!(stream.publish(message(&stream, "b", "w1")).await.unwrap().sequence, last + 1);

    // Another process has seen nothing of it.
    let other = Bus::connect(&broker.url()).await.unwrap();
    let there = other.stream(&name).await.unwrap();
    let (all, both) = (SubjectFilter::all(), [subject(&stream, "a"), subject(&stream, "b")]);
    let last_per_subject = other.consumer(&name, "early").start(Start::LastPerSubject).open();
    let (get, subjects, state, consumer) = tokio::join!(
        there.get(last),
        there.subjects(&all),
        there.last_at(&both, last + 1),
        last_per_subject
    );
    let refused = [
        ("get", get.err()),
        ("subjects", subjects.err()),
        ("last_at", state.err()),
        ("consumer", consumer.err()),
    ];
    for (what, error) in refused {
        let error = error.unwrap_or_else(|| panic!("{what} answers as if nothing was stored"));
        assert!(error.is_retryable() && error.to_string().contains("transaction"), "{error}");
    }
    assert_eq!(there.info().await.unwrap().last_sequence, last + 1);
    let before = there.last_at(&both, 1).await.unwrap();
    assert_eq!(before.iter().map(body).collect::<Vec<_>>(), ["v1"], "this is not hidden");
    // What begins now does so behind what was published.
    let mut reader = there.reader(&[], Start::New).await.unwrap();
    let consumer = other.consumer(&name, "new").start(Start::New).open().await.unwrap();
    stream.publish(message(&stream, "a", "v3")).await.unwrap();

    end(theirs, false).await;
    assert_eq!(body(&there.get(last).await.unwrap().unwrap()), "v2");
    assert_eq!(there.subjects(&all).await.unwrap(), both);
    let state = there.last_at(&both, last + 1).await.unwrap();
    assert_eq!(state.iter().map(body).collect::<Vec<_>>(), ["v2", "w1"]);
    assert_eq!(body(&read(&mut reader, 1).await[0]), "v3");
    let fetched = consumer.fetch(10, PATIENCE).await.unwrap();
    assert_eq!(fetched.iter().map(|d| body(d.message())).collect::<Vec<_>>(), ["v3"]);
    let last_per_subject =
        other.consumer(&name, "early").start(Start::LastPerSubject).open().await.unwrap();
    let fetched = last_per_subject.fetch(10, PATIENCE).await.unwrap();
    assert_eq!(fetched.iter().map(|d| body(d.message())).collect::<Vec<_>>(), ["w1", "v3"]);
}

#[tokio::test]
async fn a_transaction_that_ends_soon_is_waited_for() {
    let (broker, bus) = shared().await;
    for commit in [true, false] {
        let stream = stream(&bus, |_| {}).await;
        stream.publish(message(&stream, "a", "v1")).await.unwrap();
        let theirs = begin(&broker.url(), stream.name().as_str()).await;
        let last = stream.publish(message(&stream, "a", "v2")).await.unwrap().sequence;
        let (got, ()) = tokio::join!(stream.get(last), end(theirs, commit));
        assert_eq!(body(&got.unwrap().unwrap()), "v2");
        // The marker is the last that is stored, and nobody waits for what comes behind it.
        let all = stream.subjects(&SubjectFilter::all()).await.unwrap();
        assert_eq!(all.len(), if commit { 2 } else { 1 }, "theirs have the stream's own subject");
        assert_eq!(stream.get(last + 1).await.unwrap(), None, "a marker is no message");
    }
}

#[tokio::test]
async fn a_purge_removes_what_was_acknowledged_behind_an_open_transaction() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    stream.publish(message(&stream, "a", "v1")).await.unwrap();
    let theirs = begin(&broker.url(), stream.name().as_str()).await;
    let last = stream.publish(message(&stream, "a", "v2")).await.unwrap().sequence;
    assert_eq!(stream.purge(&SubjectFilter::all()).await.unwrap(), last);
    stream.publish(message(&stream, "b", "after")).await.unwrap();
    end(theirs, true).await;
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    assert_eq!(body(&read(&mut reader, 1).await[0]), "after");
    assert_eq!(stream.get(last).await.unwrap(), None);
}

#[tokio::test]
async fn units_at_work_hide_nothing_that_was_acknowledged() {
    const PUBLISHES: usize = 60;
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let stop = CancellationToken::new();
    let units = async {
        let mut count = 0;
        while !stop.is_cancelled() {
            let unit = bus.unit().publish(&stream, message(&stream, "unit", count));
            unit.commit().await.unwrap();
            count += 1;
        }
        count
    };
    let reads = async {
        let _stop = stop.clone().drop_guard();
        for n in 0..PUBLISHES {
            let text = n.to_string();
            let receipt = stream.publish(message(&stream, "a", &text)).await.unwrap().sequence;
            let asked = [subject(&stream, "a")];
            let (got, state, info) =
                tokio::join!(stream.get(receipt), stream.last_at(&asked, receipt), stream.info());
            assert_eq!(body(&got.unwrap().expect("it was acknowledged")), text);
            assert_eq!(body(&state.unwrap()[0]), text);
            assert!(info.unwrap().last_sequence >= receipt);
        }
    };
    let (count, ()) = tokio::join!(units, reads);
    assert!(count > 0);
}

/// A table is in step with its topic also where a transaction's marker is the last that it holds.
#[tokio::test]
async fn a_bucket_that_another_program_writes_in_transactions() {
    let (broker, bus) = shared().await;
    let name = unique("b");
    bus.ensure_bucket(&BucketConfig::new(BucketName::new(&name).unwrap())).await.unwrap();
    let open = async |bus: &Bus| bus.kv_for(&name, &[Capability::KvWatch]).await.unwrap();
    open(&bus).await.put("a", "1").await.unwrap();
    let theirs = begin(&broker.url(), &format!("lockgate.kv.{name}")).await;
    end(theirs, true).await;
    let other = Bus::connect(&broker.url()).await.unwrap();
    let there = open(&other).await;
    let value = there.get("theirs2").await.unwrap().unwrap().value;
    assert_eq!(&value[..], b"theirs");

    // A bucket is opened when all that was written before is there, or not at all.
    let theirs = begin(&broker.url(), &format!("lockgate.kv.{name}")).await;
    let third = Bus::connect(&broker.url()).await.unwrap();
    let (opened, ()) = tokio::join!(open(&third), end(theirs, false));
    let value = opened.get("theirs2").await.unwrap().unwrap().value;
    assert_eq!(&value[..], b"theirs");
}
