//! The opening handshake (RFC 6455, section 4.2).

use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::line::Line;
use crate::http::{Patient, Problem, ProblemKind};
use crate::limits::WRITE_TIMEOUT;

/// The subprotocol. A client that names none gets it too.
pub(super) const PROTOCOL: &str = "lockgate.v1";
/// How long the answer to the handshake may take to leave.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// What a connection is once it is upgraded. A client that takes nothing for 60 s is let go.
pub(in crate::messages) type Socket = Patient<TokioIo<Upgraded>>;

/// A request for a WebSocket that is in order.
pub(in crate::messages) struct Handshake {
    accept: String,
    names_protocol: bool,
    upgrade: OnUpgrade,
}

/// True when the request asks for a WebSocket at all.
pub(in crate::messages) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

impl Handshake {
    /// Reads a request; says what is missing where it is none.
    pub(in crate::messages) fn of(parts: &mut Parts) -> Result<Self, Problem> {
        let headers = &parts.headers;
        if parts.method != Method::GET
            || !is_asked_for(headers)
            || !has_token(headers, &header::CONNECTION, "upgrade")
        {
            return Err(no_handshake("this path is a WebSocket: open it with a WebSocket client"));
        }
        if !has_token(headers, &header::SEC_WEBSOCKET_VERSION, "13") {
            return Err(no_handshake("the WebSocket version is not 13: use that"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let is_key = |key: &&[u8]| BASE64.decode(key).is_ok_and(|key| key.len() == 16);
        let Some(key) = key.filter(is_key) else {
            return Err(no_handshake("sec-websocket-key is not 16 bytes in base64: send it so"));
        };
        let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().count();
        let names_protocol = has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
        if protocols > 0 && !names_protocol {
            let detail = format!("none of the subprotocols is spoken here: offer {PROTOCOL}");
            return Err(no_handshake(&detail));
        }
        let accept = derive_accept_key(key);
        let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else {
            return Err(no_handshake("the connection cannot be upgraded: speak HTTP/1.1"));
        };
        Ok(Self { accept, names_protocol, upgrade })
    }

    /// The answer, and what becomes a WebSocket when that has been sent.
    pub(in crate::messages) fn accept(
        self,
    ) -> (Response, impl Future<Output = Option<Line<Socket>>> + Send + 'static) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if self.names_protocol {
            let protocol = HeaderValue::from_static(PROTOCOL);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        let upgrade = self.upgrade;
        let open = async move {
            match timeout(OPEN_LIMIT, upgrade).await {
                Ok(Ok(io)) => Some(Line::new(Patient::new(TokioIo::new(io), WRITE_TIMEOUT)).await),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a connection was not upgraded");
                    None
                }
                Err(_) => None,
            }
        };
        (response, open)
    }
}

/// The answer to a request that is no handshake: it says how to make one.
fn no_handshake(detail: &str) -> Problem {
    Problem::new(ProblemKind::UpgradeRequired, detail)
}

/// A refusal as an answer over HTTP.
pub(in crate::messages) fn refuse(problem: Problem) -> Response {
    let needs_upgrade = problem.kind() == ProblemKind::UpgradeRequired;
    let mut response = problem.into_response();
    if needs_upgrade {
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// True when a header that lists tokens, on one line or several, has this one.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn what_is_no_handshake_is_told_what_is_missing() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "other, lockgate.v1"),
        ];
        let told = |change: Option<(&str, &str)>| {
            let mut request = Request::get("/");
            for (name, value) in good {
                let value = change.filter(|(changed, _)| *changed == name).map_or(value, |c| c.1);
                request = request.header(name, value);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            let problem = Handshake::of(&mut parts).err().unwrap();
            assert_eq!(problem.kind(), ProblemKind::UpgradeRequired);
            problem.detail().to_owned()
        };
        // As far as a connection is needed.
        assert!(told(None).contains("cannot be upgraded"));
        for (name, value, says) in [
            ("connection", "close", "is a WebSocket"),
            ("upgrade", "h2c", "is a WebSocket"),
            ("sec-websocket-version", "12", "not 13"),
            ("sec-websocket-key", "c2hvcnQ=", "16 bytes"),
            ("sec-websocket-protocol", "mqtt", "offer lockgate.v1"),
        ] {
            let detail = told(Some((name, value)));
            assert!(detail.contains(says), "{name}: {detail}");
        }
    }
}
