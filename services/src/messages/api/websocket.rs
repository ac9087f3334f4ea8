//! `GET /v1/subscriptions/{name}/ws`: both modes over WebSocket. See [`crate::messages::socket`].

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::{Admission, Request, admit, first_position, spread};
use super::asked::{Asked, Mode};
use crate::http::{PathName, Problem, ProblemKind};
use crate::limits::MAX_STREAMS;
use crate::messages::Messages;
use crate::messages::queue::Flow;
use crate::messages::socket::{Conversation, Farewell, Handshake, Opening, Source, refuse};
use crate::messages::stream::{self, Connection};
use crate::messages::token;

pub(super) async fn websocket(
    State(messages): State<Messages>,
    PathName(name): PathName,
    mut parts: Parts,
) -> Result<Response, Problem> {
    let platform = &messages.0.store.platform;
    let asked = Asked::read(parts.uri.query().unwrap_or_default(), &parts.headers);
    let (id, came_ms) = (platform.entropy.uid()?, platform.clock.now_ms());
    let headers = parts.headers.clone();
    let request = Request { name, asked, headers, id, came_ms };
    accept_or_refuse(&messages, &mut parts, async |messages| open(messages, &request).await).await
}

/// Reads the handshake, opens what it asks for, and talks to the client in a task of the role.
pub(super) async fn accept_or_refuse(
    messages: &Messages,
    parts: &mut Parts,
    open: impl AsyncFnOnce(&Messages) -> Result<Opening, Problem>,
) -> Result<Response, Problem> {
    let handshake = match Handshake::of(parts) {
        Ok(handshake) => handshake,
        Err(problem) => return Ok(refuse(problem)),
    };
    match open(messages).await {
        Ok(opening) => Ok(messages.converse(handshake, opening)),
        // A page sees no status of a handshake that failed; a close code it sees.
        Err(problem) if parts.headers.contains_key(header::ORIGIN) => {
            Ok(messages.send_away(handshake, problem))
        }
        Err(problem) => Err(problem),
    }
}

async fn open(messages: &Messages, request: &Request) -> Result<Opening, Problem> {
    let inner = &messages.0;
    let permit = messages.place()?;
    let asked = &request.asked;
    let (mode, max_per_key) = (asked.mode(Mode::Queue)?, asked.max_per_key()?);
    let credit = asked.credit()?;
    let admitted = admit(messages, request, Admission::Opens).await?;
    let max_age = spread(&inner.store.platform.entropy, inner.options.max_stream_age)?;
    let shutdown = inner.shutdown.clone();
    let followed = admitted.followed.clone();
    let (source, queue) = match mode {
        Mode::Queue => {
            let flow = Flow::new(inner.queue.clone(), followed.clone(), max_per_key);
            (Source::Queue(Box::new(flow)), Some(inner.queue.clone()))
        }
        Mode::Stream => {
            let (position, expired) = first_position(messages, request, &admitted).await?;
            let (followed, permit) = (followed.clone(), permit.clone());
            let opening =
                stream::Opening { followed, position, expired, retry_ms: 0, max_age, permit };
            let connection = Connection::new(inner.feeds.clone(), opening, shutdown.clone());
            (Source::stream(Box::new(connection)), None)
        }
    };
    let id = Some(token::seal_start(&inner.store.signer, &followed.kept().subscription));
    let followed = Some(followed);
    Ok(Opening { source, followed, queue, id, credit, max_age, shutdown, permit })
}

impl Messages {
    /// A place among the open streams and WebSockets.
    pub(super) fn place(&self) -> Result<Arc<OwnedSemaphorePermit>, Problem> {
        self.0.streams.clone().try_acquire_owned().map(Arc::new).map_err(|_| {
            let detail = format!("{MAX_STREAMS} streams are open here: connect to another replica");
            Problem::new(ProblemKind::Busy, detail)
        })
    }

    /// Answers a handshake, and talks to the client in a task of the role.
    fn converse(&self, handshake: Handshake, opening: Opening) -> Response {
        let (response, open) = handshake.accept();
        self.0.tasks.spawner().spawn(async move {
            if let Some(line) = open.await {
                Conversation::hold(line, opening).await;
            }
        });
        response
    }

    /// Answers a handshake only to say why not.
    fn send_away(&self, handshake: Handshake, problem: Problem) -> Response {
        let (response, open) = handshake.accept();
        let farewell = Farewell::refusal(problem);
        self.0.tasks.spawner().spawn(async move {
            if let Some(line) = open.await {
                line.close(&farewell).await;
            }
        });
        response
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;

    use super::*;

    /// Thousands of idle connections are what this is for: what each holds must stay small.
    #[test]
    fn an_idle_connection_is_small() {
        fn size<L, F: Future>(_: fn(L, Opening) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let hold = |line, opening| Conversation::<DuplexStream>::hold(line, opening);
        assert!(size(hold) <= 6 * 1024, "{} bytes", size(hold));
        assert!(size_of::<Flow>() <= 512, "{} bytes", size_of::<Flow>());
    }
}
