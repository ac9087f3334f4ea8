//! Whether a connection is open, for who only looks and for who waits.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

/// Open until it is closed; dropping it does not close it.
#[derive(Debug, Default)]
pub(crate) struct Door {
    /// Read by every operation; the token, which takes a lock, is for those who wait.
    closed: AtomicBool,
    token: CancellationToken,
}

impl Door {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Closes it for good.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Cancelled when it is closed.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}
