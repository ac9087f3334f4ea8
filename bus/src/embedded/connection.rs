//! One program's hold on the backend: closing it closes nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::clock::{Clock, Now};
use crate::error::{Error, ErrorKind, Result};

/// A hold on the backend, shared by everything opened through it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    clock: Clock,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Read by every operation; the token, which takes a lock, is for those who wait.
    closed: AtomicBool,
    token: CancellationToken,
}

impl Connection {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, gate: Arc::default() }
    }

    /// A second hold on the same backend.
    pub(super) fn another(&self) -> Self {
        Self::new(self.clock)
    }

    /// The time an operation happens at; `Closed` after [`Connection::close`].
    pub(super) fn enter(&self) -> Result<Now> {
        if self.gate.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Closed,
                "this connection was closed by its owner: connect anew",
            ));
        }
        Ok(self.clock.now())
    }

    pub(super) fn now(&self) -> Now {
        self.clock.now()
    }

    pub(super) fn close(&self) {
        self.gate.closed.store(true, Ordering::Release);
        self.gate.token.cancel();
    }

    /// Waits until the connection is closed.
    pub(super) async fn closed(&self) {
        self.gate.token.cancelled().await;
    }
}
