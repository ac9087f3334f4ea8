//! `GET /v1/subscriptions/{name}/events`: stream mode.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::asked::Asked;
use super::secret_needed;
use crate::http::{
    Deadline, Due, PathName, Problem, ProblemKind, come_again, stream_headers, wants_stream,
};
use crate::limits::MAX_STREAMS;
use crate::messages::Messages;
use crate::messages::directory::Followed;
use crate::messages::stream::{Connection, Entrance, LONGEST_WAIT, Opening};
use crate::messages::tickets::{Brought, Verdict};
use crate::messages::token::{self, Resumed};
use crate::platform::Entropy;

/// How long a client waits before it connects again: at least this, at most three times as long,
/// so that all clients of a process that stopped do not come at once.
const RETRY_MS: u64 = 1000;
/// How long an answer may take to begin where the client can be kept waiting in it.
const PATIENCE: Duration = Duration::from_secs(2);
/// A stream whose time is up ends by itself when it is read; the connection of one that is not
/// read is closed this much later.
const OVERTIME: Duration = Duration::from_secs(10);

/// A request for a stream.
struct Request {
    name: String,
    asked: Asked,
    headers: HeaderMap,
    /// Its own name: see [`Brought`].
    id: String,
    came_ms: u64,
}

/// Whether a ticket is used up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Opens,
    OnlyLooks,
}

pub(super) async fn events(
    State(messages): State<Messages>,
    PathName(name): PathName,
    parts: Parts,
) -> Result<Response, Problem> {
    let inner = &messages.0;
    let platform = &inner.store.platform;
    let Parts { method, uri, headers, extensions, .. } = parts;
    let asked = Asked::read(uri.query().unwrap_or_default(), &headers);
    let (id, came_ms) = (platform.entropy.uid()?, platform.clock.now_ms());
    let is_patient = wants_stream(&method, &headers);
    let request = Arc::new(Request { name, asked, headers, id, came_ms });
    if method == Method::HEAD {
        admit(&messages, &request, Admission::OnlyLooks).await?;
        return Ok((stream_headers(), Body::from_stream(nothing())).into_response());
    }
    let Ok(permit) = inner.streams.clone().try_acquire_owned() else {
        let detail = format!("{MAX_STREAMS} streams are open here: connect to another replica");
        return match is_patient {
            true => Ok(come_again(&detail)),
            false => Err(Problem::new(ProblemKind::Busy, detail)),
        };
    };
    let retry_ms = RETRY_MS + jitter(&platform.entropy, 2 * RETRY_MS)?;
    let permit = Arc::new(permit);
    if !is_patient {
        let connection = open(messages.clone(), request, permit, retry_ms).await?;
        return Ok(respond(Entrance::open(connection), due(&messages, extensions.get())));
    }
    let due = due(&messages, extensions.get());
    let again = messages.clone();
    let try_once = move || open(again.clone(), request.clone(), permit.clone(), retry_ms).boxed();
    let mut entrance = Entrance::new(try_once, retry_ms, inner.shutdown.clone());
    entrance.enter(PATIENCE).await?;
    Ok(respond(entrance, due))
}

/// Opens the stream, or says why not.
async fn open(
    messages: Messages,
    request: Arc<Request>,
    permit: Arc<OwnedSemaphorePermit>,
    retry_ms: u64,
) -> Result<Connection, Problem> {
    let inner = &messages.0;
    let (followed, resumed) = admit(&messages, &request, Admission::Opens).await?;
    let (position, expired) = match resumed {
        None => (None, None),
        Some(Resumed::At(position)) => (Some(position), None),
        Some(Resumed::Expired(reason)) => (None, Some(reason)),
        Some(Resumed::Invalid) => return Err(invalid_token()),
    };
    let max_age = spread(&inner.store.platform.entropy, inner.options.max_stream_age)?;
    let opening = Opening { followed, position, expired, retry_ms, max_age, permit };
    Ok(Connection::new(inner.feeds.clone(), opening, inner.shutdown.clone()))
}

/// Lets a request in by its secret or its ticket. A ticket is not used up by a request that is
/// refused for its resume token.
async fn admit(
    messages: &Messages,
    request: &Request,
    admission: Admission,
) -> Result<(Followed, Option<Resumed>), Problem> {
    let inner = &messages.0;
    let Request { name, asked: Asked { resume, ticket }, headers, id, came_ms } = request;
    let followed = messages.find(name).await?;
    let subscription = &followed.kept().subscription;
    let resumed =
        resume.as_ref().map(|token| token::open(&inner.store.signer, subscription, token));
    let is_ours = !matches!(resumed, Some(Resumed::Invalid));
    if !messages.knows_secret(&followed, headers) {
        let Some(ticket) = ticket else { return Err(secret_needed(name)) };
        let brought = Brought { ticket, request: id, came_ms: *came_ms };
        // A token that has expired was given to a reader of this subscription all the same.
        let resumes = is_ours && resumed.is_some();
        let verdict = match admission {
            Admission::Opens if is_ours => {
                inner.tickets.redeem(subscription, &brought, resumes).await?
            }
            _ => inner.tickets.look(subscription, &brought, resumes).await?,
        };
        if let Verdict::Refused(why) = verdict {
            return Err(ticket_refused(name, why));
        }
    }
    match is_ours {
        true => Ok((followed, resumed)),
        false => Err(invalid_token()),
    }
}

/// When the connection is closed if its client does not even read the end of the stream.
fn due(messages: &Messages, deadline: Option<&Deadline>) -> Option<Due> {
    let max_age = messages.0.options.max_stream_age.saturating_mul(11) / 10;
    let at = Instant::now().checked_add(LONGEST_WAIT + max_age + OVERTIME)?;
    deadline.map(|deadline| deadline.set(at))
}

fn respond(entrance: Entrance, due: Option<Due>) -> Response {
    let chunks = stream::unfold((entrance, due), |(mut entrance, due)| async move {
        let chunk = entrance.next().await?;
        Some((Ok::<_, Infallible>(chunk), (entrance, due)))
    });
    (stream_headers(), Body::from_stream(chunks)).into_response()
}

/// A body of unknown length, as that of the stream would be.
fn nothing() -> stream::Empty<Result<bytes::Bytes, Infallible>> {
    stream::empty()
}

fn invalid_token() -> Problem {
    let detail = "the resume token is not one of this subscription: send the last id received \
                  unchanged, or none to begin at the start";
    Problem::new(ProblemKind::InvalidToken, detail)
}

fn ticket_refused(name: &str, why: &str) -> Problem {
    let detail = format!(
        "the ticket {why}: get a new one with POST /v1/subscriptions/{name}/tickets and the secret"
    );
    Problem::new(ProblemKind::Unauthorized, detail).field("ticket")
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
