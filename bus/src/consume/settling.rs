//! Carrying out what was decided: acks, units, dead letters, and messages that are put back.

use std::sync::Arc;
use std::time::Duration;

use super::verdict::{Verdict, judge};
use super::work::{Counted, Shop, chain, keep};
use crate::driver::{Settlement, Unit};
use crate::engine::delivery::Delivery;
use crate::error::Result;
use crate::message::Message;
use crate::middleware::Disposition;
use crate::name::StreamName;
use crate::unit;

/// How often a unit is committed anew before the handler is asked again.
const COMMIT_TRIES: u32 = 5;
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// A delivery on its way to its end.
pub(super) struct Settling<'a> {
    pub(super) shop: &'a Arc<Shop>,
    pub(super) delivery: Delivery,
    pub(super) counted: Counted,
    /// Attempts in this process are counted on top of the backend's.
    pub(super) attempt: u32,
}

/// What follows.
pub(super) enum Next {
    /// Nothing: it was settled.
    Done(Disposition),
    /// This, or else the handler, after the delay.
    Later(Duration, Option<Verdict>),
}

impl Settling<'_> {
    pub(super) async fn carry_out(&mut self, verdict: Verdict) -> Result<Next> {
        let verdict = match verdict {
            Verdict::Ack(outputs) if outputs.is_empty() => {
                self.settle(Settlement::Ack).await?;
                return Ok(Next::Done(Disposition::Acked));
            }
            Verdict::Ack(outputs) => match self.commit(outputs).await? {
                Ok(()) => return Ok(Next::Done(Disposition::Acked)),
                Err(why) => {
                    let (delay, max) = (self.delay(), self.shop.max_attempts);
                    judge(Err(why), self.attempt, max, delay)
                }
            },
            verdict => verdict,
        };
        let sequence = self.delivery.message().sequence;
        match verdict {
            Verdict::GiveUp(reason) => self.give_up(reason).await,
            Verdict::Again(delay, why) => {
                tracing::warn!(sequence, attempt = self.attempt, why, ?delay, "retrying");
                if self.shop.by_key {
                    let seen = self.shop.seen(&self.delivery, self.attempt);
                    self.shop.tell(seen.as_ref(), Disposition::Retried);
                }
                Ok(Next::Later(delay, None))
            }
            Verdict::Ack(_) => Ok(Next::Later(self.delay(), Some(verdict))),
        }
    }

    /// Without dead letters it is rejected. With them the copy comes first, and as long as there
    /// is none the message is not settled.
    async fn give_up(&mut self, reason: String) -> Result<Next> {
        let (sequence, attempt) = (self.delivery.message().sequence, self.attempt);
        let keeps = self.delivery.bound().policy.is_some();
        if keeps {
            self.shop.check_term()?;
            // One reading of the delivery for the copy, while another extends its lease.
            let copying = self.delivery.copying(attempt, reason.clone());
            if let Err(error) = keep(&mut self.delivery, copying).await? {
                let (delay, error) = (self.delay(), chain(&error));
                tracing::warn!(sequence, error, ?delay, "no dead letter, the message is kept");
                return Ok(Next::Later(delay, Some(Verdict::GiveUp(reason))));
            }
        }
        tracing::warn!(sequence, attempt, reason, dead_letter = keeps, "message given up");
        self.settle(Settlement::Reject(reason)).await?;
        let how = if keeps { Disposition::DeadLettered } else { Disposition::Rejected };
        Ok(Next::Done(how))
    }

    /// Commits the ack and the outputs. A backend that is away is waited for; any other failure is
    /// told, to be treated as the handler's.
    async fn commit(&mut self, outputs: Vec<(StreamName, Message)>) -> Result<Result<(), String>> {
        let mut tried = 1;
        loop {
            self.shop.check_term()?;
            self.counted.settling();
            let inputs = vec![self.delivery.unit_input()?];
            let unit = Unit { inputs, outputs: outputs.clone(), atomic: false };
            let (driver, layers) = (self.delivery.bound().driver.clone(), &self.shop.layers);
            let committing = unit::commit(driver.as_ref(), layers, unit);
            let error = match keep(&mut self.delivery, committing).await? {
                Ok(_) => return Ok(Ok(())),
                Err(error) => error,
            };
            if !error.is_retryable() {
                self.counted.unsettled();
            }
            if !error.is_retryable() || tried >= COMMIT_TRIES {
                return Ok(Err(chain(&error)));
            }
            tracing::warn!(%error, tried, "unit not committed, trying again");
            keep(&mut self.delivery, tokio::time::sleep(self.shop.backoff.delay(tried))).await?;
            tried += 1;
        }
    }

    pub(super) async fn retry(mut self, delay: Duration) -> Result<Disposition> {
        self.settle(Settlement::Retry(delay)).await?;
        Ok(Disposition::Retried)
    }

    pub(super) async fn give_back(self) -> Result<Disposition> {
        give_back(self.shop, self.delivery, self.counted).await
    }

    fn delay(&self) -> Duration {
        self.shop.delay(&self.delivery, self.attempt)
    }

    async fn settle(&mut self, how: Settlement) -> Result<()> {
        self.counted.settling();
        until_settled(self.shop, &self.delivery, how).await
    }
}

pub(super) async fn settle(
    shop: &Shop,
    delivery: Delivery,
    how: Settlement,
    mut counted: Counted,
) -> Result<()> {
    counted.settling();
    until_settled(shop, &delivery, how).await
}

/// Frees a message that was not begun. The one owner hands it to the next at once; elsewhere a
/// retry might move it behind others of its key, and its lease frees it.
pub(super) async fn give_back(
    shop: &Shop,
    delivery: Delivery,
    counted: Counted,
) -> Result<Disposition> {
    if shop.term.is_some() {
        settle(shop, delivery, Settlement::Retry(Duration::ZERO), counted).await?;
    }
    Ok(Disposition::Left)
}

/// Settling twice is as good as once, so a lost answer is asked for again while the lease lasts.
async fn until_settled(shop: &Shop, delivery: &Delivery, how: Settlement) -> Result<()> {
    loop {
        shop.check_term()?;
        match delivery.try_settle(&how).await {
            Err(error) if error.is_retryable() => tokio::time::sleep(SETTLE_PAUSE).await,
            settled => return settled,
        }
    }
}
