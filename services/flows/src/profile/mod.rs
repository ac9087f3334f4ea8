//! Patient profiles: one service holds them and publishes each change, another keeps a replica.
//!
//! | Stream | Subject | What |
//! |---|---|---|
//! | `patient-profile-updated` | `patient.profile.updated` | a [`Profile`], keyed by the patient's id |
//! | `profiles-parked` | `profiles-parked.patient-profile-updated.consultation` | updates that cannot be read, each with its reason |
//!
//! The replica's rows are in the bucket `patient-profile`, each under `patient.<id>`. The last writer
//! wins by `UpdatedAt`, and of equal times the one that stands later in the stream: a patient's
//! updates have one key and so one partition, where a sequence is the offset's order. Whatever the
//! order of arrival, the row is the same.

mod api;
mod replica;
mod row;
mod timestamp;
mod update;

use std::time::Duration;

use axum::Router;
use bus::{BucketConfig, BucketName, StreamConfig, StreamName};
use futures_util::FutureExt;

pub use row::Row;
pub use timestamp::{Malformed, Moment};
pub use update::{BadUpdate, Profile};

use crate::flow::{Context, Failure, Flow, Role};
use crate::http::Server;
use crate::settings::{Kind, Setting};

/// The stream of updates.
pub const UPDATES: &str = "patient-profile-updated";
/// Where updates are published.
pub const UPDATES_SUBJECT: &str = "patient.profile.updated";
/// The stream of updates that cannot be read.
pub const PARKED: &str = "profiles-parked";
/// The consumer that keeps the replica.
pub const REPLICA: &str = "consultation";
/// The bucket of the replica's rows.
pub const ROWS: &str = "patient-profile";

const PARTITIONS: u32 = 12;
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Where the profile API listens.
pub static PORT: Setting = Setting {
    name: "port",
    env: "LOCKGATE_PROFILE_PORT",
    kind: Kind::Count,
    default: "3000",
    about: "The port of POST /patientprofile; 0 takes a free one",
};
/// Where the replica is read.
pub static REPLICA_PORT: Setting = Setting {
    name: "replica-port",
    env: "LOCKGATE_PROFILE_REPLICA_PORT",
    kind: Kind::Count,
    default: "3001",
    about: "The port of GET /patientprofile/ID on the replica; 0 takes a free one",
};

/// What can be set.
pub(crate) const SETTINGS: &[&Setting] = &[&PORT, &REPLICA_PORT];

/// The flow.
pub static FLOW: Flow = Flow {
    name: "profile",
    about: "Patient profiles over HTTP, and a replica that the last writer wins",
    roles: ROLES,
    prepare: |context| prepare(context).boxed(),
};

const ROLES: &[Role] = &[
    Role {
        name: "replica",
        about: "Keeps the consultation service's rows and shows them at GET /patientprofile/ID",
        run: |context| replica::run(context).boxed(),
    },
    Role {
        name: "api",
        about: "Takes profiles at POST /patientprofile and publishes them",
        run: |context| api::run(context).boxed(),
    },
];

async fn prepare(context: Context) -> Result<(), Failure> {
    let kept = |config| StreamConfig { max_age: Some(KEPT), ..config };
    let updates = StreamConfig {
        partitions: PARTITIONS,
        ..StreamConfig::parse(UPDATES, &[UPDATES_SUBJECT])?
    };
    let parked = StreamConfig::dead_letters(StreamName::new(PARKED)?);
    for stream in [kept(updates), kept(parked)] {
        context.bus.create_stream_if_missing(&stream).await?;
    }
    Ok(())
}

/// The bucket of rows, and whether it was made just now.
async fn rows(context: &Context) -> bus::Result<bus::Opened<bus::KeyValue>> {
    context.state.create_kv_if_missing(&BucketConfig::new(BucketName::new(ROWS)?)).await
}

/// Serves until the shutdown, at the port that was set.
async fn serve(
    context: &Context,
    role: &str,
    setting: &Setting,
    router: Router,
) -> Result<(), Failure> {
    let port = context.settings.number(setting)?;
    let server = Server::bind(context.listen, port, setting).await?;
    context.listens(role, &server)?;
    server.serve(router, context.shutdown.clone()).await
}
