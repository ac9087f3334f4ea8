//! The orders flow in one program: an order is made, paid and delivered, and its customer is told.
//!
//! `cargo run -p lockgate-examples --bin 15_orders [-- --bus nats://127.0.0.1:4222]`
//!
//! Kafka has no compare-and-set: there the state is kept in this process.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus::{Bus, Capability, Support};
use lockgate_examples::{Failure, bus_url};
use lockgate_flows::Context;
use lockgate_flows::orders::roles::{self, Setup};
use lockgate_flows::orders::{Settings, Sinks, prepare_with};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let bus = Bus::connect(&bus_url()?).await?;
    let state = match bus.support(Capability::KvCompareAndSet) {
        Support::Unsupported => Bus::connect("embedded:").await?,
        _ => bus.clone(),
    };
    let context = Context::new(bus, state);
    let shutdown = context.shutdown.clone();
    let settings = Settings {
        ordering_port: free_port()?,
        payment_port: free_port()?,
        delivery_port: free_port()?,
        ..Settings::default()
    };
    let [ordering, payment, delivery] =
        [settings.ordering_port, settings.payment_port, settings.delivery_port]
            .map(|port| format!("http://127.0.0.1:{port}"));

    // `lockgate flow orders` does the same with settings from the environment.
    prepare_with(&context, &settings).await?;
    let sinks = Sinks::new(&settings)?;
    let setup = Setup { context, settings: Arc::new(settings), sinks };
    let mut running = JoinSet::new();
    running.spawn(roles::logging(setup.clone()));
    running.spawn(roles::notification(setup.clone()));
    running.spawn(roles::mobile(setup.clone()));
    running.spawn(roles::email(setup.clone()));
    running.spawn(roles::delivery(setup.clone()));
    running.spawn(roles::payment(setup.clone()));
    running.spawn(roles::ordering(setup));

    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = Client::new();
    // A customer keeps the key and repeats the request until it is answered: it makes one order.
    let key = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos().to_string();
    let tea = json!({
        "customer": { "name": "Anna", "email": "anna@mail.org", "phone": "+4930123456" },
        "items": [{ "name": "tea", "quantity": 2, "priceCents": 450 }],
    });
    let new = || http.post(format!("{ordering}/orders")).header("idempotency-key", &key).json(&tea);
    let made = answered(new).await?;
    let again = answered(new).await?;
    let order = made["orderId"].as_str().unwrap_or_default();
    println!(
        "{} cents to pay; repeated, it is the same: {}",
        made["amountCents"],
        made["orderId"] == again["orderId"]
    );

    let url = made["paymentUrl"].as_str().unwrap_or_default();
    println!("the URL is payment's: {}", url == format!("{payment}/payments/{order}"));
    let card = json!({ "attempt": 1, "card": "4242 4242 4242 4242" });
    let paid = answered(|| http.post(url).json(&card)).await?;
    println!("the payment is {}", paid["status"]);

    // The courier is known as soon as delivery has taken the order over. What is reported too
    // early waits for its turn.
    for report in ["delivered", "shipped"] {
        answered(|| http.put(format!("{delivery}/deliveries/{order}/{report}"))).await?;
    }
    println!("the journey:");
    let steps = told(&http, &format!("{ordering}/orders/{order}")).await?;
    for step in &steps {
        println!("  {}", step["stage"].as_str().unwrap_or_default());
    }
    println!("texted and mailed at each of the {} stages", steps.len());

    shutdown.cancel();
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

/// Asks again until it is done: while the flow starts nobody listens, and an order needs a moment
/// from one role to the next.
async fn answered(ask: impl Fn() -> RequestBuilder) -> Result<Value, Failure> {
    let asking = async {
        loop {
            match ask().send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer.json().await?),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(50), asking).await?
}

/// The steps of an order once it is delivered and its customer was told of each.
async fn told(http: &Client, url: &str) -> Result<Vec<Value>, Failure> {
    loop {
        let order = answered(|| http.get(url)).await?;
        let steps = order["journey"].as_array().cloned().unwrap_or_default();
        let is_told = |step: &Value| step["texted"].is_string() && step["mailed"].is_string();
        if order["status"] == "delivered" && steps.iter().all(is_told) {
            return Ok(steps);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
