//! The registration API: it alone writes subscription records.

mod api;
mod core;
mod fence;
mod figures;
mod lag;
mod realms;
mod reports;
mod request;
mod status;

use bus::Error;
use tokio_util::sync::CancellationToken;

pub use api::router;
pub use core::{Registered, Registration, RegistrationError};
pub use request::Request;
pub use status::Status;

/// The background work of the role, until `shutdown`: applies what workers and dispatchers report,
/// and measures the queues while somebody scrapes.
pub async fn run(registration: Registration, shutdown: CancellationToken) -> Result<(), Error> {
    let measuring = lag::measure(registration.clone(), shutdown.clone());
    let reports = reports::run_reports(registration, shutdown);
    let ((), ended) = tokio::join!(measuring, reports);
    ended
}

#[cfg(test)]
mod tests;
