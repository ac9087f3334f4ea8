//! Queue mode in the terminal: pull, show, acknowledge.

use std::collections::BTreeMap;
use std::time::Duration;

use super::delivery::{Delivery, Phase};
use super::failure::Failure;
use super::screen::Screen;
use super::subscribe::{Reading, pause};
use crate::client::Error;
use crate::client::wire::{Leased, Pulled, Settled};

const BATCH: usize = 100;
const WAIT: Duration = Duration::from_secs(20);
/// How often the same deliveries are acknowledged before they are left to come again.
const ATTEMPTS: u32 = 6;

/// Takes deliveries until told to stop or `reading.count` of them have come. What was pulled and
/// not acknowledged when it stops comes again after its lease.
///
/// Several consumers share a queue, so that no single one can hold a prefill against its manifest.
///
/// With `max_per_key` a batch holds up to so many events of one key; they are shown and
/// acknowledged in their order either way.
pub(super) async fn run(
    reading: Reading,
    screen: Screen,
    max_per_key: Option<usize>,
) -> Result<(), Failure> {
    let (mut given, mut failures) = (0, 0);
    let mut batch = Batch { max_per_key, ..Batch::default() };
    while reading.count.is_none_or(|count| given < count) {
        let left = reading.count.map_or(u64::MAX, |count| count - given);
        let max = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
        let step = tokio::select! { biased;
            () = reading.stop.cancelled() => break,
            step = batch.step(&reading, &screen, max) => step,
        };
        let delay = match step {
            Ok(settled) => {
                (given, failures) = (given + settled, 0);
                if batch.shown.is_empty() {
                    continue;
                }
                // Some are to be acknowledged once more.
                pause(batch.stuck)
            }
            Err(Step::Failed(failure)) => return Err(failure),
            Err(Step::Away(error)) if error.is_retryable() => {
                let delay = pause(failures).max(error.retry_after().unwrap_or_default());
                failures += 1;
                screen.note(&format!("{error}\n  trying again in {delay:?}"));
                delay
            }
            Err(Step::Away(error)) => return Err(error.into()),
        };
        tokio::select! { biased;
            () = reading.stop.cancelled() => break,
            () = tokio::time::sleep(delay) => {}
        }
    }
    // Shown already: without their acks they would be shown again.
    given += batch.acknowledge(&reading, &screen).await?;
    if screen.is_terminal() {
        screen.note(&format!(
            "{given} deliveries acknowledged · go on with: lockgate subscribe {} --queue",
            reading.name
        ));
    }
    Ok(())
}

/// What was shown and is not acknowledged yet, in the order in which it came: kept over a failed
/// request and over a stop.
#[derive(Default)]
struct Batch {
    shown: Vec<String>,
    max_per_key: Option<usize>,
    /// Answers in a row that settled nothing.
    stuck: u32,
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
        if before > 0 || !self.shown.is_empty() {
            return Ok(before);
        }
        let pulled = reading.subscriber.pull(max, self.max_per_key, WAIT).await?;
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
            match Delivery::parse(phase, event.get()) {
                Some(delivery) => screen.delivery(&delivery)?,
                None => screen.not_understood(phase, event.get())?,
            }
            self.shown.push(ack);
        }
        Ok(())
    }

    /// Acknowledges what was shown, in its order, and returns how many are done. What the bus did
    /// not answer for, and what is early because of that, stays for the next time.
    async fn acknowledge(&mut self, reading: &Reading, screen: &Screen) -> Result<u64, Error> {
        if self.shown.is_empty() {
            return Ok(0);
        }
        let settled = reading.subscriber.ack(&self.shown).await?;
        let (done, late) = self.take_in(&settled);
        if late > 0 {
            screen.note(&format!("{late} acks came too late: these deliveries come again"));
        }
        Ok(done)
    }

    /// How many are done, and how many came too late.
    fn take_in(&mut self, settled: &Settled) -> (u64, u64) {
        let said = settled.results.iter().map(|item| (item.id.as_str(), item.status.as_str()));
        let said: BTreeMap<&str, &str> = said.collect();
        let (mut done, mut late, mut again) = (0, 0, Vec::new());
        for id in std::mem::take(&mut self.shown) {
            match said.get(id.as_str()).copied() {
                Some("done") => done += 1,
                Some("early" | "failed") | None => again.push(id),
                Some(_) => late += 1,
            }
        }
        self.stuck = if done + late > 0 { 0 } else { self.stuck + 1 };
        if self.stuck >= ATTEMPTS {
            // Their leases are over by now, whatever kept them from being settled.
            late += again.len() as u64;
            (again, self.stuck) = (Vec::new(), 0);
        }
        self.shown = again;
        (done, late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::wire::SettledItem;

    fn settled(results: &[(&str, &str)]) -> Settled {
        let item = |(id, status): &(&str, &str)| SettledItem {
            id: (*id).to_owned(),
            status: (*status).to_owned(),
        };
        Settled { results: results.iter().map(item).collect() }
    }

    #[test]
    fn what_is_early_or_failed_is_acknowledged_again_in_order_and_the_rest_is_not() {
        let shown = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        let mut batch = Batch { shown, ..Batch::default() };
        let answer =
            [("a", "done"), ("b", "failed"), ("c", "early"), ("d", "stale"), ("e", "unknown")];
        assert_eq!(batch.take_in(&settled(&answer)), (1, 2));
        assert_eq!(batch.shown, ["b", "c"]);
        assert_eq!(batch.take_in(&settled(&[("b", "done"), ("c", "done")])), (2, 0));
        assert!(batch.shown.is_empty());
    }

    #[test]
    fn nothing_is_acknowledged_for_ever() {
        let mut batch = Batch { shown: vec!["a".into()], ..Batch::default() };
        let early = settled(&[("a", "early")]);
        for _ in 1..ATTEMPTS {
            assert_eq!(batch.take_in(&early), (0, 0));
        }
        assert_eq!(batch.take_in(&early), (0, 1));
        assert!(batch.shown.is_empty());
    }
}
