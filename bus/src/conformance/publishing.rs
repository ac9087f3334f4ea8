//! Publishing: nothing is changed, lost, stored twice or silently refused.

use bytes::Bytes;

use super::Target;
use super::bench::{Case, PATIENCE, ack_all, assert_refused, collect, eventually, read, refuses};
use crate::capability::Capability;
use crate::config::{Start, WhenFull};
use crate::error::ErrorKind;
use crate::message::{Message, StoredMessage};
use crate::name::Subject;

/// Subject, key, headers and payload arrive as they were sent, by every way of reading.
pub async fn roundtrip_fidelity(target: &dyn Target) {
    let case = Case::new(target).await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut full = case.message("full.anna=40b.é/$x", every_byte.repeat(2048)).key(&every_byte);
    for (name, value) in [
        ("Trace-Id", &b"first"[..]),
        ("trace-id", b"second"),
        ("empty", b""),
        ("colons", b"a: b:  c"),
        ("text", "é \u{1f511}\t\u{7f}".as_bytes()),
    ] {
        full = full.header(name, Bytes::copy_from_slice(value)).unwrap();
    }
    let sent = [
        case.message("bare", "x"),
        full,
        case.message("key", "").key(""),
        Message::json(case.subject("json"), &serde_json::json!({ "price": 1.5 })).unwrap(),
    ];
    for message in &sent {
        case.stream.publish(message.clone()).await.unwrap();
    }
    let consumer = case.consumer("c").open().await.unwrap();
    let consumed = collect(&consumer, sent.len()).await;
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let read = read(&mut reader, sent.len()).await;
    for (at, message) in sent.iter().enumerate() {
        let got = case.stream.get(at as u64 + 1).await.unwrap().expect("it was stored");
        let subject = std::slice::from_ref(&message.subject);
        let state = case.stream.last_at(subject, sent.len() as u64).await.unwrap();
        for received in [consumed[at].message(), &read[at], &got, &state[0]] {
            assert_same(received, message);
            assert_eq!(received.sequence, at as u64 + 1);
            assert_eq!(received.timestamp, got.timestamp);
        }
    }
    ack_all(consumed).await;
}

fn assert_same(received: &StoredMessage, sent: &Message) {
    assert_eq!(received.subject, sent.subject);
    assert_eq!(received.key, sent.key, "key of {}", sent.subject);
    assert_eq!(received.headers, sent.headers, "headers of {}", sent.subject);
    assert!(received.payload == sent.payload, "payload of {}", sent.subject);
}

/// A header value that the backend cannot carry is refused, and never arrives as another.
pub async fn header_values_unchanged(target: &dyn Target) {
    let case = Case::new(target).await;
    let values: [&[u8]; 7] =
        [b" before", b"behind\t", b" ", b"\xff\x80", b"a\x00b", b"\x1b[0m", "\u{a0}".as_bytes()];
    for value in values {
        let sent = case.message("a", "x").header("h", Bytes::copy_from_slice(value)).unwrap();
        match case.stream.publish(sent.clone()).await {
            Ok(receipt) => {
                let stored = case.stream.get(receipt.sequence).await.unwrap().unwrap();
                assert_same(&stored, &sent);
            }
            Err(refused) => assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}"),
        }
    }
}

/// A tombstone and an empty payload are two things, however they are read.
pub async fn empty_vs_tombstone(target: &dyn Target) {
    let case = Case::new(target).await;
    let empty = case.message("empty", "").key("k").header("h", "v").unwrap();
    let gone = Message::tombstone(case.subject("gone")).unwrap().key("k").header("h", "v").unwrap();
    case.stream.publish(empty.clone()).await.unwrap();
    case.stream.publish(gone.clone()).await.unwrap();
    let consumer = case.consumer("c").open().await.unwrap();
    let consumed = collect(&consumer, 2).await;
    let mut reader = case.stream.reader(&[], Start::Beginning).await.unwrap();
    let read = read(&mut reader, 2).await;
    for (at, sent) in [empty, gone].iter().enumerate() {
        let got = case.stream.get(at as u64 + 1).await.unwrap().unwrap();
        let state = case.stream.last_at(std::slice::from_ref(&sent.subject), 2).await.unwrap();
        for received in [consumed[at].message(), &read[at], &got, &state[0]] {
            assert_same(received, sent);
            assert_eq!(received.is_tombstone(), at == 1);
        }
    }
    ack_all(consumed).await;
}

/// What a receipt was given for is there after a crash of the broker.
pub async fn publish_is_durable(target: &dyn Target) {
    let case = Case::new(target).await;
    let messages = (0..100).map(|n| case.message("a", n.to_string()));
    let receipts = case.stream.publish_all(messages).await;
    target.restart_broker().await.unwrap();
    for (n, receipt) in receipts.into_iter().enumerate() {
        let sequence = receipt.unwrap().sequence;
        let stored = eventually("get", || case.stream.get(sequence)).await;
        let stored = stored.unwrap_or_else(|| panic!("message {sequence} had a receipt"));
        assert_eq!(stored.payload.unwrap(), n.to_string());
    }
}

/// Each message of a batch has its own result, in its place; a refused one stops no other.
pub async fn partial_batch_results(target: &dyn Target) {
    let case = Case::with(target, |config| config.max_message_bytes = 1024).await;
    let batch = [10, 4096, 20, 8192, 30].map(|size| case.message("a", vec![b'x'; size]));
    let results = case.stream.publish_all(batch).await;
    let outcome: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().map(|receipt| receipt.sequence).map_err(|e| e.kind()))
        .collect();
    let refused = Err(ErrorKind::TooLarge);
    assert_eq!(outcome, [Ok(1), refused, Ok(2), refused, Ok(3)]);
    assert_eq!(case.stream.info().await.unwrap().messages, 3);
}

/// Submitting without looking at receipts neither stops for ever nor loses one, and a full stream
/// says so to each message that it refuses.
pub async fn backpressure_bounded(target: &dyn Target) {
    const SUBMITTED: u64 = 5000;
    let case = Case::new(target).await;
    let submit_all = async {
        let mut pending = Vec::new();
        for n in 0..SUBMITTED {
            pending.push(case.stream.submit(case.message("a", n.to_string())).await.unwrap());
        }
        pending
    };
    let pending = tokio::time::timeout(PATIENCE, submit_all).await;
    let pending = pending.expect("the window must move on while nobody awaits a receipt");
    for (n, receipt) in (1..=SUBMITTED).zip(pending) {
        assert_eq!(receipt.await.unwrap().sequence, n, "submitted in order, stored in order");
    }
    assert_eq!(case.stream.info().await.unwrap().messages, SUBMITTED);

    if refuses(&case, Capability::ExactLimits).await {
        let mut config = case.stream.info().await.unwrap().config;
        config.max_messages = Some(10);
        let declared = case.bus.ensure_stream(&config).await;
        return assert_refused(&case, declared, Capability::ExactLimits);
    }
    let limits = |when_full| {
        Case::with(target, move |config| {
            config.max_messages = Some(10);
            config.when_full = when_full;
        })
    };
    let refusing = limits(WhenFull::Refuse).await;
    let results = refusing.stream.publish_all((0..20).map(|_| refusing.message("a", "x"))).await;
    let full = |error: &crate::Error| error.kind() == ErrorKind::Full;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 10);
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(full));
    assert_eq!(refusing.stream.info().await.unwrap().first_sequence, 1, "nothing was dropped");

    let dropping = limits(WhenFull::DropOldest).await;
    dropping.publish_many("a", 20).await;
    let info = dropping.stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (11, 20, 10));
}

/// Closing waits for what was submitted, and ends the connection for good and for itself alone.
pub async fn close_flushes(target: &dyn Target) {
    let case = Case::new(target).await;
    let mut pending = Vec::new();
    for n in 0..500 {
        pending.push(case.stream.submit(case.message("a", n.to_string())).await.unwrap());
    }
    case.bus.close().await.unwrap();
    for receipt in pending {
        receipt.await.unwrap();
    }
    let after = case.stream.publish(case.message("a", "late")).await;
    assert_eq!(after.unwrap_err().kind(), ErrorKind::Closed);
    let opened = case.consumer("c").open().await.map(|_| ());
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Closed);
    let again = case.again(target).await;
    assert_eq!(again.stream.info().await.unwrap().messages, 500);
}

/// A second publish with an id is recognised inside the window and stored after it.
pub async fn dedup_window(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::Deduplication).await {
        let published = case.stream.publish(case.message("a", "x").id("1")).await;
        return assert_refused(&case, published, Capability::Deduplication);
    }
    let publish = |case: &Case, id: &str| {
        let (stream, message) = (case.stream.clone(), case.message("a", "x").id(id));
        async move { stream.publish(message).await.unwrap() }
    };
    let (first, other) = (publish(&case, "1").await, publish(&case, "2").await);
    let again = publish(&case.again(target).await, "1").await;
    assert!(!first.duplicate && !other.duplicate && again.duplicate);
    assert_eq!((first.sequence, other.sequence, again.sequence), (1, 2, 1));
    assert_eq!(case.stream.info().await.unwrap().messages, 2);

    let window = std::time::Duration::from_secs(1);
    let short = Case::with(target, |config| config.duplicate_window = window).await;
    publish(&short, "1").await;
    let forgotten = async {
        loop {
            tokio::time::sleep(window).await;
            if !publish(&short, "1").await.duplicate {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, forgotten).await.expect("an id is forgotten some day");
}

/// A publish with a condition is stored only if it holds; of many that ask for the same, one wins.
pub async fn conditional_publish(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::ConditionalPublish).await {
        let published = case.stream.publish(case.message("a", "x").expect_last(0)).await;
        return assert_refused(&case, published, Capability::ConditionalPublish);
    }
    let publish = |rest: &str, last| {
        let (stream, message) = (case.stream.clone(), case.message(rest, "x").expect_last(last));
        async move { stream.publish(message).await }
    };
    assert_eq!(publish("a", 0).await.unwrap().sequence, 1);
    assert_eq!(publish("b", 0).await.unwrap().sequence, 2, "conditions are per subject");
    for wrong in [0, 2, 7] {
        let conflict = publish("a", wrong).await.unwrap_err();
        match conflict.kind() {
            ErrorKind::Conflict { current } => assert!(matches!(current, None | Some(1))),
            kind => panic!("expected a conflict, got {kind:?}: {conflict}"),
        }
    }
    let mut last = publish("a", 1).await.unwrap().sequence;
    for _ in 0..3 {
        let racers = (0..20).map(|_| tokio::spawn(publish("a", last)));
        let raced = futures_util::future::join_all(racers).await;
        let (won, lost): (Vec<_>, Vec<_>) =
            raced.into_iter().map(Result::unwrap).partition(Result::is_ok);
        assert_eq!(won.len(), 1, "one racer stores its message");
        assert!(lost.into_iter().all(|lost| lost.unwrap_err().is_conflict()));
        last = won.into_iter().flatten().map(|receipt| receipt.sequence).max().unwrap();
    }
    let subject = Subject::new(case.subject("a")).unwrap();
    assert_eq!(case.stream.last_at(&[subject], u64::MAX).await.unwrap()[0].sequence, last);
}

/// A rollup takes the place of what its subject holds, and of nothing else, also for who consumes.
pub async fn rollup_replaces_its_subject(target: &dyn Target) {
    let case = Case::new(target).await;
    if refuses(&case, Capability::Rollup).await {
        let published = case.stream.publish(case.message("a", "x").rollup()).await;
        return assert_refused(&case, published, Capability::Rollup);
    }
    case.publish_many("a", 3).await;
    case.publish("b").await;
    let consumer = case.consumer("c").open().await.unwrap();
    let rollup = |body: &'static str| case.message("a", body).rollup();
    assert_eq!(case.stream.publish(rollup("4")).await.unwrap().sequence, 5);
    let last = case.stream.publish(rollup("5").expect_last(5)).await.unwrap().sequence;
    assert!(case.stream.publish(rollup("6").expect_last(5)).await.unwrap_err().is_conflict());
    let info = case.stream.info().await.unwrap();
    assert_eq!((info.first_sequence, info.last_sequence, info.messages), (4, last, 2));
    let fetched = collect(&consumer, 2).await;
    let bodies: Vec<_> = fetched.iter().map(|d| d.message().payload.clone().unwrap()).collect();
    assert_eq!(bodies, ["b", "5"]);
}

/// Many messages are stored together or not at all, whatever is wrong with one of them.
pub async fn atomic_publish(target: &dyn Target) {
    let case = Case::with(target, |config| config.max_message_bytes = 1000).await;
    let message = |n: usize| case.message(&format!("k{}", n % 7), n.to_string());
    let receipts = case.stream.publish_atomic((0..500).map(message).collect()).await.unwrap();
    assert_eq!(receipts.len(), 500);
    assert!(receipts.is_sorted_by(|a, b| a.sequence < b.sequence));
    assert!(case.stream.publish_atomic(Vec::new()).await.unwrap().is_empty());

    let large = case.message("k0", vec![b'x'; 2000]);
    let refused = case.stream.publish_atomic(vec![message(0), large, message(1)]).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    if refuses(&case, Capability::ConditionalPublish).await {
        return;
    }
    case.wait_messages(500).await;
    let position = |last| case.message("position", "x").expect_last(last);
    let receipts = case.stream.publish_atomic(vec![message(0), position(0)]).await.unwrap();
    let refused = case.stream.publish_atomic(vec![message(1), position(0)]).await;
    assert!(refused.unwrap_err().is_conflict());
    let at = receipts.last().unwrap().sequence;
    let racers = (0..10).map(|_| {
        let (stream, batch) = (case.stream.clone(), vec![message(2), message(3), position(at)]);
        tokio::spawn(async move { stream.publish_atomic(batch).await })
    });
    let raced = futures_util::future::join_all(racers).await;
    let won = raced.into_iter().filter(|raced| raced.as_ref().unwrap().is_ok()).count();
    assert_eq!(won, 1, "one racer stores its batch");
    case.wait_messages(505).await;
}
