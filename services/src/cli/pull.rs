//! Queue mode in the terminal: pull, show, acknowledge.

use std::time::Duration;

use super::delivery::{Delivery, Phase};
use super::failure::Failure;
use super::screen::Screen;
use super::subscribe::{Reading, pause};
use crate::client::Error;
use crate::client::wire::{Leased, Pulled};

const BATCH: usize = 100;
const WAIT: Duration = Duration::from_secs(20);

/// Takes deliveries until told to stop or `reading.count` of them have come. What was pulled and
/// not acknowledged when it stops comes again after its lease.
///
/// Several consumers share a queue, so that no single one can hold a prefill against its manifest.
pub(super) async fn run(reading: Reading, screen: Screen) -> Result<(), Failure> {
    let (mut given, mut failures) = (0, 0);
    let mut batch = Batch::default();
    while reading.count.is_none_or(|count| given < count) {
        let left = reading.count.map_or(u64::MAX, |count| count - given);
        let max = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
        let step = tokio::select! { biased;
            () = reading.stop.cancelled() => break,
            step = batch.step(&reading, &screen, max) => step,
        };
        match step {
            Ok(settled) => (given, failures) = (given + settled, 0),
            Err(Step::Failed(failure)) => return Err(failure),
            Err(Step::Away(error)) if error.is_retryable() => {
                let delay = pause(failures).max(error.retry_after().unwrap_or_default());
                failures += 1;
                screen.note(&format!("{error}\n  trying again in {delay:?}"));
                tokio::select! { biased;
                    () = reading.stop.cancelled() => break,
                    () = tokio::time::sleep(delay) => {}
                }
            }
            Err(Step::Away(error)) => return Err(error.into()),
        }
    }
    // Shown already: without their acks they would be shown again.
    batch.acknowledge(&reading, &screen).await?;
    if screen.is_terminal() {
        screen.note(&format!(
            "{given} deliveries acknowledged · go on with: lockgate subscribe {} --queue",
            reading.name
        ));
    }
    Ok(())
}

/// What was shown and is not acknowledged yet: kept over a failed request and over a stop.
#[derive(Default)]
struct Batch {
    shown: Vec<String>,
}

enum Step {
    Away(Error),
    Failed(Failure),
}

impl From<Error> for Step {
    fn from(error: Error) -> Self {
        Self::Away(error)
    }
}

impl Batch {
    async fn step(&mut self, reading: &Reading, screen: &Screen, max: usize) -> Result<u64, Step> {
        let before = self.acknowledge(reading, screen).await?;
        if before > 0 {
            return Ok(before);
        }
        let pulled = reading.subscriber.pull(max, WAIT).await?;
        if let "failed" | "cancelled" = pulled.phase.as_str() {
            return Err(Step::Failed(Failure::new(format!(
                "the prefill {}\n  see why: lockgate subscriptions show {}",
                pulled.phase, reading.name
            ))));
        }
        self.show(pulled, screen).map_err(Step::Failed)?;
        Ok(self.acknowledge(reading, screen).await?)
    }

    fn show(&mut self, pulled: Pulled, screen: &Screen) -> Result<(), Failure> {
        for Leased { ack, phase, event, .. } in pulled.messages {
            let phase = if phase == "prefill" { Phase::Prefill } else { Phase::Live };
            screen.delivery(&Delivery::parse(phase, event)?)?;
            self.shown.push(ack);
        }
        Ok(())
    }

    async fn acknowledge(&mut self, reading: &Reading, screen: &Screen) -> Result<u64, Error> {
        if self.shown.is_empty() {
            return Ok(0);
        }
        let settled = reading.subscriber.ack(&self.shown).await?;
        self.shown.clear();
        let done = settled.results.iter().filter(|item| item.status == "done").count();
        let late = settled.results.len() - done;
        if late > 0 {
            screen.note(&format!("{late} acks came too late: these deliveries come again"));
        }
        Ok(done as u64)
    }
}
