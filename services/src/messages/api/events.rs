//! `GET /v1/subscriptions/{name}/events`: stream mode.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::Method;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::{FutureExt, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::admission::{Admission, Request, admit, first_position, jitter, spread};
use super::asked::{Asked, Mode};
use crate::http::{Deadline, Due, PathName, Problem, come_again, stream_headers, wants_stream};
use crate::messages::Messages;
use crate::messages::queue::{Flow, QueueStream};
use crate::messages::stream::{Connection, Entrance, LONGEST_WAIT, Opened, Opening};
use crate::messages::token;

/// How long a client waits before it connects again: at least this, at most three times as long,
/// so that all clients of a process that stopped do not come at once.
pub(super) const RETRY_MS: u64 = 1000;
/// How long an answer may take to begin where the client can be kept waiting in it.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A stream whose time is up ends by itself when it is read; the connection of one that is not
/// read is closed this much later.
const OVERTIME: Duration = Duration::from_secs(10);

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
    let permit = match messages.place() {
        Err(busy) if is_patient => return Ok(come_again(busy.detail())),
        permit => permit?,
    };
    let retry_ms = RETRY_MS + jitter(&platform.entropy, 2 * RETRY_MS)?;
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
) -> Result<Opened, Problem> {
    let inner = &messages.0;
    let mode = request.asked.mode(Mode::Stream)?;
    let max_per_key = request.asked.max_per_key()?;
    let admitted = admit(&messages, &request, Admission::Opens).await?;
    let max_age = spread(&inner.store.platform.entropy, inner.options.max_stream_age)?;
    let shutdown = inner.shutdown.clone();
    if mode == Mode::Queue {
        let followed = admitted.followed;
        let id = token::seal_start(&inner.store.signer, &followed.kept().subscription);
        let flow = Flow::new(inner.queue.clone(), followed, max_per_key);
        let stream = QueueStream::new(flow, (retry_ms, id), max_age, shutdown, permit);
        return Ok(Opened::Queue(Box::new(stream)));
    }
    let (position, expired) = first_position(&messages, &request, &admitted).await?;
    let followed = admitted.followed;
    let opening = Opening { followed, position, expired, retry_ms, max_age, permit };
    Ok(Opened::Stream(Box::new(Connection::new(inner.feeds.clone(), opening, shutdown))))
}

/// When the connection is closed if its client does not even read the end of the stream.
pub(super) fn due(messages: &Messages, deadline: Option<&Deadline>) -> Option<Due> {
    let max_age = messages.0.options.max_stream_age.saturating_mul(11) / 10;
    let at = Instant::now().checked_add(LONGEST_WAIT + max_age + OVERTIME)?;
    deadline.map(|deadline| deadline.set(at))
}

pub(super) fn respond(entrance: Entrance, due: Option<Due>) -> Response {
    let chunks = stream::unfold((entrance, due), |(mut entrance, due)| async move {
        let chunk = entrance.next().await?;
        Some((Ok::<_, Infallible>(chunk), (entrance, due)))
    });
    (stream_headers(), Body::from_stream(chunks)).into_response()
}

/// A body of unknown length, as that of the stream would be.
pub(super) fn nothing() -> stream::Empty<Result<bytes::Bytes, Infallible>> {
    stream::empty()
}
