//! Compressed request bodies: gzip is inflated, everything else is refused by name.

use std::io::Read;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::catalogue::ProblemKind;
use super::problem::Problem;

/// What a body may be encoded with, beside not at all.
const ACCEPTED: HeaderValue = HeaderValue::from_static("gzip");

/// How a body is encoded (RFC 9110, section 8.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
}

impl Encoding {
    /// What the headers say. Any coding but gzip, and more than one, is a problem.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let codings = codings(headers, &header::CONTENT_ENCODING);
        let mut codings = codings.iter().filter(|coding| *coding != "identity");
        match (codings.next().map(String::as_str), codings.next()) {
            (None, _) => Ok(Self::Identity),
            (Some("gzip" | "x-gzip"), None) => Ok(Self::Gzip),
            (Some("gzip" | "x-gzip"), Some(second)) => Err(unsupported(&format!("{second} too"))),
            (Some(other), _) => Err(unsupported(other)),
        }
    }

    /// The body as it was before it was encoded; `None` when it has more than `limit` bytes, which
    /// is found out without inflating more.
    pub(super) fn decode(self, body: Bytes, limit: usize) -> Result<Option<Bytes>, Problem> {
        match self {
            Self::Identity => Ok(Some(body).filter(|body| body.len() <= limit)),
            Self::Gzip => inflate(&body, limit),
        }
    }
}

/// Inflates every member of a gzip stream (RFC 1952) and takes nothing but members.
fn inflate(body: &[u8], limit: usize) -> Result<Option<Bytes>, Problem> {
    let mut plain = Vec::with_capacity(limit.min(4 * body.len()));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let inflated = match body {
        // Which no gzip stream is, and which would mean an event without data.
        [] => Err(std::io::ErrorKind::UnexpectedEof.into()),
        body => MultiGzDecoder::new(body).take(bound).read_to_end(&mut plain),
    };
    match inflated {
        Ok(bytes) if bytes > limit => Ok(None),
        Ok(_) => Ok(Some(plain.into())),
        Err(error) => {
            let what = match error.kind() {
                std::io::ErrorKind::UnexpectedEof => "ends before it is complete",
                _ => "is damaged, or followed by what is none",
            };
            let detail = format!(
                "the body is to be gzip, as content-encoding says, and {what}: send it anew"
            );
            Err(Problem::new(ProblemKind::MalformedBody, detail))
        }
    }
}

/// The middleware: refuses what no route reads, before a body is taken for what it is not.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let transfers = codings(request.headers(), &header::TRANSFER_ENCODING);
    if let Some(transfer) = transfers.iter().find(|coding| *coding != "chunked") {
        let detail = format!("the transfer coding {transfer:?} is not read here: send it chunked");
        return Problem::new(ProblemKind::UnsupportedTransfer, detail).into_response();
    }
    match Encoding::of(request.headers()) {
        Ok(_) => next.run(request).await,
        Err(problem) => {
            let mut response = problem.into_response();
            response.headers_mut().insert(header::ACCEPT_ENCODING, ACCEPTED);
            response
        }
    }
}

/// The codings that a header lists, on one line or several, in lower case.
fn codings(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter();
    let text = lines.map(|line| String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase());
    let listed: Vec<String> = text.collect();
    let parts = listed.iter().flat_map(|line| line.split(','));
    parts.map(str::trim).filter(|coding| !coding.is_empty()).map(str::to_owned).collect()
}

fn unsupported(coding: &str) -> Problem {
    let detail = format!(
        "the body is encoded with {coding}, which is not read here: send it as it is, or with \
         content-encoding: gzip"
    );
    Problem::new(ProblemKind::UnsupportedEncoding, detail)
}
