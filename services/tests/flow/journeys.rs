//! The flow `orders` on Kafka, carried by the bridges of `deploy/bridges/orders.toml` to a subscriber.

use std::process::Stdio;

use bus::testkit::{KafkaBroker, NatsServer, free_port};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{LIMIT, QUICK_GROUPS, command, line, printed};

/// The stages of an order, as the file names them.
const STAGES: [&str; 7] = [
    "created",
    "payment-created",
    "payment-made",
    "ready-to-ship",
    "shipping",
    "shipped",
    "delivered",
];

fn lockgate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.kill_on_drop(true);
    command
}

/// reqwest wants a TLS provider even for plain HTTP; a second installation is refused.
fn client() -> reqwest::Client {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The roles of the flow, and where three of them listen.
struct Orders {
    http: reqwest::Client,
    ports: [u16; 3],
    _flow: Child,
}

impl Orders {
    async fn start(kafka: &str, state: &str) -> Self {
        let ports = [free_port().unwrap(), free_port().unwrap(), free_port().unwrap()];
        let [ordering, payment, delivery] = ports.map(|port| port.to_string());
        let mut flow = command(&["orders", "--bus", kafka, "--state", state]);
        flow.args(["--ordering-port", &ordering, "--payment-port", &payment]);
        flow.args(["--delivery-port", &delivery]).stderr(Stdio::inherit());
        let mut flow = flow.spawn().unwrap();
        line(&mut printed(&mut flow), "ordering listens at").await;
        Self { http: client(), ports, _flow: flow }
    }

    /// Asks until the answer is a good one.
    async fn ask(&self, request: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = request(&self.http).send().await;
            if let Ok(answer) = answer
                && answer.status().is_success()
            {
                return answer.json().await.unwrap();
            }
            assert!(Instant::now() < deadline, "{:?}", request(&self.http));
            sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    /// Orders and pays; the order's id.
    async fn order(&self, key: &str) -> String {
        let [ordering, payment, _] = self.ports;
        let order = json!({
            "customer": { "name": "Anna", "email": "anna@mail.org", "phone": "+4930123456" },
            "items": [{ "name": "tea", "quantity": 2, "priceCents": 450 }],
        });
        let url = format!("http://127.0.0.1:{ordering}/orders");
        let made =
            self.ask(|http| http.post(&url).header("idempotency-key", key).json(&order)).await;
        let id = made["orderId"].as_str().unwrap().to_owned();
        let card = json!({ "attempt": 1, "card": "4242 4242 4242 4242" });
        let url = format!("http://127.0.0.1:{payment}/payments/{id}");
        self.ask(|http| http.post(&url).json(&card)).await;
        id
    }

    async fn report(&self, order: &str, stage: &str) {
        let delivery = self.ports[2];
        let url = format!("http://127.0.0.1:{delivery}/deliveries/{order}/{stage}");
        self.ask(|http| http.put(&url)).await;
    }
}

#[tokio::test]
async fn journeys_so_far_and_then_each_step_reach_a_subscriber() {
    let nats = NatsServer::start().await.unwrap();
    let kafka = KafkaBroker::start_with(QUICK_GROUPS).await.unwrap();
    let orders = Orders::start(&kafka.url(), &nats.url()).await;
    let first = orders.order("first").await;
    orders.report(&first, "shipped").await;
    orders.report(&first, "delivered").await;

    let folder = tempfile::tempdir().unwrap();
    let routes = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/bridges/orders.toml");
    let routes = std::fs::read_to_string(routes).unwrap();
    let broker = kafka.url();
    let routes = routes.replace("127.0.0.1:9092", broker.strip_prefix("kafka://").unwrap());
    let file = folder.path().join("orders.toml");
    std::fs::write(&file, routes).unwrap();
    let (bus, file) = (nats.url(), file.to_str().unwrap());
    let listen = |port: u16| format!("127.0.0.1:{port}");
    let at = free_port().unwrap();
    let server = listen(at);
    let roles = ["run", "registration", "events", "messages", "prefill", "dispatcher"];
    let mut server = lockgate(&[&roles[..], &["--bus", &bus, "--listen", &server]].concat());
    let mut server = server.spawn().unwrap();
    line(&mut printed(&mut server), "ready").await;
    let port = listen(free_port().unwrap());
    let bridge = ["run", "bridge", "--bridges", file, "--bus", &bus, "--listen", &port];
    let _bridge = lockgate(&bridge).spawn().unwrap();

    let (http, url) = (client(), format!("http://127.0.0.1:{at}/v1"));
    let carried = |order: String| {
        let (http, url) = (http.clone(), format!("{url}/state?topics=orders.*&key={order}"));
        async move {
            let deadline = Instant::now() + LIMIT;
            loop {
                let state: Value = http.get(&url).send().await.unwrap().json().await.unwrap();
                let topic = |event: &Value| event["topic"].as_str().unwrap_or_default().to_owned();
                let events = state["events"].as_array().cloned().unwrap_or_default();
                let topics: Vec<String> = events.iter().map(topic).collect();
                if STAGES.iter().all(|stage| topics.contains(&format!("orders.{stage}"))) {
                    return;
                }
                assert!(Instant::now() < deadline, "{topics:?}");
                sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    };
    carried(first.clone()).await;

    let follow = ["subscribe", "journey", "--topics", "orders.*", "--prefill", "--server"];
    let of = format!("http://127.0.0.1:{at}");
    let secrets = folder.path().join("home");
    std::fs::create_dir(&secrets).unwrap();
    let mut follows = lockgate(&[&follow[..], &[&of]].concat());
    let mut follows =
        follows.env("HOME", &secrets).env("XDG_STATE_HOME", &secrets).spawn().unwrap();
    let mut said = printed(&mut follows);
    for _ in STAGES {
        let before = line(&mut said, &first).await;
        assert!(before.contains("prefill"), "{before}");
    }
    let second = orders.order("second").await;
    let paid = line(&mut said, &second).await;
    assert!(paid.contains("live"), "{paid}");
}
