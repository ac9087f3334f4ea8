//! `POST /v1/subscriptions/{name}/pull` and `.../acks`: queue mode.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;

use crate::http::{JsonBody, PathName, Problem, ProblemKind};
use crate::limits::{
    MAX_NACK_DELAY, MAX_PULL_BYTES, MAX_PULL_MESSAGES, MAX_PULL_WAIT, MAX_SETTLEMENTS,
};
use crate::messages::Messages;
use crate::messages::progress::Progress;
use crate::messages::queue::{Delivery, Outcome, Phase, Pulled, Refused, Select, Status, Wish};
use crate::model::{HumanDuration, Invalid, Subscription};

const DEFAULT_MAX: usize = 100;
const DEFAULT_WAIT: Duration = Duration::from_secs(20);

/// The body of a pull.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PullBody {
    max: Option<usize>,
    /// 1: one event of a key at a time.
    max_per_key: Option<usize>,
    wait: Option<HumanDuration>,
}

pub(super) async fn pull(
    State(messages): State<Messages>,
    PathName(name): PathName,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PullBody>,
) -> Result<Response, Problem> {
    let (want, wait) = check_pull(&body)?;
    let followed = messages.authorised(&name, &headers).await?;
    let pulled = messages.0.queue.pull(&followed, want, wait).await?;
    let state = messages.state(&followed.kept().subscription, &pulled).await;
    let body = write_pulled(&pulled.messages, &state);
    let json = HeaderValue::from_static("application/json");
    let no_store = HeaderValue::from_static("no-store");
    Ok(([(header::CONTENT_TYPE, json), (header::CACHE_CONTROL, no_store)], body).into_response())
}

fn check_pull(body: &PullBody) -> Result<(Select, Duration), Problem> {
    let max = body.max.unwrap_or(DEFAULT_MAX);
    let max_per_key = body.max_per_key.unwrap_or(MAX_PULL_MESSAGES);
    for (field, asked) in [("max", max), ("max_per_key", max_per_key)] {
        if !(1..=MAX_PULL_MESSAGES).contains(&asked) {
            let why = Invalid::new(format!("{field} is {asked}: ask for 1 to {MAX_PULL_MESSAGES}"));
            return Err(Problem::invalid(field, &why).with("limit", MAX_PULL_MESSAGES));
        }
    }
    let wait = body.wait.map_or(DEFAULT_WAIT, |wait| wait.0);
    if wait > MAX_PULL_WAIT {
        let limit = HumanDuration(MAX_PULL_WAIT);
        let why = Invalid::new("wait is longer than \"1m\": pull again instead");
        return Err(Problem::invalid("wait", &why).with("limit", json!(limit)));
    }
    Ok((Select { max, max_per_key, max_bytes: MAX_PULL_BYTES }, wait))
}

impl Messages {
    /// What a pull is told beside its messages: phase and generation, and why there are none.
    async fn state(&self, subscription: &Subscription, pulled: &Pulled) -> serde_json::Value {
        let mut state = json!({ "phase": pulled.phase.name(), "generation": pulled.generation });
        match &pulled.phase {
            Phase::Failed(reason) => state["reason"] = json!(reason),
            Phase::Pending => {
                let progress = Progress::read(&self.0.store, &subscription.incarnation).await;
                // Without it the answer is less telling, and no less right.
                state["rows"] = json!(progress.ok().flatten().map(|progress| progress.rows));
            }
            Phase::Prefill | Phase::Live | Phase::Cancelled => {}
        }
        state
    }
}

/// Writes the answer by hand, because the events are JSON already.
fn write_pulled(messages: &[Delivery], state: &serde_json::Value) -> Bytes {
    let events: usize = messages.iter().map(|message| message.event.len() + 512).sum();
    let mut body = BytesMut::with_capacity(events + 128);
    body.put_slice(b"{\"messages\":[");
    for (at, message) in messages.iter().enumerate() {
        body.put_slice(if at == 0 { b"{" } else { b",{" });
        message.write(&mut body);
        body.put_u8(b'}');
    }
    body.put_slice(b"],");
    // Without its opening brace.
    body.put_slice(state.to_string().get(1..).unwrap_or("}").as_bytes());
    body.freeze()
}

/// The body of a settlement.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AcksBody {
    #[serde(default)]
    ack: Vec<String>,
    #[serde(default)]
    nack: Vec<Nack>,
    #[serde(default)]
    extend: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nack {
    id: String,
    delay: Option<HumanDuration>,
    /// Never deliver it again.
    #[serde(default)]
    reject: bool,
    /// Why, for the dead letter that it may become.
    reason: Option<String>,
}

pub(super) async fn acks(
    State(messages): State<Messages>,
    PathName(name): PathName,
    headers: HeaderMap,
    JsonBody(body): JsonBody<AcksBody>,
) -> Result<Response, Problem> {
    let wishes = check_acks(body)?;
    let followed = messages.authorised(&name, &headers).await?;
    let outcomes = messages.0.queue.settle(&followed.kept().subscription, wishes).await;
    let results = json!(outcomes);
    let all = |bad: fn(Status) -> bool| {
        !outcomes.is_empty() && outcomes.iter().all(|Outcome { status, .. }| bad(*status))
    };
    if all(|status| matches!(status, Status::Stale | Status::Early | Status::Unknown)) {
        let detail = "no delivery was settled: stale ones are over (pull again, and extend while \
                      working), early ones follow an event of their key that is not settled yet, \
                      unknown ones are not of this subscription";
        return Err(Problem::new(ProblemKind::Stale, detail).with("results", results));
    }
    if all(|status| status == Status::Failed) {
        let detail = "the bus does not answer, and each may or may not be settled: repeat it";
        return Err(Problem::new(ProblemKind::Unavailable, detail).with("results", results));
    }
    Ok(Json(json!({ "results": results })).into_response())
}

fn check_acks(body: AcksBody) -> Result<Vec<(String, Wish)>, Problem> {
    let AcksBody { ack, nack, extend } = body;
    let count = ack.len() + nack.len() + extend.len();
    if count > MAX_SETTLEMENTS {
        let detail = format!("{count} settlements at once: send at most {MAX_SETTLEMENTS}");
        let problem = Problem::new(ProblemKind::InvalidInput, detail);
        return Err(problem.with("limit", MAX_SETTLEMENTS));
    }
    let acks = ack.into_iter().map(|id| (id, Wish::Ack));
    let nacks = nack.into_iter().map(|nack| (nack.id.clone(), nack.wish()));
    let extensions = extend.into_iter().map(|id| (id, Wish::Extend));
    Ok(acks.chain(nacks).chain(extensions).collect())
}

impl Nack {
    fn wish(self) -> Wish {
        let Self { delay, reject, reason, .. } = self;
        match reject {
            true => Wish::Reject { reason },
            false => {
                let delay = delay.map_or(Duration::ZERO, |delay| delay.0.min(MAX_NACK_DELAY));
                Wish::Nack { delay, reason }
            }
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let kind = match &refused {
            Refused::Elsewhere => ProblemKind::ServedElsewhere,
            Refused::Gone => ProblemKind::NotFound,
            Refused::Busy => ProblemKind::Busy,
            Refused::Away(_) => ProblemKind::Unavailable,
        };
        Self::new(kind, refused.to_string())
    }
}
