//! What every HTTP role stands on: problems, access, guards, bodies, health and the server.

mod access;
mod again;
mod app;
mod catalogue;
mod encoding;
mod extract;
mod guard;
mod health;
mod metrics;
mod patience;
mod problem;
mod server;

pub(crate) use access::bearer;
pub use access::{Access, Principal};
pub(crate) use again::{come_again, stream_headers, wants_stream};
pub use app::app;
pub(crate) use app::with_deadline;
pub use catalogue::ProblemKind;
pub(crate) use extract::{JsonBody, Params, PathName, content_type, parse_json, read_body};
pub use guard::Guard;
pub use health::Health;
pub(crate) use metrics::router as metrics_router;
pub(crate) use patience::{Deadline, Due, Patient};
pub use problem::Problem;
pub use server::{BindError, ListenOptions, Server};
