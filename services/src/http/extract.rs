//! Reading a request: bodies and queries, with faults as problems that name the field.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::catalogue::ProblemKind;
use super::encoding::Encoding;
use super::problem::Problem;
use crate::limits::MAX_BODY_BYTES;
use crate::model::MediaType;
use crate::model::strict_json::{self, Flaw, FlawKind};

/// A JSON body of at most 4 MiB under a JSON media type.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if !content_type(&parts.headers)?.is_some_and(|it| it.is_json() && it.is_utf8()) {
            let named = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
            let named = String::from_utf8_lossy(named.unwrap_or_default());
            return Err(Problem::new(
                ProblemKind::UnsupportedMediaType,
                format!("the body is {named:?}: send it with content-type: application/json"),
            ));
        }
        parse_json(&read_body(&parts.headers, body).await?).map(Self)
    }
}

/// The query of a request.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| {
            let text = rejection.body_text();
            let sentence = text.split_once(": ").map_or(text.as_str(), |(_, rest)| rest);
            let problem =
                Problem::new(ProblemKind::InvalidInput, format!("the query is wrong: {sentence}"));
            match query_field(sentence) {
                field if field.is_empty() => problem,
                field => problem.field(field),
            }
        })
    }
}

/// The parameter that a sentence about a query is about: it stands first, or in backticks.
fn query_field(sentence: &str) -> String {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    let first = sentence.split_once(": ").map(|(name, _)| name).filter(|name| is_name(name));
    let of = |kind: &str| sentence.strip_prefix(kind)?.split('`').next();
    let named =
        || ["missing field `", "duplicate field `", "unknown field `"].into_iter().find_map(of);
    first.or_else(named).unwrap_or_default().to_owned()
}

/// The part of a path that names something. What is not text once its escapes are read is a
/// problem.
pub(crate) struct PathName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let name = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        name.map(|name| Self(name.0)).map_err(|_| {
            let path = parts.uri.path();
            let detail = format!("there is nothing at {path}: its escapes are no UTF-8 text");
            Problem::new(ProblemKind::NotFound, detail)
        })
    }
}

/// The body, of at most 4 MiB: as it came over the wire, and once inflated where it is compressed.
pub(crate) async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {MAX_BODY_BYTES} bytes: send less at once");
        Problem::new(ProblemKind::BodyTooLarge, detail).with("limit", MAX_BODY_BYTES)
    };
    let encoding = Encoding::of(headers)?;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if declared.is_some_and(|bytes: u64| bytes > MAX_BODY_BYTES as u64) {
        return Err(too_large());
    }
    let body = axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| {
        if is_length_limit(&error) {
            return too_large();
        }
        let detail = format!("the body ended before it was complete: {error}");
        Problem::new(ProblemKind::MalformedBody, detail)
    })?;
    encoding.decode(body, MAX_BODY_BYTES)?.ok_or_else(too_large)
}

/// The media type of the body; `None` without one. One that stands twice, or that is no media
/// type, is a problem.
pub(crate) fn content_type(headers: &HeaderMap) -> Result<Option<MediaType>, Problem> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (first, second) = (values.next(), values.next());
    let problem = |what: &str| Err(Problem::new(ProblemKind::UnsupportedMediaType, what));
    if second.is_some() {
        return problem("the header content-type stands twice: leave one");
    }
    match first.map(|value| value.to_str().map(str::trim)) {
        None | Some(Ok("")) => Ok(None),
        Some(value) => match value.ok().and_then(MediaType::parse) {
            Some(media_type) => Ok(Some(media_type)),
            None => problem(
                "the header content-type is no media type: write, for example, \
                 application/json; charset=utf-8",
            ),
        },
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error)
        .is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// Reads JSON as every parser reads it; what is at fault is a problem that names the field.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if body.is_empty() {
        return Err(Problem::new(ProblemKind::MalformedBody, "the body is empty: send JSON"));
    }
    let text = strict_json::check(body).map_err(|flaw| unreadable(&flaw))?;
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        to_problem(if path == "." { "" } else { &path }, error.inner())
    })
}

/// A body that not every parser reads: the field at fault is named as other faults name it.
fn unreadable(flaw: &Flaw) -> Problem {
    let kind = match flaw.kind {
        FlawKind::Malformed(_) => ProblemKind::MalformedBody,
        _ => ProblemKind::InvalidInput,
    };
    let problem = Problem::new(kind, format!("the body {flaw}"));
    match flaw.path.strip_prefix('.').unwrap_or(&flaw.path) {
        "" => problem,
        field => problem.field(field),
    }
}

fn to_problem(path: &str, error: &serde_json::Error) -> Problem {
    let sentence = error.to_string();
    let sentence = sentence.rsplit_once(" at line ").map_or(sentence.as_str(), |(text, _)| text);
    match named_field(path, sentence) {
        field if field.is_empty() => Problem::new(ProblemKind::InvalidInput, sentence),
        // Our own types begin their sentences with the field.
        field if sentence.starts_with(&field) => {
            Problem::new(ProblemKind::InvalidInput, sentence).field(field)
        }
        field => {
            Problem::new(ProblemKind::InvalidInput, format!("{field}: {sentence}")).field(field)
        }
    }
}

/// The path of the field at fault: serde names one that is missing or stands twice in the sentence
/// only.
fn named_field(path: &str, sentence: &str) -> String {
    let of = |kind: &str| sentence.strip_prefix(kind)?.split('`').next();
    let named = ["missing field `", "duplicate field `"].into_iter().find_map(of);
    match named {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if !path.ends_with(name) => format!("{path}.{name}"),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;

    use super::*;
    use crate::model::{HumanDuration, SubscriptionName};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Input {
        name: SubscriptionName,
        wait: Option<HumanDuration>,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Inner {
        id: String,
    }

    fn fault(json: &str) -> (u16, Option<String>, String) {
        let problem = parse_json::<Input>(json.as_bytes()).unwrap_err();
        let json = problem.to_json();
        let field = json.get("field").and_then(|field| field.as_str()).map(String::from);
        (problem.kind().status().as_u16(), field, problem.detail().to_owned())
    }

    #[test]
    fn faults_name_the_field() {
        for (json, field) in [
            ("{}", "name"),
            (r#"{"name":"A"}"#, "name"),
            (r#"{"name":7}"#, "name"),
            (r#"{"name":"a","wait":"soon"}"#, "wait"),
            (r#"{"name":"a","other":1}"#, "other"),
            (r#"{"name":"a","name":"b"}"#, "name"),
            (r#"{"name":"a","wait":"\ud800"}"#, "wait"),
            (r#"{"name":"a","inner":[{"id":"x"},{}]}"#, "inner[1].id"),
        ] {
            let (status, named, detail) = fault(json);
            assert_eq!((status, named.as_deref()), (422, Some(field)), "{json}: {detail}");
        }
        assert!(fault(r#"{"name":"A"}"#).2.starts_with("name is \"A\": write 1 to 48"));
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for bad in ["", "{", "nonsense", r#"{"name":"a"} x"#] {
            assert_eq!(fault(bad).0, 400, "{bad:?}");
        }
    }

    #[test]
    fn durations_are_written_as_people_do() {
        let read: HumanDuration = serde_json::from_str("\"1m 30s\"").unwrap();
        assert_eq!(read, HumanDuration(Duration::from_secs(90)));
        assert_eq!(serde_json::to_string(&read).unwrap(), "\"1m 30s\"");
        assert!(serde_json::from_str::<HumanDuration>("5").is_err());
    }
}
