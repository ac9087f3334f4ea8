//! A bridge each way against a plain copy without guarantees: the raw clients, the same servers, in
//! the same run, in turns.
//!
//! `make bench-bridge`, or `cargo bench -p lockgate-bridge --bench copy [-- RECORDS ROUNDS]`. Rates
//! are from the first record that was copied to the last, so that joining a group does not count.

#![allow(missing_docs, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::AckPolicy, consumer::pull, stream};
use bus::Bus;
use bus::testkit::{KafkaBroker, NatsServer};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lockgate_bridge::{Bridge, Bridges, Declared, Figures, names};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

const PARTITIONS: i32 = 3;
const KEYS: usize = 1000;
const PAYLOAD: usize = 200;
/// Receipts that a plain copy waits for at once.
const WINDOW: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(600);

struct Servers {
    brokers: String,
    url: String,
    count: usize,
}

#[tokio::main]
async fn main() {
    let numbers: Vec<usize> =
        std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let (count, rounds) =
        (numbers.first().copied().unwrap_or(400_000), numbers.get(1).copied().unwrap_or(3));
    let (kafka, nats) = (
        KafkaBroker::start().await.expect("a Kafka broker"),
        NatsServer::start().await.expect("a NATS server"),
    );
    let brokers = kafka.url().trim_start_matches("kafka://").to_owned();
    let servers = Servers { brokers, url: nats.url(), count };
    servers.topic("source").await;
    servers.fill("source").await;
    let mut rates: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        let (stream, realm) = (format!("plain-{round}"), format!("r{round}"));
        rates[0].push(servers.plain_in("source", &stream).await);
        rates[1].push(servers.bridge("in", round, "kafka:source", &format!("{realm}.copy")).await);
        let [plain, bridged] = ["plain", "bridged"].map(|to| format!("{to}-{round}"));
        servers.topic(&plain).await;
        servers.topic(&bridged).await;
        rates[2].push(servers.plain_out(&realm, &plain).await);
        let from = format!("{realm}.copy");
        rates[3].push(servers.bridge("out", round, &from, &format!("kafka:{bridged}")).await);
    }
    let [plain_in, bridge_in, plain_out, bridge_out] = rates.map(median);
    println!(
        "{count} records of {PAYLOAD} bytes, {PARTITIONS} partitions, median of {rounds} rounds"
    );
    println!("direction      plain copy      bridge   ratio   goal");
    for (name, plain, bridge) in
        [("Kafka to log", plain_in, bridge_in), ("log to Kafka", plain_out, bridge_out)]
    {
        println!("{name}  {plain:>10.0}/s  {bridge:>8.0}/s  {:>5.2}x   0.60", bridge / plain);
    }
}

impl Servers {
    fn kafka(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("linger.ms", "5");
        config
    }

    async fn topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.kafka().create().expect("a client");
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.expect("a topic");
        made[0].as_ref().expect("a topic");
    }

    async fn fill(&self, topic: &str) {
        let producer: Arc<ThreadedProducer<DefaultProducerContext>> =
            Arc::new(self.kafka().create().expect("a producer"));
        let (count, topic) = (self.count, topic.to_owned());
        let filling = tokio::task::spawn_blocking(move || {
            let payload = [b'x'; PAYLOAD];
            for n in 0..count {
                send(&producer, &topic, format!("k{}", n % KEYS).as_bytes(), &payload);
            }
            producer.flush(PATIENCE).expect("all are stored");
        });
        filling.await.expect("it does not panic");
    }

    /// Consumer to publish, with a window of receipts.
    async fn plain_in(&self, topic: &str, name: &str) -> f64 {
        let client = async_nats::connect(&self.url).await.expect("a connection");
        let context = jetstream::new(client);
        let subjects = vec![format!("{name}.>")];
        let config = stream::Config { name: name.to_owned(), subjects, ..Default::default() };
        context.create_stream(config).await.expect("a stream");
        let (to, mut from) = tokio::sync::mpsc::channel(WINDOW);
        let (config, topic, count) = (self.kafka(), topic.to_owned(), self.count);
        let reading = tokio::task::spawn_blocking(move || read(config, &topic, count, &to));
        let (mut begun, mut receipts) = (None, FuturesUnordered::new());
        while let Some((key, payload)) = from.recv().await {
            begun.get_or_insert_with(Instant::now);
            let subject = format!("{name}.{key}");
            let sent = context.publish(subject, payload).await.expect("it is sent");
            receipts.push(sent.into_future());
            if receipts.len() >= WINDOW {
                receipts.next().await.expect("one is open").expect("it is stored");
            }
        }
        while let Some(receipt) = receipts.next().await {
            receipt.expect("it is stored");
        }
        let rate = rate(self.count, begun);
        reading.await.expect("it does not panic");
        rate
    }

    /// Pull consumer to producer.
    async fn plain_out(&self, realm: &str, topic: &str) -> f64 {
        let client = async_nats::connect(&self.url).await.expect("a connection");
        let log = jetstream::new(client).get_stream(names::log_stream(realm)).await;
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            filter_subject: format!("events.{realm}.copy.*"),
            ..Default::default()
        };
        let consumer = log.expect("the log").create_consumer(config).await.expect("a consumer");
        let batches = consumer.stream().max_messages_per_batch(5000).messages().await;
        let mut messages = batches.expect("messages").take(self.count);
        let producer: Arc<ThreadedProducer<DefaultProducerContext>> =
            Arc::new(self.kafka().create().expect("a producer"));
        let mut begun = None;
        while let Some(message) = messages.next().await {
            begun.get_or_insert_with(Instant::now);
            let message = message.expect("a message");
            let key = message.subject.rsplit('.').next().unwrap_or_default();
            send(&producer, topic, key.as_bytes(), &message.payload);
        }
        let flushing = tokio::task::spawn_blocking(move || producer.flush(PATIENCE));
        flushing.await.expect("it does not panic").expect("all are stored");
        rate(self.count, begun)
    }

    async fn bridge(&self, name: &str, round: usize, from: &str, to: &str) -> f64 {
        let brokers = &self.brokers;
        let file = format!(
            "[kafka]\nbrokers = \"{brokers}\"\n[[route]]\nname = \"{name}-{round}\"\n\
             from = \"{from}\"\nto = \"{to}\"\n"
        );
        let bus = Bus::connect(&self.url).await.expect("a connection");
        let bridges = Bridges::parse(&file).expect("a file of routes");
        let bridge = Bridge::new(bridges, Arc::new(Declared(bus)), "bench");
        let (figures, stop) = (bridge.figures(), CancellationToken::new());
        let running = tokio::spawn(lockgate_bridge::run(bridge, stop.clone()));
        let (begun, first) = until(&figures, 1).await;
        let (ended, last) = until(&figures, self.count as u64).await;
        stop.cancel();
        running.await.expect("it does not panic").expect("it stops");
        (last - first) as f64 / (ended - begun).as_secs_f64()
    }
}

/// When a route had carried so many, and how many that were.
async fn until(figures: &Figures, count: u64) -> (Instant, u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let carried = figures.now()[0].carried;
        if carried >= count {
            return (Instant::now(), carried);
        }
        assert!(Instant::now() < deadline, "{carried} of {count}: {:?}", figures.now());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    key: &[u8],
    payload: &[u8],
) {
    let mut record = BaseRecord::to(topic).key(key).payload(payload);
    while let Err((error, again)) = producer.send(record) {
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert_eq!(error, full, "it is sent");
        record = again;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// All partitions from their beginning, without a group; blocks.
fn read(
    mut config: ClientConfig,
    topic: &str,
    count: usize,
    to: &tokio::sync::mpsc::Sender<(String, Bytes)>,
) {
    config.set("group.id", "plain").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut from = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        from.add_partition_offset(topic, partition, Offset::Beginning).expect("a place");
    }
    consumer.assign(&from).expect("partitions");
    for _ in 0..count {
        let message = consumer.poll(PATIENCE).expect("a record").expect("no error");
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        if to.blocking_send((key, payload)).is_err() {
            return;
        }
    }
}

fn rate(count: usize, begun: Option<Instant>) -> f64 {
    count as f64 / begun.expect("something was copied").elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}
