//! One program's hold on the backend: closing it closes nobody else's.

use std::sync::Arc;
use std::time::SystemTime;

use super::clock::{Clock, Now};
use crate::door::Door;
use crate::error::{Error, ErrorKind, Result};

/// A hold on the backend, shared by everything opened through it.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    clock: Clock,
    door: Arc<Door>,
}

impl Connection {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, door: Arc::default() }
    }

    /// A second hold on the same backend.
    pub(super) fn another(&self) -> Self {
        Self::new(self.clock.clone())
    }

    /// The time an operation happens at; `Closed` after [`Connection::close`].
    pub(super) fn enter(&self) -> Result<Now> {
        if self.door.is_closed() {
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

    /// See [`Clock::log_time`].
    pub(super) fn log_time(&self, wall: SystemTime) -> SystemTime {
        self.clock.log_time(wall)
    }

    /// See [`Clock::wall_time`].
    pub(super) fn wall_time(&self, time: SystemTime) -> SystemTime {
        self.clock.wall_time(time)
    }

    pub(super) fn close(&self) {
        self.door.close();
    }

    /// Waits until the connection is closed.
    pub(super) async fn closed(&self) {
        self.door.token().cancelled().await;
    }
}
