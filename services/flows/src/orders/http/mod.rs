//! The HTTP side of the roles: one shape of errors, bounded bodies, requests and connections.

mod extract;
mod problem;
mod server;

pub(super) use extract::{JsonBody, PathOrder, idempotency_key};
pub(super) use problem::Problem;
pub(super) use server::Server;
