//! `/v1/subscriptions/{name}/dead-letters`: what queue mode gave up.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::http::{JsonBody, Params, PathName, Problem, ProblemKind};
use crate::limits::{MAX_PULL_MESSAGES, MAX_SETTLEMENTS};
use crate::messages::Messages;
use crate::messages::queue::{Letter, Moved};
use crate::model::Invalid;

const DEFAULT_PAGE: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    page_size: Option<usize>,
    page_token: Option<String>,
}

/// A letter as it is listed. Keep stable.
#[derive(Serialize)]
struct Listed {
    id: String,
    phase: &'static str,
    realm: String,
    sequence: u64,
    attempts: u32,
    reason: String,
    since: String,
    event: Box<RawValue>,
}

pub(super) async fn list(
    State(messages): State<Messages>,
    PathName(name): PathName,
    Params(page): Params<Page>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let max = page.page_size.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PULL_MESSAGES).contains(&max) {
        let why = Invalid::new(format!("page_size is {max}: ask for 1 to {MAX_PULL_MESSAGES}"));
        return Err(Problem::invalid("page_size", &why).with("limit", MAX_PULL_MESSAGES));
    }
    let followed = messages.authorised(&name, &headers).await?;
    let of = &followed.kept().subscription.incarnation;
    let token = page.page_token.as_deref();
    let Some((letters, next)) = messages.0.queue.dead_letters(of, token, max).await? else {
        let why = Invalid::new("page_token is not one that this list gave out: begin without it");
        return Err(Problem::invalid("page_token", &why));
    };
    let letters: Vec<Listed> = letters.into_iter().filter_map(listed).collect();
    // Written by hand, because the events are JSON already and must pass unchanged.
    let letters = serde_json::to_string(&letters).map_err(|_| unwritable())?;
    let next = json!(next);
    let body = format!("{{\"dead_letters\":{letters},\"next_page_token\":{next}}}");
    let json = [("content-type", "application/json"), ("cache-control", "no-store")];
    Ok((json, body).into_response())
}

fn listed(letter: Letter) -> Option<Listed> {
    let Letter { id, phase, realm, sequence, attempts, reason, since, event } = letter;
    let since = humantime::format_rfc3339_millis(since).to_string();
    let event = RawValue::from_string(String::from_utf8(event.into()).ok()?).ok()?;
    Some(Listed { id, phase, realm, sequence, attempts, reason, since, event })
}

fn unwritable() -> Problem {
    Problem::new(ProblemKind::Internal, "the list of dead letters cannot be written as JSON")
}

/// Which letters are meant: some, or all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chosen {
    ids: Option<Vec<String>>,
    #[serde(default)]
    all: bool,
}

impl Chosen {
    /// The ids; `None` for all.
    fn check(self) -> Result<Option<Vec<String>>, Problem> {
        match (self.ids, self.all) {
            (Some(ids), false) if ids.len() <= MAX_SETTLEMENTS => Ok(Some(ids)),
            (Some(ids), false) => {
                let count = ids.len();
                let why = Invalid::new(format!("ids has {count}: name at most {MAX_SETTLEMENTS}"));
                Err(Problem::invalid("ids", &why).with("limit", MAX_SETTLEMENTS))
            }
            (None, true) => Ok(None),
            _ => {
                let why = Invalid::new("name either ids, or \"all\":true");
                Err(Problem::invalid("ids", &why))
            }
        }
    }
}

pub(super) async fn redrive(
    State(messages): State<Messages>,
    PathName(name): PathName,
    headers: HeaderMap,
    JsonBody(chosen): JsonBody<Chosen>,
) -> Result<Response, Problem> {
    let ids = chosen.check()?;
    let followed = messages.authorised(&name, &headers).await?;
    let moved = messages.0.queue.redrive(&followed.kept().subscription, ids).await?;
    Ok(results(&moved))
}

pub(super) async fn discard(
    State(messages): State<Messages>,
    PathName(name): PathName,
    headers: HeaderMap,
    JsonBody(chosen): JsonBody<Chosen>,
) -> Result<Response, Problem> {
    let ids = chosen.check()?;
    let followed = messages.authorised(&name, &headers).await?;
    let of = &followed.kept().subscription.incarnation;
    let moved = messages.0.queue.discard(of, ids).await?;
    Ok(results(&moved))
}

fn results(moved: &[(String, Moved)]) -> Response {
    let result = |(id, moved): &(String, Moved)| {
        let status = match moved {
            Moved::Done => "done",
            Moved::Unknown => "unknown",
            Moved::Stale => "stale",
        };
        json!({ "id": id, "status": status })
    };
    let results: Vec<_> = moved.iter().map(result).collect();
    Json(json!({ "results": results })).into_response()
}
