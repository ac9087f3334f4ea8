//! The backend inside this process.

/// The embedded backend.
pub struct Embedded;
