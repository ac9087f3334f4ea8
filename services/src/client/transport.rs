//! Requests and answers: sent within a limit, read within a bound, failed with a sentence.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use super::error::{Error, ErrorKind, Result};
use crate::limits::MAX_ANSWER_BYTES;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Parses `http://host:port` or `https://...`; a path in front of `/v1` is allowed.
pub(super) fn parse_server(server: &str) -> Result<Url> {
    let wrong = |why: &str| {
        Error::new(ErrorKind::Invalid, format!("server {server:?} {why}"))
            .way_out("write it as http://127.0.0.1:8080")
    };
    let mut url = Url::parse(server).map_err(|error| wrong(&format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("is neither http:// nor https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("carries credentials, which belong into --token"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// An HTTP client without proxies and redirects. A process without a TLS provider gets ring.
pub(super) fn http(server: &Url) -> Result<reqwest::Client> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Lost only to another thread that installs one at the same time, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("lockgate/", env!("CARGO_PKG_VERSION")));
    // Without TLS no certificates are looked for: a slim container may have none.
    let builder = match server.scheme() {
        "http" => builder.tls_certs_only([]),
        _ => builder,
    };
    builder.build().map_err(|error| {
        Error::new(ErrorKind::Local, format!("no HTTP client could be made: {}", cause(&error)))
    })
}

/// Sends a request and waits at most `limit` for the head of the answer; anything but a 2xx, and
/// the 101 of a request for an upgrade, is an error.
pub(super) async fn send(request: RequestBuilder, limit: Duration) -> Result<Response> {
    let (client, request) = request.build_split();
    let request = request.map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("the request cannot be sent: {}", cause(&error)))
    })?;
    let server = request.url().origin().ascii_serialization();
    let response = match tokio::time::timeout(limit, client.execute(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_connect() => {
            return Err(unreachable(&server, &cause(&error)).never_sent());
        }
        Ok(Err(error)) => return Err(unreachable(&server, &cause(&error))),
        Err(_) => return Err(unreachable(&server, &format!("no answer within {limit:?}"))),
    };
    if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(response);
    }
    let (status, retry_after) = (response.status(), retry_after(&response));
    let body = read(response, limit).await.unwrap_or_default();
    Err(Error::from_answer(status.as_u16(), retry_after, &body))
}

/// Reads the answer as JSON; `204 No Content` is the default value.
pub(super) async fn json<T: DeserializeOwned + Default>(
    response: Response,
    limit: Duration,
) -> Result<T> {
    if response.status() == StatusCode::NO_CONTENT {
        return Ok(T::default());
    }
    required_json(response, limit).await
}

/// Reads the answer as JSON.
pub(super) async fn required_json<T: DeserializeOwned>(
    response: Response,
    limit: Duration,
) -> Result<T> {
    let path = response.url().path().to_owned();
    let body = read(response, limit).await?;
    serde_json::from_slice(&body).map_err(|error| {
        Error::new(ErrorKind::Server, format!("the answer of {path} is not understood: {error}"))
            .way_out("check that --server is a Lockgate server of this version")
    })
}

/// Says that a connection failed or broke.
pub(super) fn unreachable(server: &str, why: &str) -> Error {
    Error::new(ErrorKind::Unreachable, format!("{server} did not answer: {why}"))
        .way_out("start a server: lockgate      or name another: --server URL")
}

/// The innermost cause, which is the one that tells.
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut source = error.source();
    while let Some(next) = source.and_then(|error| error.source()) {
        source = Some(next);
    }
    source.map_or_else(|| error.to_string(), ToString::to_string).to_lowercase()
}

async fn read(mut response: Response, limit: Duration) -> Result<Bytes> {
    let server = response.url().origin().ascii_serialization();
    let mut body = BytesMut::new();
    loop {
        let chunk = match tokio::time::timeout(limit, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| unreachable(&server, &cause(&error)))?,
            Err(_) => return Err(unreachable(&server, "the answer stopped half-way")),
        };
        match chunk {
            Some(chunk) if body.len() + chunk.len() <= MAX_ANSWER_BYTES => {
                body.extend_from_slice(&chunk);
            }
            Some(_) => {
                let what = format!("the answer has more than {MAX_ANSWER_BYTES} bytes");
                return Err(Error::new(ErrorKind::Server, what).way_out("ask for less at a time"));
            }
            None => return Ok(body.freeze()),
        }
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_its_url() {
        assert_eq!(parse_server("http://h:1").unwrap().as_str(), "http://h:1/");
        let prefixed = parse_server("https://h/gate?x#y").unwrap();
        assert_eq!(prefixed.join("v1/events").unwrap().as_str(), "https://h/gate/v1/events");
        for bad in ["h:1", "ftp://h", "http://u:p@h", ""] {
            assert_eq!(parse_server(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
