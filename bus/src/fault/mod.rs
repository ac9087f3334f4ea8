//! Faults on purpose: an adapter around any backend that delays, fails, loses answers and stops
//! at a chosen operation, the same way for the same seed.
//!
//! A test wraps the backend of a role in a [`FaultDriver`], steers it through a [`Faults`] handle
//! and checks that the role's promises hold. Every fault is one that the contract allows, so that
//! a role that breaks under it breaks in production:
//!
//! - a **delay** before the effect;
//! - a **failure before** the effect: [`crate::ErrorKind::Unavailable`], nothing happened; an
//!   unconfirmed settlement is lost without a word, as it may be on a network;
//! - a **failure after** the effect: it happened and the answer is lost,
//!   [`crate::ErrorKind::Timeout`]. Deliveries that were fetched are lost to their leases. A
//!   reader or a watch loses nothing: it gives the same again with the next call;
//! - a **crash**: at the chosen operation the process stops in the middle of everything. That
//!   operation and every other one through this handle never return. Drop the role, and start it
//!   again on a fresh handle around the same backend.

mod driver;
mod faults;
mod handles;

pub use driver::FaultDriver;
pub use faults::{CrashSide, FaultRates, Faults};

#[cfg(test)]
mod tests;
