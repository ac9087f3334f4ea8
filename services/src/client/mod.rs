//! Lockgate over HTTP, from the caller's side: a client that knows no bus.
//!
//! [`Client`] makes the requests; [`EventStream`] reads a subscription as a stream, over one of the
//! transports, and resumes it; [`wire`] has the bodies. Whatever goes wrong is an [`Error`] that says what to do next.

mod api;
mod error;
mod event_stream;
mod socket;
pub mod sse;
mod transport;
pub mod wire;

pub use api::{Client, Subscriber};
pub use error::{Error, ErrorKind};
pub use event_stream::{EventStream, StreamItem, Transport};
