//! The same work with async-nats alone, as its documentation shows it.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Context, kv, stream};
use bytes::Bytes;
use futures_util::StreamExt;

pub(crate) struct Raw {
    pub(crate) context: Context,
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let client = async_nats::connect(url).await.expect("connect");
        Self { context: jetstream::new(client) }
    }

    /// A fresh stream of the same shape as ours.
    pub(crate) async fn stream(&self, name: &str) {
        let _ = self.context.delete_stream(name).await;
        let config = stream::Config {
            name: name.to_owned(),
            subjects: vec![format!("{name}.>")],
            ..Default::default()
        };
        self.context.create_stream(config).await.expect("create stream");
    }

    /// Publishes through a FIFO of ack futures.
    pub(crate) async fn publish(&self, subject: String, count: u64, window: usize, payload: Bytes) {
        let mut acks = VecDeque::with_capacity(window);
        for _ in 0..count {
            if acks.len() == window
                && let Some(ack) = acks.pop_front()
            {
                settle(ack).await;
            }
            let sent = self.context.publish(subject.clone(), payload.clone()).await;
            acks.push_back(sent.expect("publish"));
        }
        while let Some(ack) = acks.pop_front() {
            settle(ack).await;
        }
    }

    /// Reads everything through `messages()` of 500, with an ack each.
    pub(crate) async fn consume(&self, stream: &str, consumer: &str, count: u64) {
        let config = pull::Config {
            durable_name: Some(consumer.to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: 10_000,
            ..Default::default()
        };
        let stream = self.context.get_stream(stream).await.expect("stream");
        let consumer: PullConsumer = stream.create_consumer(config).await.expect("consumer");
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(500)
            .expires(Duration::from_secs(30))
            .messages()
            .await
            .expect("messages");
        for _ in 0..count {
            let message = messages.next().await.expect("a message").expect("no error");
            message.ack().await.expect("ack");
        }
    }

    /// Reads everything through `readers` ordered consumers at once.
    pub(crate) async fn fan_out(&self, stream: &str, readers: u64, count: u64) {
        let mut reading = tokio::task::JoinSet::new();
        for _ in 0..readers {
            let stream = self.context.get_stream(stream).await.expect("stream");
            reading.spawn(async move {
                let config = pull::OrderedConfig::default();
                let consumer = stream.create_consumer(config).await.expect("consumer");
                let mut messages = consumer.messages().await.expect("messages");
                for _ in 0..count {
                    messages.next().await.expect("a message").expect("no error");
                }
            });
        }
        while let Some(read) = reading.join_next().await {
            read.expect("a reader");
        }
    }

    pub(crate) async fn bucket(&self, name: &str) -> kv::Store {
        let _ = self.context.delete_key_value(name).await;
        let config = kv::Config { bucket: name.to_owned(), ..Default::default() };
        self.context.create_key_value(config).await.expect("bucket")
    }
}

async fn settle(ack: jetstream::context::PublishAckFuture) {
    ack.await.expect("publish ack");
}
