//! Flows: small systems on the bus, each a set of roles that run together or one by one.

mod flow;
pub mod medisupply;
pub mod orders;
mod run;

pub use flow::{Context, Failure, Flow, Role};
pub use run::run;
