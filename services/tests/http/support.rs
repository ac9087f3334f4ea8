//! A world to send requests to.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use bus::Bus;
use bus::fault::Faults;
use http_body_util::BodyExt;
use lockgate::events::{Ingest, router};
use lockgate::http::{Access, Guard, Health, app};
use lockgate::messages::{self, Messages, MessagesOptions};
use lockgate::platform::Platform;
use lockgate::registration::{self, Registration};
use lockgate::store::{Store, StoreOptions};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) const ADMIN: &str = "admin-token-0123456789";
pub(crate) const PUBLISH: &str = "publish-token-0123456789";

/// The events and registration roles on an embedded bus that can be disturbed.
pub(crate) struct World {
    /// Undisturbed.
    pub(crate) bus: Bus,
    pub(crate) faults: Faults,
    pub(crate) shutdown: CancellationToken,
    pub(crate) app: Router,
}

impl World {
    pub(crate) async fn open() -> Self {
        Self::with(Access::open(), StoreOptions::default(), 1).await
    }

    pub(crate) async fn with(access: Access, options: StoreOptions, seed: u64) -> Self {
        let bus = Bus::connect("embedded:").await.unwrap();
        Self::on(bus, access, options, seed).await
    }

    /// A process that starts with other options on the same bus.
    pub(crate) async fn reopened(&self, options: StoreOptions) -> Self {
        Self::on(self.bus.clone(), Access::open(), options, 1).await
    }

    async fn on(bus: Bus, access: Access, options: StoreOptions, seed: u64) -> Self {
        let faults = Faults::new(seed);
        let platform = Platform::new(faults.wrap(&bus));
        let store = Store::open(platform, options).await.unwrap();
        let shutdown = CancellationToken::new();
        let health = Health::new(store.clone(), shutdown.clone());
        let guard = Guard::new(access.is_open(), &[], &["https://app.example.org".into()]);
        let registration = registration::router(Registration::new(store.clone()), access.clone());
        let api = router(Ingest::new(store), access).merge(registration);
        let app = app(api, guard, health);
        Self { bus, faults, shutdown, app }
    }

    /// With the messages role too, which works on the bus in the background.
    pub(crate) async fn whole() -> Self {
        let bus = Bus::connect("embedded:").await.unwrap();
        let faults = Faults::new(1);
        let platform = Platform::new(faults.wrap(&bus));
        let store = Store::open(platform, StoreOptions::default()).await.unwrap();
        let shutdown = CancellationToken::new();
        let health = Health::new(store.clone(), shutdown.clone());
        let registration = registration::router(Registration::new(store.clone()), Access::open());
        let options = MessagesOptions::default();
        let messages = Messages::start(store.clone(), options, shutdown.clone()).await.unwrap();
        let api = router(Ingest::new(store), Access::open()).merge(registration);
        let api = api.merge(messages::router(messages));
        let app = app(api, Guard::new(true, &[], &[]), health);
        Self { bus, faults, shutdown, app }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.app, request).await
    }

    /// Sends a JSON body, or none for null, with a bearer token where one is given.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: &Value,
    ) -> Answer {
        let mut request = to(method, path).header("content-type", "application/json");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.body(body).unwrap()).await
    }

    /// Posts a body as this media type.
    pub(crate) async fn post(&self, media_type: &str, body: impl Into<Body>) -> Answer {
        let request = to("POST", "/v1/events").header("content-type", media_type);
        self.send(request.body(body.into()).unwrap()).await
    }
}

/// A request to `localhost`.
pub(crate) fn to(method: &str, path: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "localhost:8080")
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let json = serde_json::from_slice(&body).unwrap_or_default();
    Answer { status, headers, json, bytes: body.len() }
}

/// The body of an answer that is not JSON.
pub(crate) async fn text(app: &Router, request: Request<Body>) -> String {
    let body = app.clone().oneshot(request).await.unwrap().into_body();
    String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) json: Value,
    /// Of the body.
    pub(crate) bytes: usize,
}

impl Answer {
    /// Checks that it is a whole problem of this status and slug.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, slug: &str) -> &Self {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let kind = self.json["type"].as_str().unwrap();
        assert_eq!(kind, format!("https://lockgate.dev/problems/{slug}"), "{self:?}");
        assert_eq!(self.json["status"], status);
        let detail = self.json["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.ends_with('.'), "{detail}");
        assert_eq!(self.json["retryable"], status == 503);
        assert_eq!(self.headers.contains_key("retry-after"), status == 503);
        self
    }

    /// Checks the field that is at fault.
    #[track_caller]
    pub(crate) fn names(&self, field: &str) -> &Self {
        assert_eq!(self.json["field"], field, "{self:?}");
        self
    }

    pub(crate) fn detail(&self) -> &str {
        self.json["detail"].as_str().unwrap_or_default()
    }
}
