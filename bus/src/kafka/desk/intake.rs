//! What comes in: messages that were polled, in the order of their partition.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::part::size;
use super::{Desk, Part, Polled};
use crate::kafka::lease::Record;
use crate::kafka::watermark::{Taken, Watermark};

impl Desk {
    /// Takes in what was polled. True when there may be something to deliver.
    pub(in crate::kafka) fn accept(
        &mut self,
        polled: impl IntoIterator<Item = Polled>,
        now: Instant,
    ) -> bool {
        let mut news = false;
        for polled in polled {
            let part = (polled.slot.retry, polled.slot.partition);
            let Some(assigned) = self.parts.get_mut(&part) else { continue };
            if assigned.leaving {
                continue;
            }
            // The log lost its end and goes on from there: what comes is new.
            if polled.slot.offset < assigned.log {
                tracing::warn!(?part, offset = polled.slot.offset, "the log went back");
                let assignment = assigned.assignment;
                self.revoke(&[part]);
                self.assign(part, Watermark::new(polled.slot.offset));
                if let Some(assigned) = self.parts.get_mut(&part) {
                    assigned.assignment = assignment;
                }
            }
            if let Some(assigned) = self.parts.get_mut(&part) {
                assigned.log = polled.slot.offset + 1;
                if assigned.early.is_empty() && assigned.watermark.fits(polled.slot.offset) {
                    news |= self.settle_in(polled, now);
                } else {
                    assigned.early.push_back(polled);
                }
            }
        }
        news
    }

    /// The same for messages of one partition that follow on each other and are to be delivered
    /// now; their size was counted.
    pub(in crate::kafka) fn accept_run(
        &mut self,
        part: Part,
        run: &mut VecDeque<Record>,
        bytes: usize,
        now: Instant,
    ) -> bool {
        let (Some(first), Some(last)) = (run.front(), run.back()) else { return false };
        let (first, last) = (first.slot.offset, last.slot.offset);
        // Retries that were copied here are crossed off one by one.
        let assigned = self.parts.get_mut(&part).filter(|_| !part.0);
        let Some(assigned) = assigned.and_then(|assigned| assigned.take_run(first, last)) else {
            let polled = run.drain(..).map(|r| Polled { slot: r.slot, record: Some(r) });
            return self.accept(polled, now);
        };
        assigned.log = last + 1;
        assigned.waiting.append(run);
        self.waiting_bytes += bytes;
        true
    }

    /// Takes in what came too early, as far as there is room by now.
    pub(in crate::kafka) fn accept_early(&mut self, now: Instant) -> bool {
        let early = self.parts.iter().filter(|(_, assigned)| !assigned.early.is_empty());
        let early: Vec<Part> = early.map(|(part, _)| *part).collect();
        let mut news = false;
        for part in early {
            while let Some(assigned) = self.parts.get_mut(&part)
                && let Some(polled) = assigned.early.front()
                && assigned.watermark.fits(polled.slot.offset)
                && let Some(polled) = assigned.early.pop_front()
            {
                news |= self.settle_in(polled, now);
            }
        }
        news
    }

    /// Takes in what fits; true when there may be something to deliver.
    fn settle_in(&mut self, Polled { slot, record }: Polled, now: Instant) -> bool {
        let part = (slot.retry, slot.partition);
        let Some(assigned) = self.parts.get_mut(&part) else { return false };
        self.copies.remove(&slot);
        match (assigned.watermark.take(slot.offset), record) {
            (Taken::Settled, _) => return false,
            (Taken::Open, None) => {
                assigned.dirty |= assigned.watermark.settle(slot.offset);
                return false;
            }
            (Taken::Open, Some(record)) => match record.due.filter(|due| *due > now) {
                Some(due) => self.leases.rest(record, due),
                None => {
                    self.waiting_bytes += size(&record);
                    assigned.waiting.push_back(record);
                }
            },
        }
        true
    }
}
