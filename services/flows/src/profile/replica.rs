//! The consultation service's replica: applies each update, and shows its rows.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use bus::{Backoff, ErrorKind, HandlerError, KeyValue, Outcome, Start, StoredMessage};

use super::row::Row;
use super::update::Profile;
use super::{PARKED, REPLICA, REPLICA_PORT, UPDATES, rows, serve};
use crate::counters::Counter;
use crate::flow::{Context, Failure};
use crate::http::Problem;

/// How long the bucket of rows may be away before an update is tried again, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Applies updates. Any number of them may do so at once, on one bucket.
#[derive(Clone)]
struct Replica {
    rows: KeyValue,
    applied: Counter,
    older: Counter,
    parked: Counter,
}

/// The role: applies and serves until the shutdown.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let opened = rows(&context).await?;
    if opened.created {
        from_the_beginning(&context).await?;
    }
    let replica = Replica {
        rows: opened.handle.clone(),
        applied: context.counter("updates applied"),
        older: context.counter("older than the row"),
        parked: context.counter("updates parked"),
    };
    let pauses = Backoff::exponential(Duration::from_millis(50)).cap(LONGEST_PAUSE);
    let applying = context.bus.consumer(UPDATES, REPLICA).retry(pauses).dead_letters(PARKED).run(
        context.shutdown.clone(),
        move |update: StoredMessage| {
            let replica = replica.clone();
            async move { replica.apply(&update).await }
        },
    );
    let router = Router::new().route("/patientprofile/{id}", get(row)).with_state(opened.handle);
    let applying = async { applying.await.map_err(Failure::from) };
    let serving = serve(&context, "replica", &REPLICA_PORT, router);
    // Either of them that fails ends the role: the other is dropped, and what it had comes again.
    let ((), ()) = tokio::try_join!(applying, serving)?;
    Ok(())
}

/// Rows that were lost, with the memory that held them for example, are made of the history.
async fn from_the_beginning(context: &Context) -> bus::Result<()> {
    match context.bus.seek(UPDATES, REPLICA, Start::Beginning).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Replica {
    async fn apply(&self, update: &StoredMessage) -> Result<Outcome, HandlerError> {
        let (profile, moment) = match Profile::read(update) {
            Ok(read) => read,
            Err(bad) => {
                self.parked.add(1);
                return Ok(Outcome::Reject(bad.to_string()));
            }
        };
        let key = key(&profile.patient_id);
        let update = Row::new(profile, moment, update.sequence);
        let stands = self.rows.modify(&key, |row: Option<Row>| Row::merged(row.as_ref(), &update));
        match stands.await?.as_ref() == Some(&update) {
            true => self.applied.add(1),
            false => self.older.add(1),
        }
        Ok(Outcome::Ack)
    }
}

fn key(patient: &str) -> String {
    format!("patient.{patient}")
}

/// The row of a patient.
async fn row(
    State(rows): State<KeyValue>,
    Path(patient): Path<String>,
) -> Result<Json<Row>, Problem> {
    let missing = || Problem::not_found(format!("the replica has no patient {patient:?} (yet)"));
    match rows.get_json::<Row>(key(&patient)).await {
        Ok(Some((row, _))) => Ok(Json(row)),
        Ok(None) => Err(missing()),
        // What cannot be a key has no row.
        Err(error) if error.kind() == ErrorKind::Invalid => Err(missing()),
        Err(error) => Err(error.into()),
    }
}
