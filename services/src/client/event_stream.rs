//! A subscription's event stream that goes on where it stopped.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use super::api::Subscriber;
use super::error::{Error, ErrorKind, Result};
use super::socket::Socket;
use super::sse::{SseEvent, SseParser};
use super::transport::{cause, send, unreachable};
use crate::limits::MAX_STREAM_LINE_BYTES;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The server sends a heartbeat every 15 s: three missed ones mean that it is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);
const DEFAULT_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// How a stream comes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Transport {
    /// As server-sent events.
    #[default]
    EventStream,
    /// Over WebSocket.
    WebSocket,
}

/// What the stream gives.
#[derive(Debug)]
pub enum StreamItem {
    /// An event; its `id` resumes after it.
    Event(SseEvent),
    /// The connection failed or broke; the next call waits `delay` and tries again.
    Reconnecting {
        /// What happened.
        error: Error,
        /// The wait.
        delay: Duration,
    },
}

/// Reads a subscription's events and, when the connection breaks or the server rotates it,
/// connects again after the last event it gave. The wait doubles with each failure in a row, from
/// what the server asked for (`retry`) up to 30 s.
///
/// Dropping the future of [`EventStream::next`] loses nothing that was not given yet.
pub struct EventStream {
    subscriber: Subscriber,
    transport: Transport,
    resume: Option<String>,
    connection: Option<Connection>,
    ready: VecDeque<SseEvent>,
    retry: Duration,
    failures: u32,
    wait: Option<Duration>,
}

enum Connection {
    Events { response: Response, parser: Box<SseParser> },
    Socket(Box<Socket>),
}

impl EventStream {
    pub(super) fn new(
        subscriber: Subscriber,
        transport: Transport,
        resume: Option<String>,
    ) -> Self {
        Self {
            subscriber,
            transport,
            resume,
            connection: None,
            ready: VecDeque::new(),
            retry: DEFAULT_RETRY,
            failures: 0,
            wait: None,
        }
    }

    /// The id after which the stream would resume now.
    pub fn resume(&self) -> Option<&str> {
        self.resume.as_deref()
    }

    /// True when the next call returns at once.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next item; `None` when the server said that there is no more (204). An error is final:
    /// the subscription is gone, or the secret is wrong.
    pub async fn next(&mut self) -> Result<Option<StreamItem>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if !event.id.is_empty() {
                    self.resume = Some(event.id.clone());
                }
                return Ok(Some(StreamItem::Event(event)));
            }
            if let Some(wait) = self.wait {
                tokio::time::sleep(wait).await;
                self.wait = None;
            }
            let step = match &mut self.connection {
                Some(connection) => connection.read(self.subscriber.server().as_str()).await,
                None => match self.connect().await {
                    Ok(true) => continue,
                    Ok(false) => return Ok(None),
                    Err(error) => Err(error),
                },
            };
            match step {
                Ok(events) => self.take(events),
                Err(error) => return self.broken(error).map(Some),
            }
        }
    }

    async fn connect(&mut self) -> Result<bool> {
        if self.transport == Transport::WebSocket {
            let opened = Socket::open(&self.subscriber, self.resume.as_deref(), CONNECT_LIMIT);
            self.connection = Some(Connection::Socket(Box::new(opened.await?)));
            return Ok(true);
        }
        let mut request =
            self.subscriber.request(Method::GET, "events").header(ACCEPT, "text/event-stream");
        if let Some(value) = self.resume.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            request = request.header("Last-Event-ID", value);
        }
        let response = send(request, CONNECT_LIMIT).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(false);
        }
        let parser = Box::new(SseParser::new(MAX_STREAM_LINE_BYTES));
        self.connection = Some(Connection::Events { response, parser });
        Ok(true)
    }

    fn take(&mut self, events: Vec<SseEvent>) {
        if let Some(Connection::Events { parser, .. }) = &mut self.connection
            && let Some(retry) = parser.take_retry()
        {
            self.retry = retry.min(MAX_RETRY);
        }
        if !events.is_empty() {
            self.failures = 0;
            self.ready.extend(events);
        }
    }

    fn broken(&mut self, error: Error) -> Result<StreamItem> {
        self.connection = None;
        if !error.is_retryable() {
            return Err(error);
        }
        let doubled = self.retry.saturating_mul(1 << self.failures.min(10)).min(MAX_RETRY);
        let delay = doubled.max(error.retry_after().unwrap_or_default().min(MAX_RETRY));
        self.failures += 1;
        self.wait = Some(delay);
        Ok(StreamItem::Reconnecting { error, delay })
    }
}

impl Connection {
    async fn read(&mut self, server: &str) -> Result<Vec<SseEvent>> {
        let server = server.trim_end_matches('/');
        let (response, parser) = match self {
            Self::Events { response, parser } => (response, parser),
            Self::Socket(socket) => return socket.read(server, SILENCE_LIMIT).await,
        };
        match tokio::time::timeout(SILENCE_LIMIT, response.chunk()).await {
            Ok(Ok(Some(chunk))) => parser.push(&chunk).map_err(|too_long| {
                Error::new(ErrorKind::Server, too_long.to_string())
                    .way_out("check that --server is a Lockgate server")
            }),
            Ok(Ok(None)) => Err(unreachable(server, "the stream ended")),
            Ok(Err(error)) => Err(unreachable(server, &cause(&error))),
            Err(_) => Err(unreachable(server, &format!("no heartbeat within {SILENCE_LIMIT:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;

    use super::super::api::Client;
    use super::*;
    use crate::model::SubscriptionName;

    type Script = Arc<Mutex<(VecDeque<Response>, Vec<Option<String>>)>>;

    /// Serves one scripted answer per connection and notes the ids it was asked to resume after.
    async fn scripted(
        answers: Vec<Response>,
    ) -> (EventStream, Script, tokio::task::JoinHandle<()>) {
        async fn answer(State(script): State<Script>, headers: HeaderMap) -> Response {
            assert_eq!(headers["authorization"], "Bearer s");
            let mut script = script.lock().unwrap();
            let id = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
            script.1.push(id);
            script.0.pop_front().unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
        }
        let script: Script = Arc::new(Mutex::new((answers.into(), Vec::new())));
        let router = Router::new()
            .route("/v1/subscriptions/people/events", get(answer))
            .with_state(script.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let client = Client::new(&server, None).unwrap();
        let name = SubscriptionName::new("people").unwrap();
        (client.subscriber(name, "s".into()).events(None), script, serving)
    }

    #[tokio::test]
    async fn it_resumes_after_the_last_event_it_gave_until_the_server_says_stop() {
        let away = (StatusCode::SERVICE_UNAVAILABLE, r#"{"title":"away"}"#).into_response();
        let first = "retry: 1\n\nid: a\ndata: 1\n\nid: b\ndata: 2\n\nid: c\ndata: cut";
        let answers = vec![first.into_response(), away, "id: c\ndata: 3\n\n".into_response()];
        let (mut stream, script, serving) = scripted(answers).await;
        let (mut data, mut breaks) = (Vec::new(), 0);
        while let Some(item) = stream.next().await.unwrap() {
            match item {
                StreamItem::Event(event) => data.push(event.data),
                StreamItem::Reconnecting { delay, .. } => {
                    breaks += 1;
                    assert!(delay <= Duration::from_millis(2), "{delay:?}");
                }
            }
        }
        assert_eq!(data, ["1", "2", "3"]);
        assert_eq!(breaks, 3);
        let asked = script.lock().unwrap().1.clone();
        let after = |id: &str| Some(id.to_owned());
        assert_eq!(asked, [None, after("b"), after("b"), after("c")]);
        serving.abort();
    }

    #[tokio::test]
    async fn a_wrong_secret_is_final() {
        let denied = (StatusCode::UNAUTHORIZED, r#"{"title":"wrong secret"}"#).into_response();
        let (mut stream, _, serving) = scripted(vec![denied]).await;
        assert_eq!(stream.next().await.unwrap_err().kind(), ErrorKind::Denied);
        serving.abort();
    }
}
