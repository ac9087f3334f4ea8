//! `GET /v1/subscriptions/{name}/events`: stream mode.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;

use super::secret_needed;
use crate::http::{Params, PathName, Problem, ProblemKind};
use crate::limits::MAX_STREAMS;
use crate::messages::Messages;
use crate::messages::stream::{Connection, Opening};
use crate::messages::token::{self, Resumed};
use crate::platform::Entropy;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How long a client waits before it connects again: at least this, at most three times as long,
/// so that all clients of a process that stopped do not come at once.
const RETRY_MS: u64 = 1000;

/// The query of the request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// A resume token; the header `Last-Event-ID` outweighs it.
    after: Option<String>,
    /// Instead of the secret: see [`crate::messages::tickets`].
    ticket: Option<String>,
}

pub(super) async fn events(
    State(messages): State<Messages>,
    PathName(name): PathName,
    Params(query): Params<Query>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let inner = &messages.0;
    let followed = messages.find(&name).await?;
    let subscription = &followed.kept().subscription;
    let resumed = resume_token(&headers, &query)
        .map(|token| token::open(&inner.store.signer, subscription, token));
    if !messages.knows_secret(&followed, &headers) {
        let resumes = matches!(resumed, Some(Resumed::At(_)));
        let let_in = match &query.ticket {
            Some(ticket) => inner.tickets.redeem(subscription, ticket, resumes).await?,
            None => false,
        };
        if !let_in {
            return Err(secret_needed(&name));
        }
    }
    let (position, expired) = match resumed {
        None => (None, None),
        Some(Resumed::At(position)) => (Some(position), None),
        Some(Resumed::Expired(reason)) => (None, Some(reason)),
        Some(Resumed::Invalid) => return Err(invalid_token()),
    };
    let permit = inner.streams.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("{MAX_STREAMS} streams are open here: connect to another replica");
        Problem::new(ProblemKind::Busy, detail)
    })?;
    let entropy = &inner.store.platform.entropy;
    let retry_ms = RETRY_MS + jitter(entropy, 2 * RETRY_MS)?;
    let max_age = spread(entropy, inner.options.max_stream_age)?;
    let opening = Opening { followed, position, expired, retry_ms, max_age, permit };
    let connection = Connection::new(inner.feeds.clone(), opening, inner.shutdown.clone());
    Ok(respond(connection))
}

fn respond(connection: Connection) -> Response {
    let chunks = stream::unfold(connection, |mut connection| async move {
        let chunk = connection.next().await?;
        Some((Ok::<_, Infallible>(chunk), connection))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would hold frames back otherwise.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(chunks)).into_response()
}

/// The header wins: on reconnect a browser repeats the URL and adds the newer id as header.
fn resume_token<'a>(headers: &'a HeaderMap, query: &'a Query) -> Option<&'a str> {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    header.filter(|id| !id.is_empty()).or(query.after.as_deref())
}

fn invalid_token() -> Problem {
    let detail = "the resume token is not one of this subscription: send the last id received \
                  unchanged, or none to begin at the start";
    Problem::new(ProblemKind::InvalidToken, detail)
}

/// A number below `below`, which is not 0.
fn jitter(entropy: &Entropy, below: u64) -> Result<u64, bus::Error> {
    Ok(u64::from_le_bytes(entropy.bytes()?) % below)
}

/// `age`, a tenth more or less.
fn spread(entropy: &Entropy, age: Duration) -> Result<Duration, bus::Error> {
    let per_mille = 900 + u32::try_from(jitter(entropy, 201)?).unwrap_or(100);
    Ok(age.saturating_mul(per_mille) / 1000)
}
