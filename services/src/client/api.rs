//! The requests, one method each.

use std::fmt;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use url::Url;

use super::error::{Error, ErrorKind, Result};
use super::event_stream::EventStream;
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
        EventStream::new(self.clone(), resume)
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
        Err(mut error) => match error.take_settled() {
            Some(results) => Ok(Settled { results }),
            None => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::wire::NewSubscription;

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
