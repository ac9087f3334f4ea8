//! A WebSocket client that is not ours, over a pipe in memory: time stays virtual.

use std::time::Duration;

use axum::Router;
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::support::{Process, SECRET, show};

/// Longer than anything that comes by itself.
const PATIENCE: Duration = Duration::from_secs(120);
const PIPE_BYTES: usize = 16 * 1024;

/// An open connection; the server's side of it ends with this.
pub struct Socket {
    pub socket: WebSocketStream<DuplexStream>,
    pub hello: Value,
    pub protocol: Option<String>,
    _server: JoinSet<()>,
}

/// How to connect.
pub struct Connect<'a> {
    pub path: &'a str,
    pub bearer: Option<&'a str>,
    pub origin: Option<&'a str>,
}

impl Connect<'_> {
    /// Connects, or says with what status that was refused.
    pub async fn to(&self, router: &Router) -> Result<Socket, u16> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let mut server = JoinSet::new();
        let service = TowerToHyperService::new(router.clone());
        server.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(theirs), service)
                .with_upgrades();
            // A client that goes is no failure.
            let _ = connection.await;
        });
        let uri = format!("ws://localhost{}", self.path).parse().unwrap();
        let mut request = ClientRequestBuilder::new(uri).with_sub_protocol("lockgate.v1");
        if let Some(secret) = self.bearer {
            request = request.with_header("authorization", format!("Bearer {secret}"));
        }
        if let Some(origin) = self.origin {
            request = request.with_header("origin", origin);
        }
        let opened = tokio::time::timeout(PATIENCE, client_async(request, ours)).await.unwrap();
        let (socket, response) = match opened {
            Err(Error::Http(response)) => return Err(response.status().as_u16()),
            opened => opened.unwrap(),
        };
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().unwrap().to_owned());
        Ok(Socket { socket, hello: Value::Null, protocol, _server: server })
    }
}

impl Process {
    /// A connection that has said `hello`.
    pub async fn socket(&self, who: &str, query: &str) -> Socket {
        let path = format!("/v1/subscriptions/{who}/ws{query}");
        let connect = Connect { path: &path, bearer: Some(SECRET), origin: None };
        let mut socket = connect.to(&self.router).await.unwrap();
        socket.hello = socket.frame().await;
        assert_eq!(socket.hello["type"], "hello");
        assert_eq!(socket.protocol.as_deref(), Some("lockgate.v1"));
        socket
    }
}

impl Socket {
    pub async fn say(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Grants messages and no bytes.
    pub async fn credit(&mut self, messages: u64) {
        self.say(json!({ "type": "credit", "messages": messages })).await;
    }

    /// The next frame of the protocol, pings of WebSocket left out.
    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Ok(frame) => frame,
            Err(close) => panic!("closed: {close:?}"),
        }
    }

    /// The next frame, or the code and reason of the close.
    pub async fn next(&mut self) -> Result<Value, (u16, String)> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            match next.expect("nothing for two minutes").expect("broken off").unwrap() {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(close) => {
                    let close = close.unwrap();
                    return Err((close.code.into(), close.reason.as_str().to_owned()));
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code with which the server closes, after frames that are passed over.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Err((code, _)) = self.next().await {
                return code;
            }
        }
    }

    /// The next `count` frames: `key=data#attempt` for a message (the attempt where it is not the
    /// first), the name of a control event, `settled` and so on for others.
    pub async fn shown(&mut self, count: usize) -> Vec<String> {
        let mut shown = Vec::new();
        for _ in 0..count {
            shown.push(describe(&self.frame().await));
        }
        shown
    }

    /// The next message, after other frames.
    pub async fn message(&mut self) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["type"] == "message" {
                return frame;
            }
        }
    }

    /// What has come within `time`.
    pub async fn within(&mut self, time: Duration) -> Vec<String> {
        let (mut shown, until) = (Vec::new(), tokio::time::Instant::now() + time);
        while let Ok(frame) = tokio::time::timeout_at(until, self.frame()).await {
            shown.push(describe(&frame));
        }
        shown
    }

    /// Settles, and returns the answer.
    pub async fn settle(&mut self, frame: Value) -> Value {
        self.say(frame).await;
        loop {
            let frame = self.frame().await;
            if frame["type"] == "settled" {
                return frame;
            }
        }
    }
}

fn describe(frame: &Value) -> String {
    match frame["type"].as_str().unwrap() {
        "message" => {
            let again = frame["attempt"].as_u64().filter(|attempt| *attempt > 1);
            let again = again.map_or_else(String::new, |attempt| format!("#{attempt}"));
            format!("{}{again}", show(&frame["event"]))
        }
        "control" => frame["control"].as_str().unwrap().to_owned(),
        other => other.to_owned(),
    }
}
