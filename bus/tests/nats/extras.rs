//! Delays, units and moves as the server really does them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bus::driver::{ConsumerDriver, RawDelivery, Unit, UnitInput};
use bus::{
    Committed, ConsumerName, Delivery, Error, ErrorKind, Guarantee, LeaseToken, Result, Settlement,
    Start, StreamConfig, StreamName, SubjectFilter, WhenFull,
};

use super::{PATIENCE, message, raw, server, stream};

#[tokio::test]
async fn what_waits_is_hidden_and_kept_from_consumers_that_were_there_before() {
    let (server, bus) = server().await;
    let plain = stream(&bus, "S", "s.>").await;
    let consumer = bus.consumer("S", "c").open().await.unwrap();
    plain.publish(message("s.a", 1)).await.unwrap();
    let delayed = StreamConfig { delayed: true, ..StreamConfig::parse("S", &["s.>"]).unwrap() };
    let stream = bus.ensure_stream(&delayed).await.unwrap();
    assert_eq!(stream.info().await.unwrap().config, delayed);
    let later = SystemTime::now() + Duration::from_secs(3600);
    let receipt = stream.publish(message("s.a", 2).not_before(later)).await.unwrap();
    assert_eq!((receipt.sequence, receipt.duplicate), (0, false));
    let on_the_wire = raw(&server).await.get_stream("S").await.unwrap();
    assert_eq!(on_the_wire.cached_info().config.subjects, ["s.>", "lg-delay.S.>"]);
    assert_eq!(on_the_wire.cached_info().state.messages, 2);

    let all = SubjectFilter::all();
    assert!(stream.get(2).await.unwrap().is_none(), "it has no place yet");
    assert_eq!(stream.subjects(&all).await.unwrap().len(), 1);
    assert_eq!(stream.purge(&all).await.unwrap(), 1);
    let state = on_the_wire.get_info().await.unwrap().state;
    assert_eq!(state.messages, 1, "a purge takes what is in the stream, and what waits is not");
    stream.publish(message("s.b", 3)).await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    for next in [
        reader.next(9, PATIENCE).await.unwrap().remove(0),
        consumer.fetch(9, PATIENCE).await.unwrap().remove(0).message().clone(),
    ] {
        assert_eq!(next.subject.as_str(), "s.b");
    }
    let info = bus.consumer("S", "c").open().await.unwrap().info().await.unwrap();
    assert!(info.config.filters.is_empty() && info.pending == 0, "{info:?}");
}

#[tokio::test]
async fn a_delay_that_the_stream_could_not_keep_is_refused() {
    let (_server, bus) = server().await;
    let delayed = StreamConfig { delayed: true, ..StreamConfig::parse("S", &["s.>"]).unwrap() };
    let aged = StreamConfig { max_age: Some(Duration::from_secs(60)), ..delayed.clone() };
    let stream = bus.ensure_stream(&aged).await.unwrap();
    let later = SystemTime::now() + Duration::from_secs(61);
    let refused = stream.publish(message("s.a", 1).not_before(later)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("max_age"), "{refused}");
    let foreign = message("t.a", 1).not_before(later - Duration::from_secs(30));
    assert_eq!(stream.publish(foreign).await.unwrap_err().kind(), ErrorKind::Invalid);

    let limited = StreamConfig { max_messages: Some(9), ..delayed.clone() };
    let refused = bus.ensure_stream(&limited).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    let dropping = StreamConfig { when_full: WhenFull::DropOldest, ..limited };
    bus.ensure_stream(&dropping).await.unwrap();
    let taken_back = StreamConfig { delayed: false, ..dropping };
    let refused = bus.ensure_stream(&taken_back).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Mismatch);
    assert!(refused.to_string().contains("delayed is true, not false"), "{refused}");
}

#[tokio::test]
async fn the_outputs_of_a_unit_are_one_batch_and_known_again() {
    let (server, bus) = server().await;
    let (inputs, outputs) = (stream(&bus, "in", "in.>").await, stream(&bus, "out", "out.>").await);
    inputs.publish(message("in.a", 1)).await.unwrap();
    let consumer = bus.consumer("in", "c").ack_wait(Duration::from_secs(1)).open().await.unwrap();
    let unit = async || {
        let input = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
        let unit = bus.unit().settle(input);
        unit.publish(&outputs, message("out.a", 1)).publish(&outputs, message("out.b", 2))
    };
    let done = unit().await.commit().await.unwrap();
    assert_eq!(done.guarantee, Guarantee::Effectively(Duration::from_secs(120)));
    let sequences: Vec<_> = done.receipts.iter().map(|receipt| receipt.sequence).collect();
    assert_eq!(sequences, [1, 2]);
    let stored = raw(&server).await.get_stream("out").await.unwrap();
    let mut batches = Vec::new();
    for sequence in sequences {
        let headers = stored.get_raw_message(sequence).await.unwrap().headers;
        batches.push(headers.get("Nats-Batch-Id").unwrap().to_string());
    }
    assert_eq!(batches[0], batches[1]);

    // Where the consumer was moved it is no repetition, and a repetition is known.
    bus.seek("in", "c", Start::Beginning).await.unwrap();
    let input = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    let mut input = Unit { inputs: vec![lost(&input)], ..Unit::default() };
    input.outputs = vec![("out", "out.a"), ("out", "out.b")]
        .into_iter()
        .map(|(to, subject)| (StreamName::new(to).unwrap(), message(subject, 3)))
        .collect();
    for _ in 0..2 {
        let lost = bus.driver().commit(&input).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Unavailable, "{lost}");
        assert_eq!(outputs.info().await.unwrap().messages, 4);
    }
}

/// The input of a unit whose acks are lost.
fn lost(input: &Delivery) -> UnitInput {
    UnitInput {
        stream: StreamName::new("in").unwrap(),
        consumer: ConsumerName::new("c").unwrap(),
        sequence: input.message().sequence,
        published: input.message().timestamp,
        token: input.token().clone(),
        via: Arc::new(LosesAcks),
    }
}

struct LosesAcks;

#[async_trait]
impl ConsumerDriver for LosesAcks {
    async fn fetch(&self, _max: usize, _wait: Duration) -> Result<Vec<RawDelivery>> {
        Ok(Vec::new())
    }

    fn ack_now(&self, _token: &LeaseToken) -> Option<Result<()>> {
        None
    }

    async fn settle(&self, _token: &LeaseToken, _how: &Settlement, _confirm: bool) -> Result<()> {
        Err(Error::new(ErrorKind::Unavailable, "the ack was lost"))
    }
}

#[tokio::test]
async fn a_batch_that_is_repeated_fulfils_its_conditions_itself() {
    let (_server, bus) = server().await;
    let outputs = stream(&bus, "out", "out.>").await;
    let first = outputs.publish(message("out.a", 1)).await.unwrap().sequence;
    let unit = |condition| {
        let unit = bus.unit().publish(&outputs, message("out.a", 2).id("a").expect_last(condition));
        let unit = unit.publish(&outputs, message("out.b", 2).id("b"));
        unit.publish(&outputs, message("out.c", 2).id("c").expect_last(0)).commit()
    };
    let done = unit(first).await.unwrap();
    // The answer is lost, or the process dies before it reads it.
    let again = unit(first).await.unwrap();
    let sequences = |done: &Committed| done.receipts.iter().map(|r| r.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&again), sequences(&done));
    assert!(again.receipts.iter().all(|receipt| receipt.duplicate), "{again:?}");
    // Somebody else's message is a conflict still, and nothing of the unit is stored.
    let other = bus.unit().publish(&outputs, message("out.a", 3).id("x").expect_last(first));
    let other = other.publish(&outputs, message("out.b", 3).id("y")).commit().await.unwrap_err();
    assert!(other.error.is_conflict(), "{}", other.error);
    assert_eq!(outputs.info().await.unwrap().messages, 4);
}

#[tokio::test]
async fn a_token_from_before_a_move_is_stale_here_and_elsewhere() {
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    stream.publish(message("s.a", 1)).await.unwrap();
    let consumer = bus.consumer("S", "c").open().await.unwrap();
    let before = consumer.fetch(1, PATIENCE).await.unwrap().remove(0).token().clone();
    let other = bus::Bus::connect(&server.url()).await.unwrap();
    let elsewhere = other.bind("S", "c").await.unwrap();
    bus.seek("S", "c", Start::Beginning).await.unwrap();
    // The server answers nothing to an ack of what it has not delivered.
    let stale = elsewhere.settle(&before, Settlement::Ack).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Stale, "{stale}");
    // Delivered again, the ack's subject is the same: only who moved the consumer can tell.
    let after = consumer.fetch(1, PATIENCE).await.unwrap().remove(0);
    let stale = consumer.settle(&before, Settlement::Ack).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Stale, "{stale}");
    elsewhere.settle(after.token(), Settlement::Ack).await.unwrap();
    assert_eq!(consumer.info().await.unwrap().unsettled, 0);
}

#[tokio::test]
async fn a_consumer_made_anew_is_followed_by_others_and_keeps_its_pause() {
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    for n in 0..3 {
        stream.publish(message("s.a", n)).await.unwrap();
    }
    // The server resets no consumer that began at the end.
    let declared = || bus.consumer("S", "c").start(Start::New).prefetch(10);
    declared().open().await.unwrap();
    let other = bus::Bus::connect(&server.url()).await.unwrap();
    let elsewhere = other.consumer("S", "c").start(Start::New).prefetch(10).open().await.unwrap();
    assert!(elsewhere.fetch(1, Duration::from_millis(100)).await.unwrap().is_empty());
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    bus.pause("S", "c", until).await.unwrap();
    bus.seek("S", "c", Start::Beginning).await.unwrap();
    let info = declared().open().await.unwrap().info().await.unwrap();
    assert_eq!((info.config.start, info.paused_until), (Start::New, Some(until)));
    bus.resume("S", "c").await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let fetched = elsewhere.fetch(3, PATIENCE).await.unwrap();
        seen.extend(fetched.iter().map(|delivery| delivery.message().sequence));
    }
    assert_eq!(seen, [1, 2, 3]);

    let queue = StreamConfig::parse("Q", &["q.>"]).unwrap();
    let queue = StreamConfig { retention: bus::Retention::WorkQueue, ..queue };
    bus.ensure_stream(&queue).await.unwrap();
    bus.consumer("Q", "c").open().await.unwrap();
    let refused = bus.seek("Q", "c", Start::LastPerSubject).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    bus.consumer_info("Q", "c").await.expect("it is still there");
}

#[tokio::test]
async fn a_condition_that_held_once_is_a_duplicate_under_the_same_id() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let conditional = || message("s.a", 1).expect_last(0).id("once");
    assert!(!stream.publish(conditional()).await.unwrap().duplicate);
    let again = stream.publish(conditional()).await.unwrap();
    assert_eq!((again.sequence, again.duplicate), (1, true));
    let other = stream.publish(conditional().id("other")).await.unwrap_err();
    assert!(other.is_conflict(), "{other}");
}
