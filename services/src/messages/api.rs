//! The messages API over HTTP: parse, one call, convert.

mod admission;
mod asked;
mod dead_letters;
mod events;
mod queue;
mod topics;
mod websocket;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::directory::Followed;
use super::{Messages, tickets};
use crate::http::{Access, PathName, Problem, ProblemKind, bearer, with_deadline};
use crate::limits::{MAX_PULL_WAIT, REQUEST_DEADLINE};
use crate::model::{HumanDuration, SubscriptionName};

/// The routes of the messages role. Each takes the subscription's secret as bearer token.
pub fn router(messages: Messages) -> Router {
    let streams = Router::new()
        .route("/v1/subscriptions/{name}/events", get(events::events))
        .with_state(messages.clone());
    let waiting = Router::new()
        .route("/v1/subscriptions/{name}/pull", post(queue::pull))
        .with_state(messages.clone());
    let prompt = Router::new()
        .route("/v1/subscriptions/{name}/ws", get(websocket::websocket))
        .route("/v1/subscriptions/{name}/acks", post(queue::acks))
        .route("/v1/subscriptions/{name}/dead-letters", get(dead_letters::list))
        .route("/v1/subscriptions/{name}/dead-letters/redrive", post(dead_letters::redrive))
        .route("/v1/subscriptions/{name}/dead-letters/drop", post(dead_letters::discard))
        .route("/v1/subscriptions/{name}/tickets", post(issue_ticket))
        .with_state(messages);
    // A pull waits as long as it was asked to; its body must come in time all the same.
    let waiting = with_deadline(waiting, MAX_PULL_WAIT + REQUEST_DEADLINE);
    streams.merge(waiting).merge(with_deadline(prompt, REQUEST_DEADLINE))
}

/// The messages role and who may use it without a subscription.
#[derive(Clone)]
struct TopicsApi {
    messages: Messages,
    access: Access,
}

/// The routes that read topics without a subscription. They take an admin token, where tokens are
/// configured.
pub fn topics_router(messages: Messages, access: Access) -> Router {
    let api = TopicsApi { messages, access };
    let streams = Router::new().route("/v1/stream", get(topics::stream)).with_state(api.clone());
    let state = Router::new().route("/v1/state", get(topics::state)).with_state(api);
    streams.merge(with_deadline(state, REQUEST_DEADLINE))
}

async fn issue_ticket(
    State(messages): State<Messages>,
    PathName(name): PathName,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let followed = messages.authorised(&name, &headers).await?;
    let ticket = messages.0.tickets.issue(&followed.kept().subscription)?;
    let expires_in = HumanDuration(tickets::TTL);
    Ok(Json(json!({ "ticket": ticket, "expires_in": expires_in })).into_response())
}

impl Messages {
    /// The subscription, if the request brings its secret.
    async fn authorised(&self, name: &str, headers: &HeaderMap) -> Result<Followed, Problem> {
        let followed = self.find(name).await?;
        if self.knows_secret(&followed, headers) {
            return Ok(followed);
        }
        Err(secret_needed(name))
    }

    async fn find(&self, name: &str) -> Result<Followed, Problem> {
        let unknown = || {
            let detail =
                format!("there is no subscription {name}: register it with POST /v1/subscriptions");
            Problem::new(ProblemKind::NotFound, detail)
        };
        let name = SubscriptionName::new(name).map_err(|_| unknown())?;
        self.0.directory.follow(&name).await?.ok_or_else(unknown)
    }

    fn knows_secret(&self, followed: &Followed, headers: &HeaderMap) -> bool {
        let hash = &followed.kept().subscription.secret_hash;
        bearer(headers).is_some_and(|secret| self.0.store.signer.secret_matches(secret, hash))
    }
}

fn secret_needed(name: &str) -> Problem {
    let detail = format!(
        "the secret of subscription {name} is missing or wrong: send the one that registering it \
         showed, as Authorization: Bearer lg_..."
    );
    Problem::new(ProblemKind::Unauthorized, detail)
}
