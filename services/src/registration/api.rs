//! The registration API over HTTP: parse, one call, convert.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bus::Subject;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::core::{Registered, Registration, RegistrationError};
use super::realms;
use super::request::{Body, Request};
use super::status::Status;
use crate::http::{
    Access, JsonBody, Params, PathName, Problem, ProblemKind, bearer, with_deadline,
};
use crate::model::{Invalid, SubscriptionName};
use crate::store::Kept;

const DEADLINE: Duration = Duration::from_secs(30);
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

#[derive(Clone)]
struct Api {
    registration: Registration,
    access: Access,
}

/// `/v1/subscriptions`: registering and listing take an admin token where tokens are configured;
/// a subscription's own secret serves for reading, prefilling again and deleting it.
pub fn router(registration: Registration, access: Access) -> Router {
    let routes = Router::new()
        .route("/v1/subscriptions", post(register).get(list))
        .route("/v1/subscriptions/{name}", get(show).delete(delete))
        .route("/v1/subscriptions/{name}/prefill", post(prefill_again))
        .with_state(Api { registration: registration.clone(), access: access.clone() });
    with_deadline(routes.merge(realms::routes(registration.store, access)), DEADLINE)
}

async fn register(
    State(api): State<Api>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Body>,
) -> Result<Response, Problem> {
    api.access.require_admin(&headers)?;
    let registered = api.registration.register(Request::parse(body)?).await?;
    let Registered { kept, secret, created } = registered;
    let status = api.registration.brief(&kept.subscription).await?;
    let body = Json(WithSecret { status, secret });
    if !created {
        return Ok((etag(&kept), body).into_response());
    }
    let location = format!("/v1/subscriptions/{}", kept.subscription.name());
    Ok((StatusCode::CREATED, etag(&kept), [(header::LOCATION, location)], body).into_response())
}

/// The one answer that may hold a secret.
#[derive(Serialize)]
struct WithSecret {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

async fn show(
    State(api): State<Api>,
    PathName(name): PathName,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let kept = api.permitted(name, &headers).await?;
    let status = api.registration.detailed(&kept.subscription).await?;
    Ok((etag(&kept), Json(status)).into_response())
}

async fn delete(
    State(api): State<Api>,
    PathName(name): PathName,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    // An admin can delete even a record that cannot be read, and so without reading it.
    let name = if api.access.is_admin(&headers) {
        parse_name(name)?
    } else {
        api.permitted(name, &headers).await?.subscription.name().clone()
    };
    api.registration.delete(&name, if_match(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prefill_again(
    State(api): State<Api>,
    PathName(name): PathName,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let kept = api.permitted(name, &headers).await?;
    if if_match(&headers)?.is_some_and(|wanted| wanted != kept.revision) {
        return Err(RegistrationError::Changed(kept.subscription.name().clone()).into());
    }
    let renewed = api.registration.prefill_again(kept).await?;
    let status = api.registration.brief(&renewed.subscription).await?;
    Ok((StatusCode::ACCEPTED, etag(&renewed), Json(status)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    page_size: Option<usize>,
    page_token: Option<String>,
}

#[derive(Serialize)]
struct Page {
    subscriptions: Vec<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Json<Page>, Problem> {
    api.access.require_admin(&headers)?;
    let size = query.page_size.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&size) {
        let why = Invalid::new(format!("page_size is {size}: ask for 1 to {MAX_PAGE}"));
        return Err(Problem::invalid("page_size", &why));
    }
    let after = query.page_token.as_deref().map(read_page_token).transpose()?;
    let (subscriptions, last) = api.registration.page(after.as_ref(), size).await?;
    let next_page_token = last.map(|last| page_token(&last));
    Ok(Json(Page { subscriptions, next_page_token }))
}

/// A page goes on after a name, so that what is registered or deleted meanwhile moves nothing.
fn page_token(after: &Subject) -> String {
    BASE64URL_NOPAD.encode(after.as_str().as_bytes())
}

fn read_page_token(token: &str) -> Result<Subject, Problem> {
    let name = BASE64URL_NOPAD.decode(token.as_bytes()).ok();
    let name = name.and_then(|name| String::from_utf8(name).ok());
    name.and_then(|name| Subject::new(name).ok()).ok_or_else(|| {
        let why = Invalid::new("page_token is not one of ours: leave it out to start over");
        Problem::invalid("page_token", &why)
    })
}

impl Api {
    /// The record, for an admin or for whoever has the subscription's secret.
    async fn permitted(&self, name: String, headers: &HeaderMap) -> Result<Kept, Problem> {
        let name = parse_name(name)?;
        let kept = self.registration.get(&name).await?;
        let signer = &self.registration.store.signer;
        let owns = |secret| signer.secret_matches(secret, &kept.subscription.secret_hash);
        if self.access.is_admin(headers) || bearer(headers).is_some_and(owns) {
            return Ok(kept);
        }
        let detail = format!("send the secret of {name} or an admin token as a bearer token");
        Err(Problem::new(ProblemKind::Unauthorized, detail))
    }
}

fn parse_name(name: String) -> Result<SubscriptionName, Problem> {
    SubscriptionName::new(name).map_err(|why| Problem::invalid("name", &why))
}

/// The revision of the record as a strong validator (RFC 9110, section 8.8.3).
fn etag(kept: &Kept) -> [(header::HeaderName, HeaderValue); 1] {
    let tag = HeaderValue::from_str(&format!("\"{}\"", kept.revision));
    [(header::ETAG, tag.unwrap_or(HeaderValue::from_static("\"\"")))]
}

/// The revision in `If-Match`; `None` without the header or for `*`.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    if value == "*" {
        return Ok(None);
    }
    let revision = value.trim_matches('"').parse().ok();
    revision.map(Some).ok_or_else(|| {
        let detail =
            format!("if-match is {value}: send the etag of the subscription as it was read");
        Problem::new(ProblemKind::PreconditionFailed, detail)
    })
}

impl From<RegistrationError> for Problem {
    fn from(error: RegistrationError) -> Self {
        let kind = match &error {
            RegistrationError::Different { .. } => ProblemKind::Conflict,
            RegistrationError::Unknown(_) => ProblemKind::NotFound,
            RegistrationError::Changed(_) => ProblemKind::PreconditionFailed,
            RegistrationError::Bus(_) => ProblemKind::Internal,
        };
        match error {
            RegistrationError::Bus(error) => error.into(),
            RegistrationError::Different { ref differs, .. } => {
                Self::new(kind, error.to_string()).with("differs", differs.clone())
            }
            other => Self::new(kind, other.to_string()),
        }
    }
}
