//! What every backend's deliveries and publishes go through.

pub(crate) mod dead_letter;
pub(crate) mod delivery;
pub mod middleware;
