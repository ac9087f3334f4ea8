//! Events in: `POST /v1/events`, from HTTP to the log of their realm.

mod api;
mod duplicate;
mod ingest;

pub use api::router;
pub use ingest::Ingest;
