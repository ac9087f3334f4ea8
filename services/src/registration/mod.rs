//! The registration API: it alone writes subscription records.

mod api;
mod core;
mod fence;
mod figures;
mod realms;
mod reports;
mod request;
mod status;

pub use api::router;
pub use core::{Registered, Registration, RegistrationError};
pub use reports::run_reports;
pub use request::Request;
pub use status::Status;

#[cfg(test)]
mod tests;
