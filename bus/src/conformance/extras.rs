//! What goes beyond publish, consume and settle: pausing, moving, delays, questions.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use super::Target;
use super::bench::{
    Case, PATIENCE, ack_all, collect, eventually, read, refuses, sequences, unique,
};
use crate::capability::{Capability, Support};
use crate::config::Start;
use crate::consumer::Consumer;
use crate::error::ErrorKind;
use crate::message::Message;
use crate::name::SubjectFilter;
use crate::request::Responder;

/// How far the clocks of broker and test may be apart on one machine.
const CLOCK_SLACK: Duration = Duration::from_millis(50);
const A_LITTLE: Duration = Duration::from_millis(300);

/// The broker's time, roughly now, in whole seconds.
async fn broker_time(target: &dyn Target) -> SystemTime {
    let case = Case::new(target).await;
    let sequence = case.publish("clock").await;
    let time = case.stream.get(sequence).await.unwrap().unwrap().timestamp;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A paused consumer gets nothing, in no process; what is out may be settled; a resume, and the
/// end of the pause, wake who waits.
pub async fn pause_and_resume(target: &dyn Target) {
    let case = Case::new(target).await;
    let now = broker_time(target).await;
    let consumer = case.consumer("c").open().await.unwrap();
    let other = case.again(target).await.bus.bind(&case.name, "c").await.unwrap();
    case.publish_many("a", 3).await;
    let out = collect(&consumer, 1).await;
    let until = now + Duration::from_secs(3600);
    case.bus.pause(&case.name, "c", until).await.unwrap();
    assert_eq!(case.info("c").await.paused_until, Some(until));
    for paused in [&consumer, &other] {
        let fetched = paused.fetch(3, A_LITTLE).await.unwrap();
        assert!(fetched.is_empty(), "a paused consumer got {:?}", sequences(&fetched));
    }
    ack_all(out).await;
    let waiting = { tokio::spawn(async move { collect(&other, 2).await }) };
    tokio::time::sleep(A_LITTLE).await;
    assert!(!waiting.is_finished(), "delivered while paused");
    case.bus.resume(&case.name, "c").await.unwrap();
    ack_all(timeout(PATIENCE, waiting).await.expect("the resume wakes who waits").unwrap()).await;
    assert_eq!(case.info("c").await.paused_until, None);
    case.bus.resume(&case.name, "c").await.expect("without a pause nothing changes");

    let (started, now) = (Instant::now(), broker_time(target).await);
    case.bus.pause(&case.name, "c", now + Duration::from_secs(3)).await.unwrap();
    case.publish("a").await;
    ack_all(collect(&consumer, 1).await).await;
    // The broker's time was cut to a whole second.
    assert!(started.elapsed() + CLOCK_SLACK >= Duration::from_secs(2), "the pause was cut short");
    let nobody = case.bus.pause(&case.name, "nobody", until).await;
    assert!(nobody.unwrap_err().is_not_found());
}

/// A moved consumer goes on at its new place in whoever has it bound; what was out is void; the
/// start that it reports, and may be declared with again, stays.
pub async fn seek(target: &dyn Target) {
    for prefetch in [0, 50] {
        seek_with(target, prefetch).await;
    }
}

async fn seek_with(target: &dyn Target, prefetch: usize) {
    let case = Case::new(target).await;
    let mut stored = Vec::new();
    for n in 0..10 {
        stored.push(case.publish(if n == 4 { "b" } else { "a" }).await);
        // Times must differ for a start by time to name one message.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let start = Start::Sequence(stored[2]);
    let open = || case.consumer("c").start(start).prefetch(prefetch).open();
    let consumer = open().await.unwrap();
    let mut first = collect(&consumer, 5).await;
    assert_eq!(sequences(&first), stored[2..7]);
    let (stale, late) = (first.remove(1), first.remove(1));
    ack_all(first).await;

    let seek = |to| case.bus.seek(&case.name, "c", to);
    seek(Start::Beginning).await.unwrap();
    if let Err(failed) = stale.ack_confirmed().await {
        assert_eq!(failed.error.kind(), ErrorKind::Stale, "{}", failed.error);
    }
    expect(&consumer, &stored, "the beginning").await;
    assert_eq!(case.info("c").await.config.start, start, "the declared start is forgotten");
    open().await.expect("the consumer is still the one that was declared");

    let time = case.stream.get(stored[7]).await.unwrap().unwrap().timestamp;
    for (to, expected) in [
        (Start::Sequence(stored[5]), &stored[5..]),
        (Start::Time(time), &stored[7..]),
        (Start::Sequence(stored[1]), &stored[1..]),
    ] {
        seek(to).await.unwrap();
        expect(&consumer, expected, &format!("{to:?}")).await;
    }
    drop(late);
    seek(Start::LastPerSubject).await.unwrap();
    expect(&consumer, &[stored[4], stored[9]], "the last of each subject").await;

    let waiting = { tokio::spawn(async move { (collect(&consumer, 1).await, consumer) }) };
    tokio::time::sleep(A_LITTLE).await;
    assert!(!waiting.is_finished(), "there was something left");
    seek(Start::Sequence(stored[9])).await.unwrap();
    let (woken, consumer) = timeout(PATIENCE, waiting).await.expect("who waits goes on").unwrap();
    assert_eq!(sequences(&woken), stored[9..]);
    seek(Start::Beginning).await.unwrap();
    seek(Start::New).await.unwrap();
    case.assert_nothing_before_a_new_message(&consumer).await;
    assert_eq!(case.info("c").await.config.start, start);
    let nobody = case.bus.seek(&case.name, "nobody", Start::New).await;
    assert!(nobody.unwrap_err().is_not_found());
}

/// Exactly these come, each for the first time, and are settled.
async fn expect(consumer: &Consumer, expected: &[u64], from: &str) {
    let moved = collect(consumer, expected.len()).await;
    assert_eq!(sequences(&moved), expected, "after a move to {from}");
    assert!(moved.iter().all(|delivery| delivery.attempt() == 1), "attempts count from the move");
    ack_all(moved).await;
}

/// A delayed message comes whole, not before its time, and nobody sees it wait.
pub async fn delayed_delivery(target: &dyn Target) {
    let case = Case::with(target, |_| {}).await;
    if refuses(&case, Capability::DelayedDelivery).await {
        return;
    }
    let plain = case.message("a", "x").not_before(SystemTime::UNIX_EPOCH);
    let refused = case.stream.publish(plain).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid, "the stream was not declared for it");

    let case = Case::with(target, |config| config.delayed = true).await;
    let info = case.stream.info().await.unwrap();
    assert!(info.config.delayed && info.config.subjects.len() == 1, "{:?}", info.config);
    let everything = case.consumer("everything").open().await.unwrap();
    let delay = Duration::from_secs(3);
    let (started, first) = (Instant::now(), case.publish("clock").await);
    let due = case.stream.get(first).await.unwrap().unwrap().timestamp + delay;
    let sent = Message::tombstone(case.subject("a")).unwrap().key("k").header("h", "v").unwrap();
    let sent = sent.id("once").not_before(due);
    assert!(!case.stream.publish(sent.clone()).await.unwrap().duplicate);
    if case.bus.support(Capability::Deduplication) != Support::Unsupported {
        assert!(case.stream.publish(sent.clone()).await.unwrap().duplicate);
    }
    let past = case.message("b", "at once").not_before(due - 2 * delay);
    case.stream.publish(past).await.unwrap();
    let subjects = case.stream.subjects(&SubjectFilter::all()).await.unwrap();
    let in_time = started.elapsed() < delay - CLOCK_SLACK;
    let subjects: Vec<_> = subjects.iter().map(ToString::to_string).collect();
    assert!(!in_time || subjects == [case.subject("b"), case.subject("clock")], "{subjects:?}");

    let mut seen = collect(&everything, 2).await;
    let in_time = started.elapsed() < delay - CLOCK_SLACK;
    seen.extend(collect(&everything, 1).await);
    assert!(started.elapsed() + CLOCK_SLACK >= delay, "came after {:?}", started.elapsed());
    let at = seen.iter().position(|delivery| delivery.message().is_tombstone()).unwrap();
    assert!(!in_time || at == 2, "what waits came before what does not");
    let message = seen[at].message().clone();
    assert_eq!((&message.subject, &message.key), (&sent.subject, &sent.key));
    assert_eq!((message.headers, message.payload), (sent.headers.clone(), None));
    ack_all(seen).await;
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let read: BTreeSet<_> = read(&mut reader, 3).await.into_iter().map(|m| m.sequence).collect();
    assert!(read.contains(&first) && read.contains(&message.sequence), "{read:?}");
    let conditional = case.message("a", "x").expect_last(0).not_before(due);
    assert_eq!(case.stream.publish(conditional).await.unwrap_err().kind(), ErrorKind::Invalid);
    case.assert_nothing_before_a_new_message(&everything).await;
}

/// A message that waits comes although the broker was away meanwhile.
pub async fn delay_survives_restart(target: &dyn Target) {
    let case = Case::with(target, |_| {}).await;
    if refuses(&case, Capability::DelayedDelivery).await {
        return;
    }
    let case = Case::with(target, |config| config.delayed = true).await;
    let consumer = case.consumer("c").open().await.unwrap();
    let delay = Duration::from_secs(4);
    let (started, first) = (Instant::now(), case.publish("clock").await);
    let due = case.stream.get(first).await.unwrap().unwrap().timestamp + delay;
    ack_all(collect(&consumer, 1).await).await;
    for n in 0..3 {
        let message = case.message("a", n.to_string()).not_before(due);
        case.stream.publish(message).await.unwrap();
    }
    target.restart_broker().await.unwrap();
    let came = collect(&consumer, 3).await;
    assert!(started.elapsed() + CLOCK_SLACK >= delay, "came after {:?}", started.elapsed());
    let bodies = came.iter().map(|delivery| delivery.message().payload.clone().unwrap());
    assert_eq!(BTreeSet::from_iter(bodies), ["0", "1", "2"].map(Into::into).into());
}

/// A question is answered by one of each group that listens on its subject, or fails with what
/// tells whether anybody listens.
pub async fn request_reply(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::RequestReply).await {
        return;
    }
    let root = unique("q");
    let question = |rest: &str| {
        let question = Message::new(format!("{root}.{rest}"), "").unwrap();
        question.key("k").header("h", "v").unwrap()
    };
    let nobody = case.bus.request(question("a"), PATIENCE).await;
    assert!(nobody.unwrap_err().is_not_found(), "nobody listens yet");

    let filter = format!("{root}.*");
    let mut silent = case.bus.responder(&filter, "g").await.unwrap();
    let unanswered = case.bus.request(question("a"), A_LITTLE).await.unwrap_err();
    assert_eq!(unanswered.kind(), ErrorKind::Timeout, "{unanswered}");
    let asked = silent.next().await.unwrap();
    assert_eq!(asked.message().subject, question("a").subject);
    assert_eq!(
        (&asked.message().key, &asked.message().payload),
        (&Some("k".into()), &Some("".into()))
    );
    assert_eq!(asked.message().headers, question("a").headers);
    asked.answer(question("late")).await.expect("who asked has gone, and the answer was sent");
    drop(silent);

    let second = case.again(target).await;
    let one = tokio::spawn(answer(case.bus.responder(&filter, "g").await.unwrap(), "one"));
    let two = tokio::spawn(answer(second.bus.responder(&filter, "g").await.unwrap(), "two"));
    for n in 0..20 {
        let ask = || case.bus.request(question(&n.to_string()), PATIENCE);
        let answer = eventually("ask", ask).await;
        assert!(answer.is_tombstone_of("one") || answer.is_tombstone_of("two"), "{answer:?}");
    }
    for responder in [one, two] {
        responder.abort();
        let _ = responder.await;
    }
    let deadline = Instant::now() + PATIENCE;
    while !case.bus.request(question("a"), A_LITTLE).await.is_err_and(|e| e.is_not_found()) {
        assert!(Instant::now() < deadline, "responders that are gone still listen");
    }
}

/// Answers every question with a tombstone under its name.
async fn answer(mut responder: Responder, name: &'static str) {
    while let Ok(asked) = responder.next().await {
        let answer = Message::tombstone("answer").unwrap().key(name);
        asked.answer(answer).await.unwrap();
    }
}

impl Message {
    fn is_tombstone_of(&self, name: &str) -> bool {
        self.payload.is_none() && self.key.as_deref() == Some(name.as_bytes())
    }
}
