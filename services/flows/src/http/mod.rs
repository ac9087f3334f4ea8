//! The HTTP side of a role: one shape of errors, bounded bodies, requests and connections.

mod body;
mod problem;
mod server;

pub(crate) use body::{JsonBody, MAX_BODY};
pub(crate) use problem::Problem;
pub(crate) use server::Server;
