//! Publishing: fidelity on the wire, conditions, and servers that die in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bus::{ErrorKind, Message, Retention, Start, StreamConfig, SubjectFilter};

use bus::Bus;
use bus::testkit::NatsServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::{PATIENCE, message, raw, server, stream};

#[tokio::test]
async fn a_tombstone_is_not_an_empty_body_on_the_wire() {
    let (server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    stream.publish(Message::tombstone("s.a").unwrap().key([0, 1, 255])).await.unwrap();
    stream.publish(message("s.a", "").header("x", "1").unwrap()).await.unwrap();

    let raw = raw(&server).await.get_stream("S").await.unwrap();
    let tombstone = raw.get_raw_message(1).await.unwrap();
    assert_eq!(tombstone.headers.get("Lg-Tombstone").unwrap().as_str(), "1");
    assert_eq!(tombstone.headers.get("Lg-Key").unwrap().as_str(), "%00%01%FF");
    assert!(raw.get_raw_message(2).await.unwrap().headers.get("Lg-Tombstone").is_none());

    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let read = reader.next(10, PATIENCE).await.unwrap();
    let got = [stream.get(1).await.unwrap().unwrap(), stream.get(2).await.unwrap().unwrap()];
    assert_eq!(read, got);
    assert_eq!((got[0].payload.as_deref(), got[0].headers.len()), (None, 0));
    assert_eq!(got[0].key.as_deref(), Some(&[0, 1, 255][..]));
    assert_eq!((got[1].payload.as_deref(), got[1].headers.get("x")), (Some(&b""[..]), Some("1")));
    assert_eq!(stream.get(3).await.unwrap(), None);
    assert_eq!(stream.get(0).await.unwrap(), None);
}

#[tokio::test]
async fn the_server_answers_in_the_form_that_is_read_without_a_parser() {
    let (server, bus) = server().await;
    stream(&bus, "S", "s.>").await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let answer = client.request("s.a", "x".into()).await.unwrap();
    let text = std::str::from_utf8(&answer.payload).unwrap();
    assert_eq!(text, r#"{"stream":"S","seq":1}"#, "nats/publisher.rs: plain_answer");
}

#[tokio::test]
async fn ids_and_conditions_are_the_servers() {
    let (_server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let first = stream.publish(message("s.a", 1).id("x")).await.unwrap();
    let again = stream.publish(message("s.a", 1).id("x")).await.unwrap();
    assert_eq!((first.duplicate, again.duplicate), (false, true));
    assert_eq!(first.sequence, again.sequence);

    let second = stream.publish(message("s.a", 2).expect_last(first.sequence)).await.unwrap();
    assert!(!second.duplicate);
    let late = stream.publish(message("s.a", 3).expect_last(first.sequence)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict { current: Some(second.sequence) });
    stream.publish(message("s.b", 1).expect_last(0)).await.unwrap();
}

#[tokio::test]
async fn a_message_that_belongs_nowhere_fails_at_once_and_says_why() {
    let (_server, bus) = server().await;
    let here = stream(&bus, "HERE", "here.>").await;
    let gone = stream(&bus, "GONE", "gone.>").await;
    bus.delete_stream("GONE").await.unwrap();
    let missing = gone.publish(message("gone.a", 1)).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    let elsewhere = here.publish(message("nowhere.a", 1)).await.unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::Invalid, "{elsewhere}");
    assert_eq!(bus.delete_stream("GONE").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(bus.stream("GONE").await.err().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn limits_refuse_and_name_the_kind() {
    let (_server, bus) = server().await;
    let mut config = StreamConfig::parse("S", &["s.>"]).unwrap();
    config.max_messages = Some(2);
    config.max_message_bytes = 100;
    let stream = bus.ensure_stream(&config).await.unwrap();
    let large = stream.publish(message("s.a", "x".repeat(200))).await.unwrap_err();
    assert_eq!(large.kind(), ErrorKind::TooLarge, "{large}");
    let larger = stream.publish(message("s.a", "x".repeat(2 << 20))).await.unwrap_err();
    assert_eq!(larger.kind(), ErrorKind::TooLarge, "{larger}");
    stream.publish(message("s.a", 1)).await.unwrap();
    stream.publish(message("s.a", 2)).await.unwrap();
    let full = stream.publish(message("s.a", 3)).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Full, "{full}");
}

#[tokio::test]
async fn ensuring_twice_changes_nothing_and_drift_is_named() {
    let (_server, bus) = server().await;
    let mut config = StreamConfig::parse("S", &["s.>"]).unwrap();
    config.max_age = Some(Duration::from_secs(3600));
    let stream = bus.ensure_stream(&config).await.unwrap();
    assert_eq!(stream.info().await.unwrap().config, config);
    assert_eq!(stream.info().await.unwrap().first_sequence, 1);
    bus.ensure_stream(&config).await.unwrap();
    config.subjects.push(SubjectFilter::new("t.>").unwrap());
    config.max_bytes = Some(1 << 20);
    let updated = bus.ensure_stream(&config).await.unwrap();
    assert_eq!(updated.info().await.unwrap().config, config);
    config.retention = Retention::WorkQueue;
    let error = bus.ensure_stream(&config).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("retention"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_over_restarts_stores_every_id_once() {
    const MESSAGES: usize = 10_000;
    let (mut server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let messages = (0..MESSAGES).map(|n| message("s.a", n).id(format!("id-{n}")));
    let publisher = stream.clone();
    let publishing = tokio::spawn(async move { publisher.publish_all(messages).await });
    for share in [4, 2] {
        while stream.info().await.map_or(0, |info| info.messages) < (MESSAGES / share) as u64 / 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.kill9();
        server.restart().await.unwrap();
    }
    for (n, result) in publishing.await.unwrap().into_iter().enumerate() {
        result.unwrap_or_else(|error| panic!("message {n}: {error}"));
    }
    assert_eq!(stream.info().await.unwrap().messages, MESSAGES as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_chain_over_restarts_neither_repeats_nor_breaks() {
    const STEPS: usize = 300;
    let (mut server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    let publisher = stream.clone();
    let chain = tokio::spawn(async move {
        let mut last = 0;
        for n in 0..STEPS {
            let receipt = publisher.publish(message("s.a", n).expect_last(last)).await.unwrap();
            assert!(!receipt.duplicate);
            last = receipt.sequence;
        }
    });
    for share in [4, 2] {
        while stream.info().await.map_or(0, |info| info.messages) < (STEPS / share) as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill9();
        server.restart().await.unwrap();
    }
    chain.await.unwrap();
    assert_eq!(stream.info().await.unwrap().messages, STEPS as u64);
}

#[tokio::test]
async fn without_an_id_a_lost_answer_is_a_time_out() {
    let (mut server, bus) = server().await;
    let stream = stream(&bus, "S", "s.>").await;
    server.kill9();
    let error = stream.publish(message("s.a", 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

/// Between the bus and the server: swallows what the bus sends, and cuts the connections.
struct Proxy {
    url: String,
    swallows: Arc<AtomicBool>,
    swallowed: mpsc::UnboundedReceiver<Vec<u8>>,
    accepted: mpsc::UnboundedReceiver<()>,
    cut: watch::Sender<()>,
}

impl Proxy {
    async fn before(server: &NatsServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let to = server.url().replace("nats://", "");
        let (tell, swallowed) = mpsc::unbounded_channel();
        let (came, accepted) = mpsc::unbounded_channel();
        let (swallows, cut) = (Arc::new(AtomicBool::new(false)), watch::Sender::new(()));
        let (swallowing, cuts) = (swallows.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((bus, _)) = listener.accept().await {
                let _ = came.send(());
                let server = TcpStream::connect(&to).await.unwrap();
                let (swallowing, tell, mut cut) =
                    (swallowing.clone(), tell.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let (mut from_bus, mut to_bus) = bus.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let upwards = async {
                        let mut read = vec![0; 65_536];
                        while let Ok(count @ 1..) = from_bus.read(&mut read).await {
                            if swallowing.load(Ordering::SeqCst) {
                                let _ = tell.send(read[..count].to_vec());
                            } else if to_server.write_all(&read[..count]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        () = upwards => {}
                        _ = tokio::io::copy(&mut from_server, &mut to_bus) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url, swallows, swallowed, accepted, cut }
    }

    /// Waits until this was swallowed.
    async fn until_swallowed(&mut self, what: &str) {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(what) {
            let more = tokio::time::timeout(PATIENCE, self.swallowed.recv()).await.unwrap();
            all.extend(more.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_keeps_its_order_and_nothing_passes_it() {
    let server = NatsServer::start().await.unwrap();
    let mut proxy = Proxy::before(&server).await;
    let bus = Bus::connect(&proxy.url).await.unwrap();
    proxy.accepted.recv().await.unwrap();
    let stream = stream(&bus, "S", "s.>").await;
    let (mut receipts, mut expected) = (Vec::new(), Vec::new());
    for round in 0..3 {
        for n in 0..300 {
            // Swallowed from the middle of the window on.
            proxy.swallows.store(n >= 100, Ordering::SeqCst);
            let body = format!("body-{round}-{n}.");
            let receipt = stream.submit(message("s.a", &body).id(&body)).await.unwrap();
            receipts.push(receipt);
            expected.push(body);
            if n == 299 {
                proxy.until_swallowed(&format!("body-{round}-299.")).await;
                proxy.swallows.store(false, Ordering::SeqCst);
                proxy.cut.send_replace(());
                // It has noticed when it comes again.
                proxy.accepted.recv().await.unwrap();
            }
        }
        // While those are sent again.
        for n in 0..50 {
            let body = format!("later-{round}-{n}.");
            let message = message("s.a", &body).id(&body);
            match n % 10 {
                9 => drop(stream.publish(message).await.unwrap()),
                _ => receipts.push(stream.submit(message).await.unwrap()),
            }
            expected.push(body);
        }
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let mut stored = Vec::new();
    while stored.len() < expected.len() {
        let read = reader.next(1000, PATIENCE).await.unwrap();
        let body = |message: bus::StoredMessage| message.payload.unwrap().to_vec();
        stored.extend(read.into_iter().map(|message| String::from_utf8(body(message)).unwrap()));
    }
    assert_eq!(stored, expected);
}
