//! The customers and couriers of a shop, over HTTP. They repeat what was not answered.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::PATIENCE;

pub(crate) const CARD: &str = "4242 4242 4242 4242";

/// An answer: its status and its JSON.
pub(crate) type Answer = (u16, Value);

/// Speaks to the instances in turn.
pub(crate) struct Client {
    http: reqwest::Client,
    ordering: Vec<String>,
    payment: Vec<String>,
    delivery: Vec<String>,
    turn: AtomicUsize,
}

impl Client {
    pub(crate) fn new(ordering: Vec<String>, payment: Vec<String>, delivery: Vec<String>) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            rustls::crypto::ring::default_provider().install_default().unwrap();
        });
        let http = reqwest::Client::builder().timeout(Duration::from_secs(40)).build().unwrap();
        Self { http, ordering, payment, delivery, turn: AtomicUsize::new(0) }
    }

    fn request(&self, method: Method, bases: &[String], path: &str) -> RequestBuilder {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.http.request(method, format!("{}{path}", bases[turn % bases.len()]))
    }

    pub(crate) fn order(&self, key: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, &self.ordering, "/orders")
            .header("idempotency-key", key)
            .json(body)
    }

    pub(crate) fn look(&self, order: &str) -> RequestBuilder {
        self.request(Method::GET, &self.ordering, &format!("/orders/{order}"))
    }

    pub(crate) fn pay(&self, order: &str, attempt: u32, card: &str) -> RequestBuilder {
        let body = json!({ "attempt": attempt, "card": card });
        self.request(Method::POST, &self.payment, &format!("/payments/{order}")).json(&body)
    }

    pub(crate) fn payment(&self, order: &str) -> RequestBuilder {
        self.request(Method::GET, &self.payment, &format!("/payments/{order}"))
    }

    pub(crate) fn report(&self, order: &str, stage: &str) -> RequestBuilder {
        self.request(Method::PUT, &self.delivery, &format!("/deliveries/{order}/{stage}"))
    }

    /// Any path of ordering, for what is wrong.
    pub(crate) fn raw(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &self.ordering, path)
    }
}

/// Sends it once; the answer must come, and an error must be a problem by RFC 9457.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").cloned();
    let body = response.bytes().await.unwrap();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status >= 400 {
        assert_eq!(kind.unwrap(), "application/problem+json", "{status}: {json}");
        assert_eq!(json["status"], status);
        assert!(json["detail"].is_string() && json["type"].is_string(), "{json}");
    }
    (status, json)
}

/// Repeats what `make` makes until an answer has one of these statuses; whoever else does not
/// answer, or says that it cannot now, is asked again.
pub(crate) async fn until(wanted: &[u16], make: impl Fn() -> RequestBuilder) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = match make().send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.bytes().await.unwrap_or_default();
                if wanted.contains(&status) {
                    return serde_json::from_slice(&body).unwrap();
                }
                let repeatable = [404, 503].contains(&status);
                let said = String::from_utf8_lossy(&body).into_owned();
                assert!(repeatable, "{status}: {said}");
                said
            }
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < deadline, "no answer in time: {said}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

pub(crate) fn tea(email: &str) -> Value {
    json!({
        "customer": { "name": "Anna", "email": email, "phone": "+4930123456" },
        "items": [{ "name": "tea", "quantity": 2, "priceCents": 450 }],
    })
}
