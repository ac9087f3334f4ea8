//! The bus' side of the work, the same on every backend.

use std::collections::VecDeque;
use std::time::Duration;

use bus::{Bus, Consumer, Delivery, Message, Start, Stream, StreamConfig};

pub(crate) const PAYLOAD: &[u8] = &[b'x'; 128];

/// A fresh stream that captures everything below its name.
pub(crate) async fn stream(bus: &Bus, name: &str) -> Stream {
    let _ = bus.delete_stream(name).await;
    let config = StreamConfig::parse(name, &[&format!("{name}.>")]).expect("a stream");
    bus.ensure_stream(&config).await.expect("stream")
}

/// Publishes through a window, as a program that keeps receipts does.
pub(crate) async fn publish(stream: &Stream, count: u64, window: usize) {
    let template = Message::new(format!("{}.subject", stream.name()), PAYLOAD).expect("a message");
    let mut receipts = VecDeque::with_capacity(window);
    for _ in 0..count {
        if receipts.len() == window
            && let Some(receipt) = receipts.pop_front()
        {
            settle(receipt).await;
        }
        receipts.push_back(stream.submit(template.clone()).await.expect("submit"));
    }
    while let Some(receipt) = receipts.pop_front() {
        settle(receipt).await;
    }
}

async fn settle(receipt: bus::PendingReceipt) {
    receipt.await.expect("a receipt");
}

/// Consumes and acks one by one.
pub(crate) async fn consume(bus: &Bus, stream: &str, count: u64) {
    Reading::open(bus, stream).await.take(count).await;
}

/// A consumer that has begun.
pub(crate) struct Reading(Consumer, Vec<Delivery>);

impl Reading {
    /// Returns when the first messages are here.
    pub(crate) async fn open(bus: &Bus, stream: &str) -> Self {
        let builder = bus.consumer(stream, "reader").max_unsettled(10_000).prefetch(500);
        let consumer = builder.open().await.expect("consumer");
        let first = consumer.fetch(1, Duration::from_secs(30)).await.expect("the first message");
        Self(consumer, first)
    }

    /// Acks `count` messages with those of before.
    pub(crate) async fn take(self, count: u64) {
        let Self(consumer, mut deliveries) = self;
        let mut taken = 0;
        loop {
            for delivery in deliveries {
                delivery.ack().await.expect("ack");
                taken += 1;
            }
            if taken >= count {
                return;
            }
            deliveries = consumer.fetch(500, Duration::from_secs(5)).await.expect("fetch");
        }
    }
}

/// Reads the stream to its end in `readers` tasks at once.
pub(crate) async fn fan_out(stream: &Stream, readers: u64, count: u64) {
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..readers {
        let stream = stream.clone();
        reading.spawn(async move {
            let mut reader = stream.reader(&[], Start::Beginning).await.expect("reader");
            let mut read = 0;
            while read < count {
                read += reader.next(500, Duration::from_secs(5)).await.expect("next").len() as u64;
            }
        });
    }
    while let Some(read) = reading.join_next().await {
        read.expect("a reader");
    }
}
