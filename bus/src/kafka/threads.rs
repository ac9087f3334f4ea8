//! The threads that block in librdkafka, and who joins them.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use tokio_util::sync::CancellationToken;

use crate::door::Door;
use crate::error::{Error, ErrorKind, Result};

/// Threads that end soon after the door is closed; dropping this closes it.
#[derive(Default)]
pub(super) struct Threads {
    door: Door,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// Cancelled when the threads must end.
    pub(super) fn stop(&self) -> &CancellationToken {
        self.door.token()
    }

    /// [`ErrorKind::Closed`] when the threads must end.
    pub(super) fn check_open(&self) -> Result<()> {
        if self.door.is_closed() { Err(closed()) } else { Ok(()) }
    }

    /// Starts a thread. It looks at [`Threads::stop`] at least every second.
    pub(super) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_open()?;
        running.retain(|thread| !thread.is_finished());
        let started = Builder::new().name(name.to_owned()).spawn(work);
        running.push(started.map_err(|source| {
            let what = format!("no thread could be started for {name}: {source}");
            Error::with_source(ErrorKind::Backend, what, source)
        })?);
        Ok(())
    }

    /// Ends all of them and waits until they have.
    pub(super) async fn join(&self) {
        self.door.close();
        let running =
            std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let joined = tokio::task::spawn_blocking(move || {
            for thread in running {
                // A thread that panicked was reported when it did.
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.door.close();
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the bus was closed")
}
