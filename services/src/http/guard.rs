//! Host and Origin: what keeps a page in a browser from using an API on the same machine.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::catalogue::ProblemKind;
use super::problem::Problem;

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
const EXPOSED: HeaderValue = HeaderValue::from_static("etag, location, retry-after");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// Which hosts are answered for, and which pages may ask. Cheap to clone.
///
/// Against DNS rebinding an API without tokens answers for loopback names only. A request with an
/// `Origin` is let through when the origin is the host asked, or is allow-listed; an allow-listed
/// one is answered with CORS headers, preflight included.
#[derive(Debug, Clone)]
pub struct Guard(Arc<Lists>);

#[derive(Debug)]
struct Lists {
    /// `None`: every host.
    hosts: Option<BTreeSet<String>>,
    origins: BTreeSet<String>,
}

impl Guard {
    /// A guard. When `open` (no tokens), loopback names and `hosts` are answered for; otherwise
    /// `hosts`, or every host if there are none. `origins` are written as a browser sends them,
    /// for example `https://app.example.org`.
    pub fn new(open: bool, hosts: &[String], origins: &[String]) -> Self {
        let mut allowed: BTreeSet<String> = hosts.iter().map(|h| h.to_ascii_lowercase()).collect();
        if open {
            allowed.extend(LOOPBACK.map(String::from));
        }
        let hosts = (!allowed.is_empty()).then_some(allowed);
        let trimmed = |origin: &String| origin.trim_end_matches('/').to_ascii_lowercase();
        let origins = origins.iter().map(trimmed).collect();
        Self(Arc::new(Lists { hosts, origins }))
    }

    fn check_host(&self, host: Option<&Authority>) -> Result<(), Problem> {
        let Some(allowed) = &self.0.hosts else { return Ok(()) };
        let name = host.map_or_else(String::new, |host| host.host().to_ascii_lowercase());
        if allowed.contains(&name) {
            return Ok(());
        }
        let names: Vec<&str> = allowed.iter().map(String::as_str).collect();
        Err(Problem::new(
            ProblemKind::HostRefused,
            format!("host {name:?} is not served here: use {}", names.join(", ")),
        ))
    }

    /// The origin to name in CORS headers, if there is one.
    fn check_origin(
        &self,
        headers: &HeaderMap,
        host: Option<&Authority>,
    ) -> Result<Option<HeaderValue>, Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(None) };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if self.0.origins.contains(&text) {
            return Ok(Some(origin.clone()));
        }
        let authority = text.split_once("://").and_then(|(_, rest)| rest.parse::<Authority>().ok());
        // `Authority` compares without regard to case.
        if authority.is_some_and(|authority| Some(&authority) == host) {
            return Ok(None);
        }
        Err(Problem::new(
            ProblemKind::OriginRefused,
            format!("pages of {text:?} may not use this API: add the origin to the allowed ones"),
        ))
    }
}

/// The middleware: refuses, or passes on and adds CORS headers.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let host = asked_host(&request);
    let origin = match guard
        .check_host(host.as_ref())
        .and_then(|()| guard.check_origin(request.headers(), host.as_ref()))
    {
        Ok(origin) => origin,
        Err(problem) => return problem.into_response(),
    };
    let Some(origin) = origin else { return next.run(request).await };
    let preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight && request.method() == Method::OPTIONS {
        answer_preflight(request.headers())
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    response
}

fn asked_host(request: &Request) -> Option<Authority> {
    // A request target in absolute form outweighs Host (RFC 9112, section 3.2.2).
    if let Some(authority) = request.uri().authority() {
        return Some(authority.clone());
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    Authority::try_from(host.as_bytes()).ok()
}

fn answer_preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    // Extension attributes are headers of any name, so the ones that are asked for are allowed.
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}
