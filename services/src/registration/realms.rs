//! Realms over HTTP: which there are, and whether prefills can read their state.

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use bus::{Error, StreamInfo};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::http::{Access, Problem, ProblemKind};
use crate::model::Realm;
use crate::store::{Completeness, Store};

/// Logs looked at side by side.
const ASKED_AT_ONCE: usize = 16;

/// `/v1/realms`, for admins.
pub(super) fn routes(store: Store, access: Access) -> Router {
    Router::new()
        .route("/v1/realms", get(list))
        .route("/v1/realms/{name}/accept-history", post(accept_history))
        .with_state((store, access))
}

/// A realm as the API shows it.
#[derive(Debug, Serialize)]
struct RealmStatus {
    name: Realm,
    /// `whole`, `accepted`, `incomplete`, or `missing` when there is no log.
    history: &'static str,
    #[serde(flatten)]
    log: Option<LogStatus>,
}

#[derive(Debug, Serialize)]
struct LogStatus {
    events: u64,
    bytes: u64,
    first_sequence: u64,
    last_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
}

#[derive(Debug, Serialize)]
struct Realms {
    realms: Vec<RealmStatus>,
}

async fn list(
    State((store, access)): State<(Store, Access)>,
    headers: HeaderMap,
) -> Result<Json<Realms>, Problem> {
    access.require_admin(&headers)?;
    let realms = stream::iter(store.realms().await?)
        .map(|realm| status(&store, realm))
        .buffered(ASKED_AT_ONCE)
        .try_collect()
        .await?;
    Ok(Json(Realms { realms }))
}

async fn accept_history(
    State((store, access)): State<(Store, Access)>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Json<RealmStatus>, Problem> {
    access.require_admin(&headers)?;
    let realm = Realm::new(&name).map_err(|why| {
        Problem::new(ProblemKind::NotFound, format!("there is no realm {name:?}: {why}"))
    })?;
    let log = store.accept_history(&realm).await.map_err(|error| match error.is_not_found() {
        true => {
            let detail = format!("there is no realm {realm}: see what is there at /v1/realms");
            Problem::new(ProblemKind::NotFound, detail)
        }
        false => Problem::from(error),
    })?;
    tracing::warn!(%realm, first_sequence = log.first_sequence, "history accepted as it is");
    Ok(Json(seen(&store, realm, log).await?))
}

async fn status(store: &Store, realm: Realm) -> Result<RealmStatus, Error> {
    match store.log_info(&realm).await {
        Ok(log) => seen(store, realm, log).await,
        Err(_) if store.log_is_missing(&realm).await? => {
            Ok(RealmStatus { name: realm, history: "missing", log: None })
        }
        Err(error) => Err(error),
    }
}

async fn seen(store: &Store, name: Realm, log: StreamInfo) -> Result<RealmStatus, Error> {
    let history = match store.completeness(&name, &log).await? {
        Completeness::Whole => "whole",
        Completeness::Accepted => "accepted",
        Completeness::Incomplete => "incomplete",
    };
    let created = log.created.map(|created| humantime::format_rfc3339_millis(created).to_string());
    let log = LogStatus {
        events: log.messages,
        bytes: log.bytes,
        first_sequence: log.first_sequence,
        last_sequence: log.last_sequence,
        created,
    };
    Ok(RealmStatus { name, history, log: Some(log) })
}
