//! Reading: what is on the wire, what others wrote, a broker that goes away, several partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use bus::{Bus, Message, Reader, Start, StoredMessage, StreamConfig, Subject, SubjectFilter};
use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

use super::{PATIENCE, alone, message, shared, stream, unique};

/// Another program's client, made with the client library's defaults.
pub(super) fn raw(url: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", url.trim_start_matches("kafka://"));
    config
}

pub(super) async fn read(reader: &mut Reader, count: usize) -> Vec<StoredMessage> {
    let mut messages = Vec::new();
    let all = async {
        while messages.len() < count {
            match reader.next(count - messages.len(), Duration::from_secs(1)).await {
                Ok(more) => messages.extend(more),
                Err(error) if error.is_retryable() => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
    messages
}

async fn numbers(bus: &Bus, count: usize) -> (bus::Stream, Vec<u64>) {
    let stream = stream(bus, |_| {}).await;
    let messages = (0..count).map(|n| message(&stream, "a", n));
    let receipts = stream.publish_all(messages.collect::<Vec<_>>()).await;
    (stream, receipts.into_iter().map(|receipt| receipt.unwrap().sequence).collect())
}

#[tokio::test]
async fn keys_headers_and_bodies_that_are_none_or_empty_stay_apart() {
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let subject = format!("{}.a", stream.name());
    let every_byte: Vec<u8> = (0..=255).collect();
    let any: Vec<u8> = every_byte.iter().copied().filter(|b| !b"\r\n".contains(b)).collect();
    let sent = [
        Message::tombstone(&subject).unwrap(),
        Message::tombstone(&subject).unwrap().key(""),
        Message::new(&subject, "").unwrap(),
        Message::new(&subject, every_byte.clone()).unwrap().key(&every_byte),
        Message::new(&subject, "x").unwrap().header("a", "1").unwrap().header("b", any).unwrap(),
        Message::new(&subject, "x")
            .unwrap()
            .header("A", "")
            .unwrap()
            .header("b", "2")
            .unwrap()
            .header("a", "3")
            .unwrap(),
    ];
    for message in &sent {
        stream.publish(message.clone()).await.unwrap();
    }
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    for (sent, (n, read)) in sent.iter().zip((1..).zip(read(&mut reader, sent.len()).await)) {
        let got = stream.get(n).await.unwrap().unwrap();
        assert_eq!(read, got);
        assert_eq!((&got.key, &got.payload), (&sent.key, &sent.payload));
        let pairs = |headers: &bus::Headers| -> Vec<(String, Bytes)> {
            headers.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect()
        };
        assert_eq!(pairs(&got.headers), pairs(&sent.headers), "order between names is kept too");
        assert_eq!(got.subject, sent.subject);
    }
}

#[tokio::test]
async fn what_another_program_wrote_is_read_and_answered_in_its_terms() {
    let (broker, bus) = shared().await;
    let name = unique("foreign");
    let admin: AdminClient<DefaultClientContext> = raw(&broker.url()).create().unwrap();
    let topic = NewTopic::new(&name, 4, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    let stream = bus.stream(&name).await.unwrap();
    let config = stream.info().await.unwrap().config;
    assert_eq!((config.partitions, config.replicas), (4, 1));
    assert_eq!(config.subjects, [SubjectFilter::new(&name).unwrap()]);

    let producer: FutureProducer =
        raw(&broker.url()).set("partitioner", "murmur2").create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("1") })
        .insert(Header { key: "Lg-Else", value: Some("theirs") });
    let record = FutureRecord::to(&name).key("patient-7").payload("x").headers(headers);
    let theirs = producer.send(record, PATIENCE).await.unwrap();
    let ours = Message::new(&name, "y").unwrap().key("patient-7");
    let ours = stream.publish(ours).await.unwrap();
    let at = |partition: i32, offset: i64| offset as u64 * 4 + partition as u64 + 1;
    assert_eq!(ours.sequence, at(theirs.partition, 1), "the same key, the same partition");

    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let read = read(&mut reader, 2).await;
    assert_eq!(read[0].sequence, at(theirs.partition, 0));
    assert_eq!(read[0].subject.as_str(), name);
    assert_eq!(read[0].key.as_deref(), Some(&b"patient-7"[..]));
    assert_eq!((read[0].headers.len(), read[0].headers.get("trace")), (1, Some("1")));
    assert_eq!(read[1].payload.as_deref(), Some(&b"y"[..]));

    // Declaring it takes it over as it is; a declaration that differs from it does not.
    let declared = StreamConfig::parse(&name, &[&name]).unwrap();
    let refused = bus.ensure_stream(&declared).await.err().unwrap();
    assert_eq!(refused.kind(), bus::ErrorKind::Mismatch);
    let declared = StreamConfig { partitions: 4, ..declared };
    bus.ensure_stream(&declared).await.unwrap();
    assert_eq!(stream.info().await.unwrap().messages, 2);
}

#[tokio::test]
async fn a_subject_stands_in_the_keys_place_for_other_programs_too() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let name = stream.name().to_string();
    let subject = |last: &str| format!("{name}.{last}");
    let billing = bus.consumer(&name, "billing").filter(&format!("{name}.>")).open().await.unwrap();
    stream.publish(Message::new(subject("plain"), "1").unwrap()).await.unwrap();
    let keyed = Message::new(subject("keyed"), "2").unwrap().key("patient-7");
    stream.publish(keyed).await.unwrap();
    let headed = Message::new(subject("headed"), "3").unwrap().header("a", "b").unwrap();
    stream.publish(headed).await.unwrap();
    let producer: FutureProducer = raw(&broker.url()).create().unwrap();
    for key in [subject("theirs"), String::from("patient-8")] {
        let record = FutureRecord::to(&name).key(&key).payload("4");
        producer.send(record, PATIENCE).await.unwrap();
    }

    let records: StreamConsumer =
        raw(&broker.url()).set("group.id", unique("raw")).create().unwrap();
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(&name, 0, Offset::Beginning).unwrap();
    records.assign(&from).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let record = records.recv().await.unwrap();
        let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
        seen.push((key, record.headers().map_or(0, |headers| headers.count())));
    }
    let wanted = [(subject("plain"), 0), (String::from("patient-7"), 1), (subject("headed"), 1)];
    assert_eq!(seen, wanted, "a key of its own sends the subject into a header");

    // A stream that takes other subjects by now reads what it took, and what it takes.
    let other = unique("else");
    let config = StreamConfig::parse(&name, &[&format!("{other}.>")]).unwrap();
    bus.ensure_stream(&config).await.unwrap();
    let late = format!("{other}.late");
    stream.publish(Message::new(&late, "5").unwrap()).await.unwrap();
    let wanted = [
        (subject("plain"), None),
        (subject("keyed"), Some("patient-7")),
        (subject("headed"), None),
        (subject("theirs"), None),
        (name.clone(), Some("patient-8")),
        (late, None),
    ];
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    for (message, (subject, key)) in read(&mut reader, 6).await.iter().zip(&wanted) {
        assert_eq!(message.subject.as_str(), subject);
        assert_eq!(message.key.as_deref(), key.map(str::as_bytes));
    }
    let mut taken = Vec::new();
    while taken.len() < 4 {
        for delivery in billing.fetch(10, PATIENCE).await.unwrap() {
            taken.push(delivery.message().subject.to_string());
            delivery.ack().await.unwrap();
        }
    }
    assert_eq!(taken, ["plain", "keyed", "headed", "theirs"].map(subject));
}

#[tokio::test]
async fn a_topic_that_was_bound_while_it_was_being_made_is_read_as_what_it_became() {
    let (broker, bus) = shared().await;
    let name = unique("making");
    let admin: AdminClient<DefaultClientContext> = raw(&broker.url()).create().unwrap();
    let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    let stream = bus.stream(&name).await.unwrap();
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let billing = bus.consumer(&name, "billing").open().await.unwrap();

    // What its maker, which made the topic a moment ago, writes next.
    let entry = format!(
        r#"{{"subjects":["{name}.>"],"max_bytes":null,"max_age_ms":null,"max_message_bytes":9999,
        "duplicate_window_ms":120000,"max_consumers":100,"replicas":1,"partitions":1,
        "generation":5,"keyed":["{name}.>"]}}"#
    );
    let producer: FutureProducer = raw(&broker.url()).create().unwrap();
    let key = format!("stream/{name}");
    let record = FutureRecord::to("lockgate.catalog").key(&key).payload(&entry);
    producer.send(record, PATIENCE).await.unwrap();
    let publish = async || stream.publish(message(&stream, "a", "x")).await;
    while let Err(error) = publish().await {
        assert_eq!(error.kind(), bus::ErrorKind::Invalid, "not captured yet: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let taken = billing.fetch(1, PATIENCE).await.unwrap().remove(0);
    assert_eq!(taken.message().subject.as_str(), format!("{name}.a"));
    assert_eq!(taken.message().key, None);
    let refused = reader.next(1, PATIENCE).await.unwrap_err();
    assert_eq!(refused.kind(), bus::ErrorKind::NotFound, "opened as what it no longer is");
}

#[tokio::test]
async fn a_reader_goes_on_after_a_crash_without_gap_or_repeat() {
    let (mut broker, bus) = alone().await;
    let (stream, _) = numbers(&bus, 10).await;
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let mut seen = read(&mut reader, 4).await;
    broker.kill9();
    broker.restart().await.unwrap();
    for n in 10..20 {
        stream.publish(message(&stream, "a", n)).await.unwrap();
    }
    seen.extend(read(&mut reader, 16).await);
    let seen: Vec<_> = seen.iter().map(|message| message.sequence).collect();
    assert_eq!(seen, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_begins_where_it_was_told_to() {
    let (_broker, bus) = shared().await;
    let (stream, _) = numbers(&bus, 5).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let since = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let other = Message::new(format!("{}.b", stream.name()), "b").unwrap();
    stream.publish(other.clone()).await.unwrap();
    let open = |start| {
        let stream = stream.clone();
        async move { stream.reader(&[], start).await.unwrap() }
    };
    let starts = [
        (Start::Beginning, vec![1, 2, 3, 4, 5, 6, 7]),
        (Start::New, vec![7]),
        (Start::Sequence(4), vec![4, 5, 6, 7]),
        (Start::Sequence(7), vec![7]),
        (Start::Time(since), vec![6, 7]),
        (Start::LastPerSubject, vec![5, 6, 7]),
    ];
    let mut readers = Vec::new();
    for (start, _) in &starts {
        readers.push(open(*start).await);
    }
    let mut beyond = open(Start::Sequence(8)).await;
    stream.publish(other.clone()).await.unwrap();
    for ((start, expected), mut reader) in starts.into_iter().zip(readers) {
        let read = read(&mut reader, expected.len()).await;
        let read: Vec<_> = read.iter().map(|message| message.sequence).collect();
        assert_eq!(read, expected, "{start:?}");
    }
    stream.publish(other).await.unwrap();
    assert_eq!(read(&mut beyond, 1).await[0].sequence, 8, "not the one before");

    let filter = SubjectFilter::new(format!("{}.b", stream.name())).unwrap();
    let mut filtered = stream.reader(&[filter], Start::LastPerSubject).await.unwrap();
    assert_eq!(read(&mut filtered, 1).await[0].sequence, 8);
}

#[tokio::test]
async fn a_reader_of_a_stream_that_is_gone_says_so_even_if_there_is_a_new_one() {
    let (_broker, bus) = shared().await;
    let (stream, _) = numbers(&bus, 3).await;
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    read(&mut reader, 3).await;
    let config = stream.info().await.unwrap().config;
    bus.delete_stream(stream.name()).await.unwrap();
    assert!(reader.next(1, Duration::ZERO).await.unwrap_err().is_not_found());
    bus.ensure_stream(&config).await.unwrap();
    stream.publish(message(&stream, "a", 1)).await.unwrap();
    assert!(reader.next(1, Duration::ZERO).await.unwrap_err().is_not_found());
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    assert_eq!(read(&mut reader, 1).await[0].sequence, 1);
}

#[tokio::test]
async fn several_partitions_keep_order_by_key_and_state_by_sequence() {
    const KEYS: usize = 20;
    let (_broker, bus) = shared().await;
    let stream = stream(&bus, |config| config.partitions = 4).await;
    let subject = |key: usize| Subject::new(format!("{}.k{key}", stream.name())).unwrap();
    let mut rounds = Vec::new();
    for round in 0..3 {
        let messages = (0..KEYS).map(|key| Message::new(subject(key), format!("{round}")).unwrap());
        let receipts = stream.publish_all(messages.collect::<Vec<_>>()).await;
        let sequences = receipts.into_iter().map(|receipt| receipt.unwrap().sequence);
        rounds.push(sequences.collect::<Vec<_>>());
    }
    let info = stream.info().await.unwrap();
    assert_eq!(info.messages, 3 * KEYS as u64);
    assert_eq!(info.last_sequence, *rounds.iter().flatten().max().unwrap());
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let mut by_key: BTreeMap<Subject, Vec<Bytes>> = BTreeMap::new();
    for message in read(&mut reader, 3 * KEYS).await {
        by_key.entry(message.subject).or_default().push(message.payload.unwrap());
    }
    assert_eq!(by_key.len(), KEYS);
    assert!(by_key.values().all(|bodies| bodies[..] == ["0", "1", "2"]));
    assert_eq!(stream.subjects(&SubjectFilter::all()).await.unwrap().len(), KEYS);
    for (key, sequence) in rounds[1].iter().enumerate() {
        let state = stream.last_at(&[subject(key)], *sequence).await.unwrap();
        assert_eq!((state[0].sequence, state[0].payload.as_deref()), (*sequence, Some(&b"1"[..])));
        assert_eq!(stream.get(*sequence).await.unwrap().unwrap(), state[0]);
    }
    let early = stream.last_at(&[subject(0)], rounds[0][0] - 1).await.unwrap();
    assert!(early.is_empty());
    assert_eq!(stream.get(0).await.unwrap(), None);
    assert_eq!(stream.get(1_000_000).await.unwrap(), None);
    assert_eq!(stream.purge(&SubjectFilter::all()).await.unwrap(), 3 * KEYS as u64);
    assert_eq!(stream.get(rounds[2][0]).await.unwrap(), None);
    assert!(stream.subjects(&SubjectFilter::all()).await.unwrap().is_empty());
}

/// Sequences are counted with the number of partitions: with another one they name other messages.
#[tokio::test]
async fn partitions_that_somebody_adds_are_refused_by_name_and_nothing_comes_under_two_sequences() {
    let (broker, bus) = shared().await;
    let admin: AdminClient<DefaultClientContext> = raw(&broker.url()).create().unwrap();
    let own = stream(&bus, |config| config.partitions = 3).await;
    let foreign = unique("foreign");
    let topic = NewTopic::new(&foreign, 3, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    // A broker answers before all of it knows the topic.
    let deadline = Instant::now() + PATIENCE;
    let foreign = loop {
        match bus.stream(&foreign).await {
            Err(error) if error.is_not_found() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            found => break found.unwrap(),
        }
    };
    for stream in [own, foreign] {
        let name = stream.name().to_string();
        let subject = stream.info().await.unwrap().config.subjects[0].to_string();
        let subject = subject.replace('>', "a");
        let message = |n: usize| Message::new(&subject, n.to_string()).unwrap().key(n.to_string());
        for n in 0..30 {
            stream.publish(message(n)).await.unwrap();
        }
        let consumer = bus.consumer(&name, "c").open().await.unwrap();
        let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
        assert_eq!(read(&mut reader, 30).await.len(), 30);

        admin
            .create_partitions([&NewPartitions::new(&name, 6)], &AdminOptions::new())
            .await
            .unwrap();
        let producer: FutureProducer = raw(&broker.url()).create().unwrap();
        for partition in 0..6 {
            let record = FutureRecord::<[u8], _>::to(&name).payload("theirs").partition(partition);
            producer.send(record, PATIENCE).await.unwrap();
        }
        let (mut seen, deadline) = (BTreeSet::new(), Instant::now() + PATIENCE);
        let refused = loop {
            assert!(Instant::now() < deadline, "the consumer is not refused");
            match consumer.fetch(100, Duration::from_millis(500)).await {
                Ok(deliveries) => deliveries.iter().for_each(|delivery| {
                    let sequence = delivery.message().sequence;
                    assert!(seen.insert(sequence), "{sequence} names two messages");
                }),
                Err(error) => break error,
            }
        };
        let mut refusals = vec![refused];
        let mut refuse = async |what: &str, refused: Option<bus::Error>| {
            refusals.push(refused.unwrap_or_else(|| panic!("{what} of {name} is not refused")));
        };
        refuse("info", stream.info().await.err()).await;
        refuse("get", stream.get(1).await.err()).await;
        refuse("publish", stream.publish(message(0)).await.err()).await;
        refuse("subjects", stream.subjects(&SubjectFilter::all()).await.err()).await;
        refuse("next", reader.next(1, Duration::ZERO).await.err()).await;
        refuse("reader", stream.reader(&[], Start::Beginning).await.err()).await;
        refuse("consumer", bus.consumer_info(&name, "c").await.err()).await;
        // Another process knows what it counts with by what was written down.
        let other = Bus::connect(&broker.url()).await.unwrap();
        refuse("bind", other.bind(&name, "c").await.err()).await;
        for error in refusals {
            assert_eq!(error.kind(), bus::ErrorKind::Mismatch, "{error}");
            let text = error.to_string();
            let told = [&name, "6", "3"].iter().all(|part| text.contains(*part));
            assert!(told, "{text}");
        }
        bus.delete_stream(&name).await.unwrap();
    }
}

/// A broker that keeps everything in zstd gives back what it took.
#[tokio::test]
async fn a_broker_that_compresses_with_zstd() {
    let broker = bus::testkit::KafkaBroker::start_with("compression.type=zstd").await.unwrap();
    let bus = bus::Bus::connect(&broker.url()).await.unwrap();
    let stream = super::stream(&bus, |_| {}).await;
    let text = "the same again ".repeat(1000);
    stream.publish(super::message(&stream, "a", &text)).await.unwrap();
    let consumer = bus.consumer(stream.name(), "c").open().await.unwrap();
    let delivery = consumer.fetch(1, super::PATIENCE).await.unwrap().remove(0);
    assert_eq!(delivery.message().payload.as_deref(), Some(text.as_bytes()));
    delivery.ack_confirmed().await.unwrap();
}
