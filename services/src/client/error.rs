//! What went wrong with a request, said so that a person can act on it.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::wire::SettledItem;

/// The result of every request.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// A failed request: what happened, to what, and the way out. Match on [`Error::kind`].
///
/// `Display` prints what happened, and the way out on an indented line of its own.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    way_out: Option<String>,
    retry_after: Option<Duration>,
    never_sent: bool,
    settled: Option<Vec<SettledItem>>,
}

/// The kinds of failure a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input can never work; nothing was sent, or the server refused it (4xx).
    Invalid,
    /// The token or secret is missing or wrong (401, 403).
    Denied,
    /// There is no such subscription (404).
    NotFound,
    /// Something else exists under that name, or the answer is stale (409).
    Conflict,
    /// The server did not answer, or not within the limit. The request may have been carried out;
    /// every request of this client may be repeated.
    Unreachable,
    /// The server answers, and cannot do it now (429, 503). Repeat it later.
    Unavailable,
    /// The server failed, or what it said is not what this client understands.
    Server,
    /// A file of this machine could not be read or written.
    Local,
}

impl Error {
    /// An error of `kind` that says `what` (lower case, no full stop).
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { kind, what, way_out: None, retry_after: None, never_sent: false, settled: None }
    }

    /// Adds what to do next, one line.
    #[must_use]
    pub fn way_out(mut self, way_out: impl Into<String>) -> Self {
        self.way_out = Some(way_out.into());
        self
    }

    /// What to match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// True when the same request may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Unreachable | ErrorKind::Unavailable)
    }

    /// True when no connection was made, so that the server saw nothing of the request.
    pub fn is_never_sent(&self) -> bool {
        self.never_sent
    }

    /// Says that no connection was made.
    pub(super) fn never_sent(mut self) -> Self {
        self.never_sent = true;
        self
    }

    /// What became of each settlement of a request that settled nothing, once.
    pub(super) fn take_settled(&mut self) -> Option<Vec<SettledItem>> {
        self.settled.take()
    }

    /// How long the server asked to wait before the next attempt, where it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Reads an answer that is not a success: problem+json (RFC 9457), or whatever else it is.
    pub(super) fn from_answer(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        let what = problem.sentence().unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            format!("the server answered {status} {}", text.trim()).trim_end().to_owned()
        });
        let (kind, way_out) = judge(status, retry_after, problem.retryable);
        let settled = problem.results;
        Self { kind, what, way_out, retry_after, never_sent: false, settled }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.way_out {
            Some(way_out) => write!(f, "\n  {way_out}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[derive(Default, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    retryable: bool,
    /// Where a request of several settlements was refused as a whole.
    results: Option<Vec<SettledItem>>,
}

impl Problem {
    fn sentence(&self) -> Option<String> {
        match (&self.title, &self.detail) {
            (Some(title), Some(detail)) => Some(format!("{title}: {detail}")),
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => None,
        }
    }
}

fn judge(
    status: u16,
    retry_after: Option<Duration>,
    retryable: bool,
) -> (ErrorKind, Option<String>) {
    let later = || match retry_after {
        Some(after) => format!("repeat it in {} s", after.as_secs().max(1)),
        None => String::from("repeat it in a moment"),
    };
    match status {
        401 | 403 => {
            (ErrorKind::Denied, Some(String::from("bring the right one: --token or --secret")))
        }
        404 => {
            (ErrorKind::NotFound, Some(String::from("see what is there: lockgate subscriptions")))
        }
        409 => (ErrorKind::Conflict, None),
        429 | 502..=504 => (ErrorKind::Unavailable, Some(later())),
        400..=499 => (ErrorKind::Invalid, None),
        _ if retryable => (ErrorKind::Unavailable, Some(later())),
        _ => (ErrorKind::Server, Some(String::from("the server's log says more"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_a_sentence_and_a_way_out() {
        let body = br#"{"type":"https://x/problems/invalid-topic","title":"invalid topic",
            "status":422,"detail":"topics[1] is \"orders\": a topic is realm.topic","retryable":false}"#;
        let error = Error::from_answer(422, None, body);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(
            error.to_string(),
            "invalid topic: topics[1] is \"orders\": a topic is realm.topic"
        );
        let error = Error::from_answer(503, Some(Duration::from_secs(2)), br#"{"title":"away"}"#);
        assert!(error.is_retryable());
        assert_eq!(error.to_string(), "away\n  repeat it in 2 s");
    }

    #[test]
    fn anything_else_is_quoted_and_bounded() {
        let error = Error::from_answer(500, None, b"<html>oops</html>");
        assert_eq!(error.kind(), ErrorKind::Server);
        assert!(error.to_string().starts_with("the server answered 500 <html>oops"), "{error}");
        let long = Error::from_answer(418, None, &[b'x'; 10_000]).to_string();
        assert!(long.len() < 300);
    }
}
