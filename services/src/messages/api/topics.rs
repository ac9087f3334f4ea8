//! `GET /v1/state` and `GET /v1/stream`: topics without a subscription.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as AppState;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use url::form_urlencoded;

use super::TopicsApi;
use super::admission::{jitter, spread};
use super::asked::Asked;
use super::events::{PATIENCE, RETRY_MS, due, nothing, respond};
use super::websocket::accept_or_refuse;
use crate::http::{Params, Problem, ProblemKind, come_again, stream_headers, wants_stream};
use crate::limits::MAX_PULL_MESSAGES;
use crate::messages::Messages;
use crate::messages::socket::{self, Source};
use crate::messages::stream::{Entrance, From, Opened, capture};
use crate::messages::topics::{
    Interest, Opening, Place, Resumed, Rows, State, TopicStream, changed, fence,
};
use crate::model::{Invalid, Key, TopicSet};
use crate::prefill::SourceError;

const DEFAULT_PAGE: usize = 1000;
/// Events of a page in bytes: the one that fills it is the last.
const PAGE_BYTES: usize = crate::limits::MAX_PULL_BYTES;
/// Lines that are written at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// The query of `/v1/state`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateQuery {
    topics: Option<String>,
    key: Option<String>,
    at: Option<String>,
    page_size: Option<usize>,
    page_token: Option<String>,
}

pub(super) async fn state(
    AppState(api): AppState<TopicsApi>,
    headers: HeaderMap,
    Params(query): Params<StateQuery>,
) -> Result<Response, Problem> {
    let interest = api.let_in(&headers, query.topics.as_deref(), query.key)?;
    let max = query.page_size.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PULL_MESSAGES).contains(&max) {
        let why = Invalid::new(format!("page_size is {max}: ask for 1 to {MAX_PULL_MESSAGES}"));
        return Err(Problem::invalid("page_size", &why).with("limit", MAX_PULL_MESSAGES));
    }
    let permit = api.messages.place()?;
    let rows = match query.page_token.as_deref() {
        Some(token) => api.messages.page(&interest, token).await?,
        None => {
            let at = query.at.as_deref().map_or(Ok(From::Now), From::parse_at);
            let at = at.map_err(|why| Problem::invalid("at", &why))?;
            Rows::at(capture(&api.messages.0.store, &interest.topics, &at).await?)
        }
    };
    let state = State::open(&api.messages.0.store, &interest, rows).await?;
    let json_lines = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("application/x-ndjson"))
    };
    let reading = Reading { messages: api.messages, interest, state, _permit: permit };
    match headers.get_all(header::ACCEPT).iter().any(json_lines) {
        true => Ok(reading.lines().await?),
        false => reading.page(max).await,
    }
}

/// A state that is being read for one answer.
struct Reading {
    messages: Messages,
    interest: Interest,
    state: State,
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Reading {
    /// One page as JSON.
    async fn page(mut self, max: usize) -> Result<Response, Problem> {
        let mut body = BytesMut::from(&b"{\"events\":["[..]);
        let (mut events, mut is_over) = (0, false);
        while events < max && body.len() < PAGE_BYTES {
            let Some((json, _)) = self.state.next().await? else {
                is_over = true;
                break;
            };
            body.put_slice(if events == 0 { b"" } else { b"," });
            body.put_slice(&json);
            events += 1;
        }
        let mut rest = json!({ "fence": fence(self.state.rows()) });
        match is_over {
            true => {
                rest["next_page_token"] = Value::Null;
                rest["manifest"] = self.state.rows().manifest();
                rest["resume"] = json!(self.resume());
            }
            false => {
                let place = Place::Rows(self.state.rows().clone());
                rest["next_page_token"] = json!(self.seal(&place));
            }
        }
        body.put_slice(b"],");
        // Without its opening brace.
        body.put_slice(rest.to_string().get(1..).unwrap_or("}").as_bytes());
        Ok((headers("application/json"), body.freeze()).into_response())
    }

    /// All of it, an event a line, and a last line that proves that it is whole.
    async fn lines(mut self) -> Result<Response, Problem> {
        // What cannot be told at all is said by the status.
        let first = self.chunk().await?;
        let rest = stream::unfold((self, Some(first)), |(mut reading, chunk)| async move {
            let (chunk, is_over) = chunk?;
            let next = match is_over {
                true => None,
                false => Some(reading.chunk().await.unwrap_or_else(|problem| {
                    (line(&json!({ "problem": problem.to_json() })), true)
                })),
            };
            Some((Ok::<_, Infallible>(chunk), (reading, next)))
        });
        Ok((headers("application/x-ndjson"), Body::from_stream(rest)).into_response())
    }

    /// Some lines; true with the last.
    async fn chunk(&mut self) -> Result<(Bytes, bool), Problem> {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK_BYTES {
            let Some((json, _)) = self.state.next().await? else {
                let resume = self.resume();
                let manifest = self.state.rows().manifest();
                chunk.put_slice(&line(&json!({ "manifest": manifest, "resume": resume })));
                return Ok((chunk.freeze(), true));
            };
            chunk.put_slice(&json);
            chunk.put_u8(b'\n');
        }
        Ok((chunk.freeze(), false))
    }

    /// The token with which a stream goes on behind the state.
    fn resume(&self) -> String {
        self.seal(&Place::Live(self.state.rows().fence.clone()))
    }

    fn seal(&self, place: &Place) -> String {
        place.seal(&self.messages.0.store.signer, &self.interest)
    }
}

fn line(json: &Value) -> Bytes {
    format!("{json}\n").into()
}

fn headers(content_type: &'static str) -> [(header::HeaderName, HeaderValue); 2] {
    let no_store = HeaderValue::from_static("no-store");
    let content_type = HeaderValue::from_static(content_type);
    [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, no_store)]
}

impl std::convert::From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Bus(error) => error.into(),
            SourceError::Impossible(reason) => Self::new(ProblemKind::HistoryIncomplete, reason),
        }
    }
}

impl Messages {
    /// Where a page begins.
    async fn page(&self, interest: &Interest, token: &str) -> Result<Rows, Problem> {
        match self.resumed(interest, token).await? {
            Resumed::At(Place::Rows(rows)) => Ok(rows),
            Resumed::Expired(reason) => {
                let detail = format!("{reason}: begin without page_token");
                Err(Problem::new(ProblemKind::Stale, detail).field("page_token"))
            }
            Resumed::At(Place::Live(_)) | Resumed::Invalid => {
                let why = Invalid::new(
                    "page_token is not one of this state: ask for the same topics and key, or \
                     begin without it",
                );
                Err(Problem::invalid("page_token", &why))
            }
        }
    }

    /// Reads a token, and holds it against the logs.
    async fn resumed(&self, interest: &Interest, token: &str) -> Result<Resumed, Problem> {
        let store = &self.0.store;
        let known = store.realms().await?;
        let resumed = Place::open(&store.signer, interest, &known, token);
        // Live events are held against their logs as they are read.
        if let Resumed::At(Place::Rows(rows)) = &resumed
            && let Some(reason) = changed(store, &rows.fence).await?
        {
            return Ok(Resumed::Expired(reason));
        }
        Ok(resumed)
    }
}

/// A request for a stream.
struct Request {
    interest: Interest,
    resume: Option<String>,
    from: Option<From>,
    prefill: bool,
}

pub(super) async fn stream(
    AppState(api): AppState<TopicsApi>,
    mut parts: Parts,
) -> Result<Response, Problem> {
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let (mut topics, mut key, mut prefill) = (None, None, false);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "topics" => topics = Some(value.into_owned()),
            "key" => key = Some(value.into_owned()),
            "prefill" => prefill = matches!(value.as_ref(), "" | "true" | "1"),
            _ => {}
        }
    }
    let interest = api.let_in(&parts.headers, topics.as_deref(), key)?;
    let asked = Asked::read(&query, &parts.headers);
    let (from, resume) = (asked.from()?, asked.resume.clone());
    if prefill && from.is_some() {
        let why = Invalid::new("from and prefill=true exclude each other: leave one out");
        return Err(Problem::invalid("from", &why));
    }
    let request = Arc::new(Request { interest, resume, from, prefill });
    let messages = api.messages;
    if socket::is_asked_for(&parts.headers) {
        let credit = asked.credit()?;
        return accept_or_refuse(&messages, &mut parts, async |messages| {
            let permit = messages.place()?;
            let stream = open(messages, &request, permit.clone(), 0).await?;
            let max_age = messages.0.options.max_stream_age.saturating_mul(2);
            let (source, shutdown) =
                (Source::stream(Box::new(stream)), messages.0.shutdown.clone());
            let (followed, queue, id) = (None, None, None);
            Ok(socket::Opening { source, followed, queue, id, credit, max_age, shutdown, permit })
        })
        .await;
    }
    if parts.method == Method::HEAD {
        return Ok((stream_headers(), Body::from_stream(nothing())).into_response());
    }
    let is_patient = wants_stream(&parts.method, &parts.headers);
    let permit = match messages.place() {
        Err(busy) if is_patient => return Ok(come_again(busy.detail())),
        permit => permit?,
    };
    let retry_ms = RETRY_MS + jitter(&messages.0.store.platform.entropy, 2 * RETRY_MS)?;
    let (due, shutdown) = (due(&messages, parts.extensions.get()), messages.0.shutdown.clone());
    let try_once = move || {
        let (messages, request, permit) = (messages.clone(), request.clone(), permit.clone());
        let open = async move { open(&messages, &request, permit, retry_ms).await };
        open.map(|opened| opened.map(|stream| Opened::Topics(Box::new(stream)))).boxed()
    };
    let entrance = match is_patient {
        false => Entrance::open(try_once().await?),
        true => {
            let mut entrance = Entrance::new(try_once, retry_ms, shutdown);
            entrance.enter(PATIENCE).await?;
            entrance
        }
    };
    Ok(respond(entrance, due))
}

async fn open(
    messages: &Messages,
    request: &Request,
    permit: Arc<OwnedSemaphorePermit>,
    retry_ms: u64,
) -> Result<TopicStream, Problem> {
    let inner = &messages.0;
    let Request { interest, resume, from, prefill } = request;
    let resumed = match resume {
        Some(token) => Some(messages.resumed(interest, token).await?),
        None => None,
    };
    let (place, expired) = match resumed {
        Some(Resumed::At(place)) => (Some(place), None),
        Some(Resumed::Expired(reason)) => (None, Some(reason)),
        None => (None, None),
        Some(Resumed::Invalid) => {
            let detail = "the resume token is not one of these topics and key: send the last id \
                          received unchanged, or none to begin at the start";
            return Err(Problem::new(ProblemKind::InvalidToken, detail));
        }
    };
    let place = match place {
        Some(place) => place,
        None => {
            let from = from.as_ref().unwrap_or(&From::Now);
            let marks = capture(&inner.store, &interest.topics, from).await?;
            if *prefill { Place::Rows(Rows::at(marks)) } else { Place::Live(marks) }
        }
    };
    let max_age = spread(&inner.store.platform.entropy, inner.options.max_stream_age)?;
    let (interest, prefill) = (interest.clone(), *prefill);
    let opening = Opening { interest, place, prefill, expired, retry_ms, max_age, permit };
    let shutdown = inner.shutdown.clone();
    Ok(TopicStream::new(inner.feeds.clone(), &inner.realms, opening, shutdown))
}

impl TopicsApi {
    /// Lets a request in to its topics: the one place that decides on it.
    fn let_in(
        &self,
        headers: &HeaderMap,
        topics: Option<&str>,
        key: Option<String>,
    ) -> Result<Interest, Problem> {
        let patterns: Vec<&str> = topics.unwrap_or_default().split(',').map(str::trim).collect();
        let topics = TopicSet::parse(&patterns).map_err(|why| Problem::invalid("topics", &why));
        let key = key.map(Key::new).transpose().map_err(|why| Problem::invalid("key", &why));
        let allowed = topics.as_ref().ok();
        self.access.require_read(headers, allowed)?;
        Ok(Interest { topics: topics?, key: key? })
    }
}
