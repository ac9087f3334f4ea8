//! NATS JetStream.

/// The NATS backend.
pub struct Nats;
