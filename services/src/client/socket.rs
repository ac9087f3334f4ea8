//! The stream of a subscription over WebSocket, given as the event stream's events.

use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use reqwest::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use reqwest::{Method, Upgraded};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::api::Subscriber;
use super::error::{Error, ErrorKind, Result};
use super::sse::SseEvent;
use super::transport::{cause, send, unreachable};
use crate::limits::MAX_STREAM_LINE_BYTES;

const PROTOCOL: &str = "lockgate.v1";
/// Messages that may be on their way; half of them are granted anew at a time.
const CREDIT: u64 = 512;
/// Events that are given at once.
const BATCH: usize = 256;
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// An open connection in stream mode. What is on its way to us is bounded by what we grant.
pub(super) struct Socket {
    socket: WebSocketStream<Upgraded>,
    /// Taken, and not granted anew.
    taken: u64,
    last_id: String,
    /// What the server said before it closed.
    problem: Option<Error>,
}

/// What the server sends, as far as a stream needs it; `kind` says what of it there is.
#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    event: Option<Box<RawValue>>,
    control: Option<String>,
    data: Option<Box<RawValue>>,
    problem: Option<Box<RawValue>>,
}

impl Socket {
    /// Connects after `resume`, or at the start, within `limit`.
    pub(super) async fn open(
        subscriber: &Subscriber,
        resume: Option<&str>,
        limit: Duration,
    ) -> Result<Self> {
        let key = generate_key();
        let mut query = vec![("mode", "stream".to_owned()), ("credit", CREDIT.to_string())];
        query.extend(resume.map(|id| ("after", id.to_owned())));
        let request = subscriber
            .request(Method::GET, "ws")
            .query(&query)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = send(request, limit).await?;
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes());
        if accept != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            let what = "the server does not speak WebSocket here";
            return Err(Error::new(ErrorKind::Server, what)
                .way_out("check that --server is a Lockgate server, or use --transport events"));
        }
        let server = response.url().origin().ascii_serialization();
        let io = response.upgrade().await.map_err(|error| unreachable(&server, &cause(&error)))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_STREAM_LINE_BYTES))
            .max_frame_size(Some(MAX_STREAM_LINE_BYTES));
        let socket = WebSocketStream::from_raw_socket(io, Role::Client, Some(config)).await;
        let last_id = resume.unwrap_or_default().to_owned();
        Ok(Self { socket, taken: 0, last_id, problem: None })
    }

    /// The next events, at least one within `limit` of the last sign of life; none after a frame
    /// that says nothing. May be dropped and called again.
    pub(super) async fn read(&mut self, server: &str, limit: Duration) -> Result<Vec<SseEvent>> {
        if self.taken >= CREDIT / 2 {
            let credit = format!("{{\"type\":\"credit\",\"messages\":{}}}", self.taken);
            let granted = self.socket.send(Message::text(credit)).await;
            granted.map_err(|error| unreachable(server, &error.to_string()))?;
            self.taken = 0;
        }
        let mut events = Vec::new();
        let first = tokio::time::timeout(limit, self.socket.next()).await;
        let mut next =
            first.map_err(|_| unreachable(server, &format!("no sign of life within {limit:?}")))?;
        loop {
            match next {
                Some(Ok(Message::Text(text))) => events.extend(self.take(&text)?),
                Some(Ok(Message::Close(close))) => return self.closed(server, events, close),
                Some(Ok(_)) => {}
                // What came before it is given first; the connection says it again.
                None | Some(Err(_)) if !events.is_empty() => return Ok(events),
                None => return self.closed(server, events, None),
                Some(Err(error)) => return Err(unreachable(server, &error.to_string())),
            }
            if events.len() >= BATCH {
                return Ok(events);
            }
            next = match self.socket.next().now_or_never() {
                Some(next) => next,
                None => return Ok(events),
            };
        }
    }

    fn take(&mut self, text: &str) -> Result<Option<SseEvent>> {
        let unknown = |why: String| {
            Error::new(ErrorKind::Server, format!("a frame of the server is not understood: {why}"))
                .way_out("check that --server is a Lockgate server of this version")
        };
        let frame: Frame =
            serde_json::from_str(text).map_err(|error| unknown(error.to_string()))?;
        let (event, data) = match (frame.kind.clone().as_str(), frame) {
            ("message", Frame { id: Some(id), event: Some(event), .. }) => {
                self.taken += 1;
                self.last_id = id;
                (String::from("message"), event)
            }
            ("control", Frame { control: Some(control), data: Some(data), id, .. }) => {
                self.last_id = id.unwrap_or_else(|| std::mem::take(&mut self.last_id));
                (control, data)
            }
            ("error", Frame { problem: Some(problem), .. }) => {
                let problem = problem.get();
                let status = serde_json::from_str::<Status>(problem).map_or(500, |it| it.status);
                self.problem = Some(Error::from_answer(status, None, problem.as_bytes()));
                return Ok(None);
            }
            ("message" | "control" | "error", _) => {
                return Err(unknown(String::from("a part is missing")));
            }
            _ => return Ok(None),
        };
        Ok(Some(SseEvent { event, data: data.get().to_owned(), id: self.last_id.clone() }))
    }

    fn closed(
        &mut self,
        server: &str,
        events: Vec<SseEvent>,
        close: Option<CloseFrame>,
    ) -> Result<Vec<SseEvent>> {
        if !events.is_empty() {
            return Ok(events);
        }
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let Some(close) = close else { return Err(unreachable(server, "the stream ended")) };
        let (code, reason) = (u16::from(close.code), close.reason.as_str().to_owned());
        Err(match code {
            4401 | 4403 => Error::new(ErrorKind::Denied, reason),
            4404 => Error::new(ErrorKind::NotFound, reason),
            _ => unreachable(server, &format!("it closed with {code}: {reason}")),
        })
    }
}

#[derive(Deserialize)]
struct Status {
    status: u16,
}
