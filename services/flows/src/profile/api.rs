//! The profile service: takes a profile and publishes it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use bus::{Message, Stream};
use serde_json::{Value, json};

use super::timestamp::Moment;
use super::update::Profile;
use super::{PORT, UPDATES, UPDATES_SUBJECT, serve};
use crate::counters::Counter;
use crate::flow::{Context, Failure};
use crate::http::{JsonBody, Problem};

#[derive(Clone)]
struct Api {
    updates: Stream,
    published: Counter,
}

/// The role: serves until the shutdown.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let (updates, published) =
        (context.bus.stream(UPDATES).await?, context.counter("profiles published"));
    let router = Router::new()
        .route("/patientprofile", post(publish))
        .with_state(Api { updates, published });
    serve(&context, "api", &PORT, router).await
}

/// Publishes the profile, at the moment it names or now, and answers when the stream holds it. A
/// request that is repeated changes nothing more, where it names its moment.
async fn publish(
    State(api): State<Api>,
    JsonBody(mut profile): JsonBody<Profile>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    profile.check().map_err(|bad| Problem::invalid(bad.to_string()))?;
    let moment = match profile.updated_at.as_str() {
        "" => Moment::now(),
        given => {
            Moment::read(given).map_err(|why| Problem::invalid(format!("UpdatedAt: {why}")))?
        }
    };
    if profile.updated_at.is_empty() {
        profile.updated_at = moment.to_string();
    }
    let update = Message::json(UPDATES_SUBJECT, &profile)?.key(&profile.patient_id);
    let receipt = api.updates.publish(update).await?;
    api.published.add(1);
    let answer = json!({
        "PatientId": profile.patient_id,
        "UpdatedAt": profile.updated_at,
        "Sequence": receipt.sequence,
    });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}
