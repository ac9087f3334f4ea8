//! Messages that are too large: a broker refuses a batch as a whole, and only what is too large by
//! itself fails.

use bus::{Bus, ErrorKind, Message, Receipt, Result, Start, Stream};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use tokio::time::Instant;

use super::reading::{raw, read};
use super::{PATIENCE, message, shared, stream, unique};

const LIMIT: &str = "10000";

fn admin(url: &str) -> AdminClient<DefaultClientContext> {
    raw(url).create().unwrap()
}

/// A topic that others made, and that takes less than the client sends together.
async fn foreign(bus: &Bus, url: &str) -> Stream {
    let name = unique("small");
    let topic = NewTopic::new(&name, 1, TopicReplication::Fixed(1));
    let topic = topic.set("max.message.bytes", LIMIT);
    admin(url).create_topics([&topic], &AdminOptions::new()).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bus.stream(&name).await {
            Err(error) if error.is_not_found() && Instant::now() < deadline => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            found => return found.unwrap(),
        }
    }
}

/// Which were refused as too large; nothing else may have happened to the others.
fn refused(receipts: Vec<Result<Receipt>>) -> Vec<usize> {
    let refused = receipts.into_iter().enumerate().filter_map(|(at, receipt)| {
        let error = receipt.err()?;
        assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
        Some(at)
    });
    refused.collect()
}

async fn lengths(stream: &Stream, count: usize) -> Vec<usize> {
    let mut reader = stream.reader(&[], Start::Beginning).await.unwrap();
    let all = read(&mut reader, count).await;
    all.iter().map(|message| message.payload.as_ref().unwrap().len()).collect()
}

#[tokio::test]
async fn one_that_is_too_large_fails_alone() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    // Lowered by somebody else, behind the back of the stream.
    let name = stream.name().to_string();
    let lower = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", LIMIT);
    admin(&broker.url()).alter_configs([&lower], &AdminOptions::new()).await.unwrap();
    let large = |at: usize| if at == 10 { 20_000 } else { 100 + at };
    let all: Vec<Message> =
        (0..21).map(|at| message(&stream, "a", "x".repeat(large(at)))).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        // The broker takes the new limit a moment later.
        let receipts = stream.publish_all(all.clone()).await;
        let refused = refused(receipts);
        if refused.is_empty() {
            assert!(Instant::now() < deadline, "the limit is not lowered");
            stream.purge(&bus::SubjectFilter::all()).await.unwrap();
            continue;
        }
        assert_eq!(refused, [10]);
        break;
    }
    let wanted: Vec<usize> = (0..21).filter(|at| *at != 10).map(large).collect();
    assert_eq!(lengths(&stream, 20).await, wanted, "in their order");
    // Sent one by one from now on, and many of them.
    let many: Vec<Message> =
        (0..2000).map(|at| message(&stream, "a", "x".repeat(at % 300))).collect();
    assert!(refused(stream.publish_all(many).await).is_empty());
}

#[tokio::test]
async fn small_ones_are_stored_in_a_topic_that_takes_little() {
    let (broker, bus) = shared().await;
    let stream = foreign(&bus, &broker.url()).await;
    let message = |length: usize| Message::new(stream.name().as_str(), "x".repeat(length)).unwrap();
    let mut all: Vec<Message> = (0..500).map(|at| message(100 + at % 7)).collect();
    all.insert(250, message(9_999));
    assert_eq!(
        refused(stream.publish_all(all.clone()).await),
        [250],
        "the broker counts its frame"
    );
    all.remove(250);
    let wanted: Vec<usize> = (0..500).map(|at| 100 + at % 7).collect();
    assert_eq!(lengths(&stream, 500).await, wanted);

    // The same in one transaction.
    let mut unit = bus.unit();
    for message in all {
        unit = unit.publish(&stream, message);
    }
    unit.commit().await.unwrap();
    let failed = bus.unit().publish(&stream, message(100)).publish(&stream, message(9_999));
    let failed = failed.commit().await.unwrap_err();
    assert_eq!(failed.error.kind(), ErrorKind::TooLarge, "{}", failed.error);
    assert_eq!(lengths(&stream, 1000).await.len(), 1000);
}

#[tokio::test]
async fn a_unit_is_not_failed_by_the_size_of_its_batch() {
    let (broker, bus) = shared().await;
    let stream = stream(&bus, |_| {}).await;
    let name = stream.name().to_string();
    let lower = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", LIMIT);
    admin(&broker.url()).alter_configs([&lower], &AdminOptions::new()).await.unwrap();
    // Whichever limit holds by now.
    let mut unit = bus.unit();
    for at in 0..300 {
        unit = unit.publish(&stream, message(&stream, "a", at));
    }
    assert_eq!(unit.commit().await.unwrap().receipts.len(), 300);
}
