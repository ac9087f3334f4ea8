//! `POST /v1/events`.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bus::Receipt;
use serde_json::{Value, json};

use super::ingest::{Ingest, not_allowed};
use crate::http::{Access, Problem, ProblemKind, content_type, read_body, with_deadline};
use crate::limits::REQUEST_DEADLINE;
use crate::model::{CloudEvent, MediaType, Realm, RealmList};

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// The routes of the events role. With tokens configured, publishing takes a publish or an admin
/// token.
pub fn router(ingest: Ingest, access: Access) -> Router {
    let routes = Router::new().route("/v1/events", post(publish)).with_state((ingest, access));
    with_deadline(routes, REQUEST_DEADLINE)
}

async fn publish(
    State((ingest, access)): State<(Ingest, Access)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    access.require_publish(&headers)?;
    let form = Form::of(&headers)?;
    let events = form.read(&headers, read_body(&headers, body).await?)?;
    if let Some(realm) = ingest.refused_realm(&events).await? {
        return Err(refused(&realm, ingest.realm_list()));
    }
    answer(&events, ingest.publish(&events).await)
}

/// How an event stands in a request (CloudEvents HTTP binding 1.0.2, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Structured,
    Batch,
    Binary,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media_type = content_type(headers)?;
        let essence = media_type.as_ref().map(MediaType::essence);
        let form = match essence {
            Some(STRUCTURED) => Self::Structured,
            Some(BATCH) => Self::Batch,
            Some(other) if other.starts_with("application/cloudevents") => {
                return Err(unsupported(format!("{other:?} is a format that is not read here")));
            }
            _ if headers.keys().any(|name| name.as_str().starts_with("ce-")) => Self::Binary,
            None => return Err(unsupported(String::from("the body has no content-type"))),
            Some(other) => {
                return Err(unsupported(format!("the body is {other:?} and has no ce- headers")));
            }
        };
        if form != Self::Binary && !media_type.is_some_and(|media_type| media_type.is_utf8()) {
            return Err(unsupported(String::from("the body is not in UTF-8, which JSON is")));
        }
        Ok(form)
    }

    fn read(self, headers: &HeaderMap, body: Bytes) -> Result<Vec<CloudEvent>, Problem> {
        Ok(match self {
            Self::Structured => vec![CloudEvent::from_json(&body)?],
            Self::Batch => CloudEvent::from_json_batch(&body)?,
            Self::Binary => {
                let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                vec![CloudEvent::from_binary(headers, body)?]
            }
        })
    }
}

fn unsupported(what: String) -> Problem {
    let detail = format!(
        "{what}: send the event as {STRUCTURED}, several as {BATCH}, or the data alone with \
         the headers ce-specversion, ce-id, ce-source and ce-type"
    );
    Problem::new(ProblemKind::UnsupportedMediaType, detail)
}

/// Nothing of a request that would make a realm which is not allowed is stored.
fn refused(realm: &Realm, list: &RealmList) -> Problem {
    let allowed: Vec<&str> = match list {
        RealmList::Any => vec!["*"],
        RealmList::Only(realms) => realms.iter().map(Realm::as_str).collect(),
    };
    Problem::new(ProblemKind::RealmNotAllowed, not_allowed(realm, list))
        .with("realm", realm.as_str())
        .with("realms", allowed)
}

/// 202 when every event is stored; otherwise a problem that says for each whether it is.
fn answer(
    events: &[CloudEvent],
    results: Vec<Result<Receipt, bus::Error>>,
) -> Result<Response, Problem> {
    let items: Vec<Value> =
        events.iter().zip(&results).map(|(event, result)| item(event, result)).collect();
    let (total, mut errors) = (results.len(), results.into_iter().filter_map(Result::err));
    let Some(first) = errors.next() else {
        return Ok((StatusCode::ACCEPTED, Json(json!({ "results": items }))).into_response());
    };
    let stored = total - 1 - errors.count();
    let problem = if stored == 0 {
        Problem::from(first)
    } else {
        let detail = format!(
            "{stored} of {total} events were stored: repeat the whole batch, what is stored is \
             recognised by source and id"
        );
        Problem::new(ProblemKind::PartlyPublished, detail)
    };
    Err(problem.with("results", items))
}

fn item(event: &CloudEvent, result: &Result<Receipt, bus::Error>) -> Value {
    let mut item = json!({
        "id": event.id(),
        "realm": event.topic().realm.as_str(),
        "topic": event.topic().to_string(),
    });
    match result {
        Ok(receipt) => {
            item["sequence"] = receipt.sequence.into();
            item["duplicate"] = receipt.duplicate.into();
        }
        Err(error) => {
            item["error"] = error.to_string().into();
            item["retryable"] = error.is_retryable().into();
        }
    }
    item
}
