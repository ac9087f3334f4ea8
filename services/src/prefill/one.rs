//! One prefill, for a process that does nothing else.

use std::time::Duration;

use bus::{Backoff, ErrorKind};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::fill::FillError;
use super::log_source::Logs;
use super::source::SourceError;
use super::worker::{Handled, Worker};
use crate::model::{Incarnation, JobOutcome};
use crate::store::Store;

/// A process ends after this many failures in a row, so that whoever started it sees that it does
/// not come on.
const MAX_FAILURES: u32 = 8;

/// Does one prefill to its end, as any worker would: it goes on where another one stopped, waits
/// while another one is at it, and reports, durably, before this returns. Nothing to do is an end
/// too.
///
/// An error may go away by itself: done again, it goes on from where it was. `None` when `shutdown`
/// was cancelled first; then another process goes on at once.
pub async fn run_one(
    store: Store,
    of: &Incarnation,
    shutdown: &CancellationToken,
) -> Result<Option<JobOutcome>, bus::Error> {
    let worker = Worker { store, source: Box::new(Logs), stop: shutdown.clone() };
    let backoff = Backoff::exponential(Duration::from_millis(500)).cap(Duration::from_secs(10));
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        let pause = match worker.attempt(of).await {
            Ok(Handled::Reported(report)) => return Ok(Some(JobOutcome::reported(report))),
            Ok(Handled::Unneeded) => return Ok(Some(JobOutcome::unneeded())),
            Ok(Handled::Unreadable(why)) => {
                return Ok(Some(JobOutcome::failed(format!("record-unreadable: {why}"))));
            }
            Ok(Handled::Stopped) => break,
            Ok(Handled::Busy(pause)) => pause,
            Err(error) => {
                failures += 1;
                let error = bus_error(error);
                if failures >= MAX_FAILURES {
                    return Err(error);
                }
                tracing::warn!(prefill = %of, %error, failures, "trying again");
                backoff.delay(failures)
            }
        };
        tokio::select! { biased;
            () = shutdown.cancelled() => {}
            () = sleep(pause) => {}
        }
    }
    Ok(None)
}

fn bus_error(error: FillError) -> bus::Error {
    match error {
        FillError::Bus(error) | FillError::Source(SourceError::Bus(error)) => error,
        // Reported as a failed prefill, so that it is not met here.
        FillError::Source(SourceError::Impossible(why)) => bus::Error::new(ErrorKind::Invalid, why),
    }
}
