use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Embedded;
use crate::driver::KvChange;
use crate::{
    BucketConfig, BucketName, Bus, ConsumerName, ErrorKind, Message, Retention, Start, Stream,
    StreamConfig, SubjectFilter, WhenFull,
};

const NO_WAIT: Duration = Duration::ZERO;

fn bus() -> Bus {
    Bus::with_driver(std::sync::Arc::new(Embedded::new()))
}

async fn stream(bus: &Bus, change: impl FnOnce(&mut StreamConfig)) -> Stream {
    let mut config = StreamConfig::parse("s", &["s.>"]).unwrap();
    change(&mut config);
    bus.ensure_stream(&config).await.unwrap()
}

async fn publish(stream: &Stream, subject: &str) -> crate::Result<u64> {
    let message = Message::new(subject, "0123456789").unwrap();
    stream.publish(message).await.map(|receipt| receipt.sequence)
}

#[tokio::test(start_paused = true)]
async fn a_waiting_fetch_wakes_for_a_message_and_for_the_end_of_a_lease_taken_since() {
    let bus = bus();
    let stream = stream(&bus, |_| {}).await;
    let lease = Duration::from_secs(3);
    let consumer = bus.consumer("s", "c").ack_wait(lease).open().await.unwrap();
    let (other, started) = (consumer.clone(), Instant::now());
    let waiting = tokio::spawn(async move {
        let first = other.fetch(1, Duration::from_secs(60)).await.unwrap();
        assert_eq!(first[0].attempt(), 1);
        let second = other.fetch(1, Duration::from_secs(60)).await.unwrap();
        (second[0].message().sequence, second[0].attempt(), started.elapsed())
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(&stream, "s.a").await.unwrap();
    let (sequence, attempt, elapsed) = waiting.await.unwrap();
    assert_eq!((sequence, attempt), (1, 2));
    assert_eq!(elapsed.as_secs(), 4, "one second until the message, three of lease");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_sleeps_learns_of_a_lease_that_another_took() {
    let bus = bus();
    let stream = stream(&bus, |_| {}).await;
    let consumer = bus.consumer("s", "c").ack_wait(Duration::from_secs(2)).open().await.unwrap();
    let sleeper = consumer.clone();
    let sleeping =
        tokio::spawn(async move { sleeper.fetch(1, Duration::from_secs(3600)).await.unwrap() });
    tokio::task::yield_now().await;
    publish(&stream, "s.a").await.unwrap();
    // Taken before the sleeper, which is woken by the publish, is polled.
    assert_eq!(consumer.fetch(1, NO_WAIT).await.unwrap().len(), 1);
    let started = Instant::now();
    let again = sleeping.await.unwrap();
    assert_eq!((again[0].attempt(), started.elapsed().as_secs()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_fetch_takes_nothing() {
    let bus = bus();
    let stream = stream(&bus, |_| {}).await;
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let waiting = consumer.fetch(1, Duration::from_secs(60));
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err());
    publish(&stream, "s.a").await.unwrap();
    assert_eq!(consumer.fetch(9, NO_WAIT).await.unwrap()[0].attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn limits_refuse_or_drop_the_oldest() {
    let bus = bus();
    let stream = stream(&bus, |config| config.max_messages = Some(2)).await;
    for _ in 0..2 {
        publish(&stream, "s.a").await.unwrap();
    }
    assert_eq!(publish(&stream, "s.a").await.unwrap_err().kind(), ErrorKind::Full);
    let mut config = stream.info().await.unwrap().config;
    (config.when_full, config.max_messages) = (WhenFull::DropOldest, None);
    config.max_bytes = Some(30);
    let stream = bus.ensure_stream(&config).await.unwrap();
    assert_eq!(publish(&stream, "s.b").await.unwrap(), 3);
    let info = stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.messages, info.bytes), (2, 2, 26));
    let huge = Message::new("s.a", vec![0; 40]).unwrap();
    assert_eq!(stream.publish(huge).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(stream.info().await.unwrap().messages, 2, "what cannot fit evicts nothing");
}

#[tokio::test(start_paused = true)]
async fn age_drops_messages_for_consumers_and_readers_alike() {
    let bus = bus();
    let age = Duration::from_secs(10);
    let stream = stream(&bus, |config| config.max_age = Some(age)).await;
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    publish(&stream, "s.old").await.unwrap();
    tokio::time::advance(Duration::from_secs(9)).await;
    publish(&stream, "s.new").await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    let read = reader.next(9, NO_WAIT).await.unwrap();
    assert_eq!(read.iter().map(|m| m.sequence).collect::<Vec<_>>(), [2]);
    assert_eq!(consumer.fetch(9, NO_WAIT).await.unwrap().len(), 1);
    let subjects = stream.subjects(&SubjectFilter::all()).await.unwrap();
    assert_eq!(subjects.len(), 1);
    assert_eq!(read[0].timestamp, stream.get(2).await.unwrap().unwrap().timestamp);
}

#[tokio::test(start_paused = true)]
async fn a_work_queue_forgets_what_is_settled_and_keeps_what_was_given_up() {
    let bus = bus();
    let stream = stream(&bus, |config| config.retention = Retention::WorkQueue).await;
    for _ in 0..3 {
        publish(&stream, "s.a").await.unwrap();
    }
    let builder = || bus.consumer("s", "c").ack_wait(Duration::from_secs(1)).max_attempts(1);
    let consumer = builder().open().await.unwrap();
    let mut taken = consumer.fetch(3, NO_WAIT).await.unwrap();
    let given_up = taken.remove(0);
    taken.remove(0).ack_confirmed().await.unwrap();
    taken.remove(0).reject("bad").await.unwrap();
    assert_eq!(stream.info().await.unwrap().messages, 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(consumer.fetch(3, NO_WAIT).await.unwrap().is_empty());
    let late = consumer.settle(given_up.token(), crate::Settlement::Ack).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
    let overlapping = bus.consumer("s", "d").filter("s.*").open().await.map(|_| ());
    assert_eq!(overlapping.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn subjects_belong_to_one_stream() {
    let bus = bus();
    let stream = stream(&bus, |_| {}).await;
    let other = StreamConfig::parse("t", &["s.a.*"]).unwrap();
    let kind = |result: crate::Result<Stream>| result.map(|_| ()).unwrap_err().kind();
    assert_eq!(kind(bus.ensure_stream(&other).await), ErrorKind::Invalid);
    assert_eq!(publish(&stream, "t.a").await.unwrap_err().kind(), ErrorKind::Invalid);
    bus.delete_stream("s").await.unwrap();
    bus.ensure_stream(&other).await.unwrap();
    assert!(publish(&stream, "s.a").await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn deleting_and_closing_end_every_wait() {
    let (first, day) = (Embedded::new(), Duration::from_secs(86_400));
    let second = Bus::with_driver(std::sync::Arc::new(first.another()));
    let bus = Bus::with_driver(std::sync::Arc::new(first));
    let stream = stream(&bus, |_| {}).await;
    let kv = bus.ensure_kv(&BucketConfig::new(BucketName::new("b").unwrap())).await.unwrap();
    let mut watch = kv.watch(">").await.unwrap();
    assert_eq!(watch.next().await.unwrap(), KvChange::Synced);
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let mut reader = stream.reader(&[], Start::New).await.unwrap();
    let watched = tokio::spawn(async move { watch.next().await.unwrap_err().kind() });
    let fetched = tokio::spawn(async move {
        let gone = consumer.fetch(1, day).await.unwrap_err().kind();
        (gone, ConsumerName::new("c").unwrap() == *consumer.name())
    });
    let read = tokio::spawn(async move { reader.next(1, day).await.unwrap_err().kind() });
    tokio::task::yield_now().await;
    second.delete_consumer("s", "c").await.unwrap();
    assert_eq!(fetched.await.unwrap(), (ErrorKind::NotFound, true));
    second.delete_kv("b").await.unwrap();
    assert_eq!(watched.await.unwrap(), ErrorKind::NotFound);
    bus.close().await.unwrap();
    assert_eq!(read.await.unwrap(), ErrorKind::Closed);
    assert_eq!(stream.info().await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(second.stream("s").await.is_ok(), "another connection stays open");
}

#[tokio::test(start_paused = true)]
async fn a_watch_nobody_reads_keeps_the_last_change_of_each_key() {
    let bus = bus();
    let kv = bus.ensure_kv(&BucketConfig::new(BucketName::new("b").unwrap())).await.unwrap();
    let mut watch = kv.watch("k.*").await.unwrap();
    for round in 0..70_000_u32 {
        kv.put(format!("k.{}", round % 2), round.to_string()).await.unwrap();
    }
    kv.delete("k.0", None).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), KvChange::Synced);
    let (mut last, mut changes) = (0, 0);
    let deleted = loop {
        match watch.next().await.unwrap() {
            KvChange::Put(entry) => {
                assert!(entry.revision > last, "in order");
                (last, changes) = (entry.revision, changes + 1);
            }
            KvChange::Delete { revision, .. } => break revision,
            KvChange::Synced => unreachable!("comes once"),
        }
    };
    assert_eq!((deleted, last), (70_001, 70_000));
    assert!(changes < 10_000, "{changes} changes were kept");
}

#[tokio::test(start_paused = true)]
async fn keys_vanish_with_age_and_count_against_the_limit() {
    let bus = bus();
    let mut config = BucketConfig::new(BucketName::new("b").unwrap());
    (config.max_age, config.max_bytes) = (Some(Duration::from_secs(5)), Some(4));
    let kv = bus.ensure_kv(&config).await.unwrap();
    let first = kv.create("a", "xy").await.unwrap();
    assert_eq!(kv.put("b", "xy").await.unwrap_err().kind(), ErrorKind::Full);
    kv.update("a", "xyz", first).await.unwrap();
    assert!(kv.delete("a", Some(0)).await.unwrap_err().is_conflict());
    tokio::time::advance(Duration::from_secs(5)).await;
    assert!(kv.get("a").await.unwrap().is_none());
    assert!(kv.create("b", "xyz").await.unwrap() > first + 1);
    assert!(kv.delete("a", Some(first)).await.unwrap_err().is_conflict());
}

#[tokio::test(start_paused = true)]
async fn a_paused_consumer_gets_nothing_and_goes_on_by_itself() {
    let bus = bus();
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    stream.publish(Message::new("s.a", "x").unwrap()).await.unwrap();
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let until = stream.get(1).await.unwrap().unwrap().timestamp + Duration::from_secs(60);
    bus.pause("s", "c", until).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().paused_until, Some(until));
    assert!(consumer.fetch(1, Duration::from_secs(59)).await.unwrap().is_empty());
    assert_eq!(consumer.fetch(1, Duration::from_secs(2)).await.unwrap().len(), 1);
    assert_eq!(consumer.info().await.unwrap().paused_until, None);
}

#[tokio::test(start_paused = true)]
async fn a_moved_consumer_starts_over_and_old_leases_are_void() {
    let bus = bus();
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    for body in ["1", "2", "3"] {
        stream.publish(Message::new("s.a", body).unwrap()).await.unwrap();
    }
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let mut first = consumer.fetch(2, Duration::ZERO).await.unwrap();
    first.pop().unwrap().ack_confirmed().await.unwrap();
    bus.seek("s", "c", Start::Sequence(1)).await.unwrap();
    let stale = first.pop().unwrap().ack_confirmed().await.unwrap_err();
    assert_eq!(stale.error.kind(), ErrorKind::Stale);
    let again = consumer.fetch(9, Duration::ZERO).await.unwrap();
    let seen: Vec<_> = again.iter().map(|d| (d.message().sequence, d.attempt())).collect();
    assert_eq!(seen, [(1, 1), (2, 1), (3, 1)]);
    assert_eq!(consumer.info().await.unwrap().settled_sequence, 0);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_enters_when_it_is_due_and_wakes_who_waits() {
    let bus = bus();
    let config = StreamConfig { delayed: true, ..StreamConfig::parse("s", &["s.>"]).unwrap() };
    let stream = bus.ensure_stream(&config).await.unwrap();
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    stream.publish(Message::new("s.a", "now").unwrap()).await.unwrap();
    let due = stream.get(1).await.unwrap().unwrap().timestamp + Duration::from_secs(30);
    let later = Message::new("s.a", "later").unwrap().id("one").not_before(due);
    assert_eq!(stream.publish(later.clone()).await.unwrap().sequence, 0);
    assert!(stream.publish(later).await.unwrap().duplicate);
    consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0).ack().await.unwrap();
    reader.next(1, Duration::ZERO).await.unwrap();
    let (delivered, read) = tokio::join!(
        consumer.fetch(1, Duration::from_secs(60)),
        reader.next(1, Duration::from_secs(60))
    );
    let delivered = delivered.unwrap().remove(0);
    assert_eq!((delivered.message().sequence, delivered.attempt()), (2, 1));
    assert!(delivered.message().timestamp >= due);
    assert_eq!(read.unwrap(), [delivered.message().clone()]);
    let conditional = Message::new("s.a", "x").unwrap().not_before(due).expect_last(2);
    assert_eq!(stream.publish(conditional).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_unit_is_done_as_a_whole_or_not_at_all() {
    let bus = bus();
    let inputs = bus.ensure_stream(&StreamConfig::parse("in", &["in.>"]).unwrap()).await.unwrap();
    let full =
        StreamConfig { max_messages: Some(1), ..StreamConfig::parse("out", &["out"]).unwrap() };
    let outputs = bus.ensure_stream(&full).await.unwrap();
    inputs.publish(Message::new("in.a", "x").unwrap()).await.unwrap();
    let consumer = bus.consumer("in", "c").open().await.unwrap();
    let delivery = consumer.fetch(1, Duration::ZERO).await.unwrap().remove(0);
    let output = || Message::new("out", "y").unwrap();
    let both = bus.unit().settle(delivery).publish(&outputs, output()).publish(&outputs, output());
    let mut failed = both.commit().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::Full);
    assert_eq!(outputs.info().await.unwrap().messages, 0, "half of the unit was stored");
    assert_eq!(consumer.info().await.unwrap().unsettled, 1, "half of the unit was settled");
    let one = bus.unit().settle(failed.deliveries.remove(0)).publish(&outputs, output());
    let done = one.commit().await.unwrap();
    assert_eq!((done.guarantee, done.receipts.len()), (crate::Guarantee::Exactly, 1));
    assert_eq!(consumer.info().await.unwrap().unsettled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_question_goes_to_one_of_each_group_and_the_first_answer_counts() {
    let bus = bus();
    let ask = || bus.request(Message::new("q.a", "?").unwrap(), Duration::from_secs(1));
    assert!(ask().await.unwrap_err().is_not_found());
    let mut one = bus.responder("q.*", "g").await.unwrap();
    let mut other = bus.responder("q.>", "g").await.unwrap();
    assert_eq!(ask().await.unwrap_err().kind(), ErrorKind::Timeout);
    one.next().await.unwrap();
    let answering = async {
        let asked = other.next().await.unwrap();
        assert_eq!(asked.message().payload.as_deref(), Some(&b"?"[..]));
        asked.answer(Message::new("a", "!").unwrap()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(ask(), answering);
    assert_eq!(answer.unwrap().payload.as_deref(), Some(&b"!"[..]));
}

/// Whoever asks holds what comes, so that bytes bound it and not numbers alone.
#[tokio::test(start_paused = true)]
async fn what_is_large_comes_in_smaller_pages_and_all_of_it_comes() {
    const MESSAGES: usize = 40;
    let bus = bus();
    let stream = bus.ensure_stream(&StreamConfig::parse("s", &["s.>"]).unwrap()).await.unwrap();
    for _ in 0..MESSAGES {
        stream.publish(Message::new("s.a", vec![0; 1 << 20]).unwrap()).await.unwrap();
    }
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let consumer = bus.consumer("s", "c").open().await.unwrap();
    let (mut read, mut fetched) = (0, 0);
    while read < MESSAGES {
        let page = reader.next(1000, NO_WAIT).await.unwrap();
        assert!((1..=9).contains(&page.len()), "{} MiB at once", page.len());
        read += page.len();
    }
    while fetched < MESSAGES {
        let page = consumer.fetch(1000, NO_WAIT).await.unwrap();
        assert!((1..=17).contains(&page.len()), "{} MiB at once", page.len());
        fetched += page.len();
    }
    assert_eq!((read, fetched), (MESSAGES, MESSAGES));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_nobody_reads_keeps_large_values_no_longer_than_they_stand() {
    let backend = Embedded::new();
    let bus = Bus::with_driver(Arc::new(backend.another()));
    let bucket = BucketConfig::new(BucketName::new("b").unwrap());
    let kv = bus.ensure_kv(&bucket).await.unwrap();
    let mut watch = kv.watch(">").await.unwrap();
    for n in 0..200_u8 {
        kv.put(format!("k.{}", n % 3), vec![n; 1 << 20]).await.unwrap();
    }
    let cell = backend.names().buckets.get(&bucket.name).cloned().unwrap();
    let held = cell.enter(backend.connection.now()).unwrap().changed_bytes();
    assert!(held <= 40 << 20, "{} MiB wait for a watch that nobody reads", held >> 20);
    assert_eq!(watch.next().await.unwrap(), KvChange::Synced);
    let mut last = std::collections::BTreeMap::new();
    while last.values().max() != Some(&199) {
        if let KvChange::Put(entry) = watch.next().await.unwrap() {
            last.insert(entry.key.to_string(), entry.value[0]);
        }
    }
    assert_eq!(last.into_values().collect::<Vec<_>>(), [198, 199, 197]);
}
