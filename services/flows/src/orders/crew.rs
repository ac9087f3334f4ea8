//! The tasks of a role: one owner that watches and joins them.

use std::future::Future;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::flow::Failure;

/// Tasks that end together. Dropping it aborts them, as a crash would.
pub(super) struct Crew {
    tasks: JoinSet<Result<(), Failure>>,
    stop: CancellationToken,
}

impl Crew {
    /// A crew that is told to stop by `shutdown`, or when one of its tasks fails.
    pub(super) fn new(shutdown: &CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), stop: shutdown.child_token() }
    }

    /// What its tasks have to heed.
    pub(super) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    pub(super) fn add(&mut self, task: impl Future<Output = Result<(), Failure>> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for all of them; the first failure stops the others and is returned.
    pub(super) async fn join(mut self) -> Result<(), Failure> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.unwrap_or_else(|panicked| Err(panicked.into()));
            if ended.is_err() {
                self.stop.cancel();
            }
            outcome = outcome.and(ended);
        }
        outcome
    }
}
