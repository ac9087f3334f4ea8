//! The requests, one method each.

use std::fmt;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use url::Url;

use super::error::{Error, ErrorKind, Result};
use super::event_stream::{EventStream, Transport};
use super::transport::{http, json, parse_server, required_json, send};
use super::wire::{
    DeadLetterPage, DeadLetters, NewSubscription, PublishAnswer, Published, PullRequest, Pulled,
    RealmStatus, Realms, Settled, Settlements, SubscriptionPage, SubscriptionStatus,
};
use crate::model::{Realm, SubscriptionName};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// What the server may need beyond the wait that a pull asked for.
const PULL_MARGIN: Duration = Duration::from_secs(10);

/// A Lockgate server. Cheap to clone; every request is safe to repeat.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    token: Option<String>,
}

/// Without the token, so that it stands in no log.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `server`, with the admin or publish token where it wants one.
    /// Connects with the first request. A process without a default rustls provider gets ring's.
    pub fn new(server: &str, token: Option<String>) -> Result<Self> {
        let server = parse_server(server)?;
        Ok(Self { http: http(&server)?, server, token })
    }

    /// The server's address.
    pub fn server(&self) -> &Url {
        &self.server
    }

    /// Publishes structured CloudEvents as one batch that keeps the order of each key; one result
    /// each, in the order of the request. An event whose source and id the log knows is not stored
    /// twice.
    ///
    /// An event is whatever serialises as one, for example a [`serde_json::Value`]. A
    /// [`serde_json::value::RawValue`] is sent as it is written: digits and the order of members
    /// stay.
    pub async fn publish<E: Serialize>(&self, events: &[E]) -> Result<Vec<Published>> {
        let body = serde_json::to_vec(events).map_err(|error| {
            Error::new(ErrorKind::Invalid, format!("the events are not JSON: {error}"))
        })?;
        let request = self
            .request(Method::POST, "v1/events", None)
            .header(CONTENT_TYPE, "application/cloudevents-batch+json")
            .body(body);
        let answer: PublishAnswer =
            required_json(send(request, REQUEST_TIMEOUT).await?, REQUEST_TIMEOUT).await?;
        Ok(answer.results)
    }

    /// Registers a subscription; true when this request made it, false when an identical one was
    /// there. A different one is [`super::ErrorKind::Conflict`].
    pub async fn register(&self, new: &NewSubscription) -> Result<(SubscriptionStatus, bool)> {
        let request = self.request(Method::POST, "v1/subscriptions", None).json(new);
        let response = send(request, REQUEST_TIMEOUT).await?;
        let created = response.status() == StatusCode::CREATED;
        Ok((required_json(response, REQUEST_TIMEOUT).await?, created))
    }

    /// One page of subscriptions; `page_token` is that of the page before.
    pub async fn subscriptions(&self, page_token: Option<&str>) -> Result<SubscriptionPage> {
        let query = page_token.map(|token| [("page_token", token)]);
        let request = self.request(Method::GET, "v1/subscriptions", None).query(&query);
        required_json(send(request, REQUEST_TIMEOUT).await?, REQUEST_TIMEOUT).await
    }

    /// One subscription; its own secret serves where no admin token is at hand.
    pub async fn subscription(
        &self,
        name: &SubscriptionName,
        secret: Option<&str>,
    ) -> Result<SubscriptionStatus> {
        let path = format!("v1/subscriptions/{name}");
        let ask = |bearer: Option<&str>| self.request(Method::GET, &path, bearer);
        required_json(self.as_owner(secret, ask).await?, REQUEST_TIMEOUT).await
    }

    /// Deletes a subscription with its position; a missing one is [`super::ErrorKind::NotFound`].
    pub async fn delete(&self, name: &SubscriptionName, secret: Option<&str>) -> Result<()> {
        let path = format!("v1/subscriptions/{name}");
        let ask = |bearer: Option<&str>| self.request(Method::DELETE, &path, bearer);
        self.as_owner(secret, ask).await.map(drop)
    }

    /// One page of a subscription's dead letters; its own secret serves where no admin token is at
    /// hand. `page_token` is that of the page before.
    pub async fn dead_letters(
        &self,
        name: &SubscriptionName,
        secret: Option<&str>,
        page_token: Option<&str>,
    ) -> Result<DeadLetterPage> {
        let path = format!("v1/subscriptions/{name}/dead-letters");
        let query = page_token.map(|token| [("page_token", token)]);
        let ask = |bearer: Option<&str>| self.request(Method::GET, &path, bearer).query(&query);
        required_json(self.as_owner(secret, ask).await?, REQUEST_TIMEOUT).await
    }

    /// Has dead letters delivered again, in order, with their attempts counted anew. One result
    /// each.
    pub async fn redrive(
        &self,
        name: &SubscriptionName,
        secret: Option<&str>,
        which: &DeadLetters,
    ) -> Result<Settled> {
        self.settle_dead_letters(name, secret, "redrive", which).await
    }

    /// Forgets dead letters for good. One result each.
    pub async fn drop_dead_letters(
        &self,
        name: &SubscriptionName,
        secret: Option<&str>,
        which: &DeadLetters,
    ) -> Result<Settled> {
        self.settle_dead_letters(name, secret, "drop", which).await
    }

    async fn settle_dead_letters(
        &self,
        name: &SubscriptionName,
        secret: Option<&str>,
        what: &str,
        which: &DeadLetters,
    ) -> Result<Settled> {
        let path = format!("v1/subscriptions/{name}/dead-letters/{what}");
        let ask = |bearer: Option<&str>| self.request(Method::POST, &path, bearer).json(which);
        settled(self.as_owner(secret, ask).await).await
    }

    /// Asks with the token, and where that is refused (it may be good for publishing only) with
    /// the subscription's secret.
    async fn as_owner(
        &self,
        secret: Option<&str>,
        ask: impl Fn(Option<&str>) -> RequestBuilder,
    ) -> Result<Response> {
        let token = self.token.as_deref();
        match send(ask(token.or(secret)), REQUEST_TIMEOUT).await {
            Err(error) if error.kind() == ErrorKind::Denied && token.is_some() => match secret {
                Some(secret) => send(ask(Some(secret)), REQUEST_TIMEOUT).await,
                None => Err(error),
            },
            answer => answer,
        }
    }

    /// Every realm, sorted by name.
    pub async fn realms(&self) -> Result<Vec<RealmStatus>> {
        let request = self.request(Method::GET, "v1/realms", None);
        let answer: Realms =
            required_json(send(request, REQUEST_TIMEOUT).await?, REQUEST_TIMEOUT).await?;
        Ok(answer.realms)
    }

    /// Says that what a realm's log holds is the whole state, although its beginning was removed,
    /// and returns the realm as it is then.
    pub async fn accept_history(&self, realm: &Realm) -> Result<RealmStatus> {
        let path = format!("v1/realms/{realm}/accept-history");
        let request = self.request(Method::POST, &path, None);
        required_json(send(request, REQUEST_TIMEOUT).await?, REQUEST_TIMEOUT).await
    }

    /// The consuming side of a subscription, under its secret.
    pub fn subscriber(&self, name: SubscriptionName, secret: String) -> Subscriber {
        Subscriber { client: self.clone(), name, secret }
    }

    fn request(&self, method: Method, path: &str, bearer: Option<&str>) -> RequestBuilder {
        let mut url = self.server.clone();
        let path = format!("{}{path}", url.path());
        url.set_path(&path);
        let request = self.http.request(method, url);
        match bearer.or(self.token.as_deref()) {
            Some(bearer) => request.bearer_auth(bearer),
            None => request,
        }
    }
}

/// A subscription, consumed. Cheap to clone.
#[derive(Clone)]
pub struct Subscriber {
    client: Client,
    name: SubscriptionName,
    secret: String,
}

/// Without the secret, so that it stands in no log.
impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, name, secret: _ } = self;
        f.debug_struct("Subscriber")
            .field("client", client)
            .field("name", name)
            .finish_non_exhaustive()
    }
}

impl Subscriber {
    /// The event stream, after `resume` (the id of an event of this stream) or from its start.
    pub fn events(&self, resume: Option<String>) -> EventStream {
        self.events_over(Transport::default(), resume)
    }

    /// The same over a transport. The ids are the same on all of them.
    pub fn events_over(&self, transport: Transport, resume: Option<String>) -> EventStream {
        EventStream::new(self.clone(), transport, resume)
    }

    /// Up to `max` deliveries, leased; waits up to `wait` for the first. Empty when none came.
    ///
    /// With `max_per_key` the batch holds up to so many events of one key, in their order, to be
    /// settled in that order; 1 is one at a time. Without, the server chooses.
    pub async fn pull(
        &self,
        max: usize,
        max_per_key: Option<usize>,
        wait: Duration,
    ) -> Result<Pulled> {
        let told = humantime::format_duration(wait).to_string();
        let body = PullRequest { max, wait: told, max_per_key };
        let request = self.request(Method::POST, "pull").json(&body);
        json(send(request, wait + PULL_MARGIN).await?, REQUEST_TIMEOUT).await
    }

    /// Settles deliveries by their `ack`; one result each, also where nothing could be settled.
    pub async fn settle(&self, settlements: &Settlements) -> Result<Settled> {
        let request = self.request(Method::POST, "acks").json(settlements);
        settled(send(request, REQUEST_TIMEOUT).await).await
    }

    /// Settles deliveries by their `ack`: done, never again. One result each.
    pub async fn ack(&self, ids: &[String]) -> Result<Settled> {
        self.settle(&Settlements { ack: ids.to_vec(), ..Settlements::default() }).await
    }

    pub(super) fn request(&self, method: Method, what: &str) -> RequestBuilder {
        let path = format!("v1/subscriptions/{}/{what}", self.name);
        self.client.request(method, &path, Some(&self.secret))
    }

    pub(super) fn server(&self) -> &Url {
        &self.client.server
    }
}

/// The results, whether they come as an answer or, where none is `done`, within a problem.
async fn settled(answer: Result<Response>) -> Result<Settled> {
    match answer {
        Ok(response) => required_json(response, REQUEST_TIMEOUT).await,
        Err(mut error) => match (error.kind(), error.take_settled()) {
            (ErrorKind::Conflict | ErrorKind::Unavailable, Some(results)) => {
                Ok(Settled { results })
            }
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode as Status, Uri, header};
    use axum::response::{IntoResponse, Response as Answer};
    use serde_json::value::RawValue;

    use super::*;
    use crate::client::wire::NewSubscription;

    type Heard = Arc<Mutex<Vec<String>>>;

    /// Answers every request alike; notes who asked, for what, and the body.
    async fn server(status: u16, body: &'static str) -> (String, Heard) {
        async fn hear(
            State((heard, status, body)): State<(Heard, u16, &'static str)>,
            uri: Uri,
            headers: HeaderMap,
            sent: String,
        ) -> Answer {
            let bearer = headers.get(header::AUTHORIZATION).map(|b| b.to_str().unwrap().to_owned());
            let bearer = bearer.unwrap_or_default();
            let line = format!("{} {uri} {sent}", bearer.trim_start_matches("Bearer "));
            heard.lock().unwrap().push(line);
            let status = if bearer.ends_with("publish-only") { 403 } else { status };
            (Status::from_u16(status).unwrap(), body).into_response()
        }
        let heard = Heard::default();
        let app = Router::new().fallback(hear).with_state((heard.clone(), status, body));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        (format!("http://{addr}"), heard)
    }

    fn name() -> SubscriptionName {
        SubscriptionName::new("jobs").unwrap()
    }

    #[tokio::test]
    async fn events_are_sent_as_they_are_written() {
        let (url, heard) = server(202, r#"{"results":[]}"#).await;
        let event = r#"{"n":12345678901234567890123,"b":1.10,"a":1E2}"#;
        let raw = RawValue::from_string(event.to_owned()).unwrap();
        Client::new(&url, None).unwrap().publish(&[raw]).await.unwrap();
        assert_eq!(heard.lock().unwrap()[0], format!(" /v1/events [{event}]"));
    }

    #[tokio::test]
    async fn settlements_have_results_also_where_none_is_done() {
        let problem =
            r#"{"title":"too late","retryable":false,"results":[{"id":"a","status":"stale"}]}"#;
        let (url, _) = server(409, problem).await;
        let subscriber = Client::new(&url, None).unwrap().subscriber(name(), "s".into());
        let settled = subscriber.ack(&["a".into()]).await.unwrap();
        assert_eq!((settled.results.len(), settled.results[0].status.as_str()), (1, "stale"));
        let (url, _) = server(409, r#"{"title":"conflict"}"#).await;
        let subscriber = Client::new(&url, None).unwrap().subscriber(name(), "s".into());
        assert_eq!(subscriber.ack(&[]).await.unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[tokio::test]
    async fn dead_letters_are_the_owners_whose_token_may_only_publish() {
        let (url, heard) = server(200, r#"{"results":[{"id":"7","status":"done"}]}"#).await;
        let client = Client::new(&url, Some("publish-only".into())).unwrap();
        let which = DeadLetters::Ids(vec!["7".into()]);
        let done = client.redrive(&name(), Some("secret"), &which).await.unwrap();
        assert_eq!(done.results[0].status, "done");
        let path = "/v1/subscriptions/jobs/dead-letters/redrive";
        let sent = [
            format!("publish-only {path} {{\"ids\":[\"7\"]}}"),
            format!("secret {path} {{\"ids\":[\"7\"]}}"),
        ];
        assert_eq!(*heard.lock().unwrap(), sent);
        let refused = client.drop_dead_letters(&name(), None, &DeadLetters::All(true)).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Denied);
    }

    #[tokio::test]
    async fn dead_letters_come_in_pages() {
        let page = r#"{"dead_letters":[{"id":"1","phase":"live","realm":"a","sequence":17,
            "attempts":5,"reason":"no","since":"2026-01-01T00:00:00Z","event":{"n":1.10}}],
            "next_page_token":"t"}"#;
        let (url, heard) = server(200, page).await;
        let client = Client::new(&url, None).unwrap();
        let page = client.dead_letters(&name(), Some("s"), Some("before")).await.unwrap();
        assert_eq!(
            (page.dead_letters[0].sequence, page.next_page_token.as_deref()),
            (17, Some("t"))
        );
        assert_eq!(page.dead_letters[0].event.get(), r#"{"n":1.10}"#);
        let asked = "s /v1/subscriptions/jobs/dead-letters?page_token=before ";
        assert_eq!(heard.lock().unwrap()[0], asked);
    }

    #[test]
    fn no_secret_stands_in_a_log() {
        let client = Client::new("http://127.0.0.1:1", Some("open-token".into())).unwrap();
        let name = SubscriptionName::new("people").unwrap();
        let subscriber = client.subscriber(name.clone(), "open-secret".into());
        let new = NewSubscription {
            name: name.to_string(),
            topics: Vec::new(),
            prefill: false,
            secret: "open-secret".into(),
            ..NewSubscription::default()
        };
        let shown = format!("{client:?} {subscriber:?} {new:?}");
        assert!(shown.contains("people") && !shown.contains("open"), "{shown}");
    }
}
