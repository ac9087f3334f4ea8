//! Lockgate over HTTP, from the caller's side: a client that knows no bus.
//!
//! [`Client`] makes the requests; [`EventStream`] reads a subscription's event stream and resumes
//! it; [`wire`] has the bodies. Whatever goes wrong is an [`Error`] that says what to do next.

mod api;
mod error;
mod event_stream;
pub mod sse;
mod transport;
pub mod wire;

pub use api::{Client, Subscriber};
pub use error::{Error, ErrorKind};
pub use event_stream::{EventStream, StreamItem};
