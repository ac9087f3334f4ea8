//! Attempts: how many, how far apart, and how many over all calls.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tower::retry::backoff::{
    Backoff, ExponentialBackoff, ExponentialBackoffMaker, InvalidBackoff, MakeBackoff,
};
use tower::retry::budget::Budget;
use tower::retry::{Policy, RetryLayer};
use tower::util::rng::Rng;

use crate::BoxError;

/// How often a call is attempted, and how long it pauses before each further time.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryConfig {
    /// Attempts of a call, the first included; 1 retries nothing.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles for each further one.
    pub pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
    /// How much longer a pause may be by chance, as a share of itself, so that calls that failed
    /// together do not come again together.
    pub jitter: f64,
}

/// Three attempts, 200 ms apart and then twice that, each longer by up to a half.
impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts: 3,
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            jitter: 0.5,
        }
    }
}

/// A bound on retries over all calls: one that goes well earns `share` of a retry, and at most
/// `most` are saved up. Over any stretch of time there are so at most `most` retries and `share`
/// of the calls that went well. Clones are one budget.
///
/// It begins full. tower's own budget forgets by time and saves up without a bound, which bounds
/// no short stretch.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    /// In thousandths of a retry.
    saved: Arc<AtomicU64>,
    earns: u64,
    most: u64,
}

/// A whole retry in the budget.
const RETRY: u64 = 1000;

impl RetryBudget {
    /// See the type; `share` is taken in thousandths, and is between 0 and 1.
    pub fn new(share: f64, most: u32) -> Self {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in 0..=1000")]
        let earns = (share.clamp(0.0, 1.0) * RETRY as f64).round() as u64;
        let most = u64::from(most) * RETRY;
        Self { saved: Arc::new(AtomicU64::new(most)), earns, most }
    }
}

impl Budget for RetryBudget {
    fn deposit(&self) {
        let add = |saved: u64| Some((saved + self.earns).min(self.most));
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn withdraw(&self) -> bool {
        let take = |saved: u64| saved.checked_sub(RETRY);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A retry policy for [`tower::retry::Retry`]: errors for which `again` is true are tried again, as
/// often as the configuration and the budget allow. The last attempt's error is the call's. An
/// error that is not tried again is an answer, and earns for the budget as one that goes well.
#[derive(Clone)]
pub struct Retry<F> {
    left: u32,
    pauses: ExponentialBackoff<Dice>,
    budget: Option<RetryBudget>,
    again: F,
}

impl<F: Fn(&BoxError) -> bool + Clone> Retry<F> {
    /// The layer. Without a budget every call may use all its attempts. A configuration that makes
    /// no sense (a jitter below 0 or no number, a longest pause below the first) is refused.
    pub fn layer(
        config: RetryConfig,
        budget: Option<RetryBudget>,
        again: F,
    ) -> Result<RetryLayer<Self>, InvalidBackoff> {
        let RetryConfig { attempts, pause, longest_pause, jitter } = config;
        let dice = Dice::default();
        let pauses = ExponentialBackoffMaker::new(pause, longest_pause, jitter, dice)?;
        let (left, pauses) = (attempts.saturating_sub(1), { pauses }.make_backoff());
        Ok(RetryLayer::new(Self { left, pauses, budget, again }))
    }
}

/// Chance that clones share. Each call has a clone of the policy: with a clone of tower's own
/// generator they would all draw the same pauses.
#[derive(Debug, Clone, Default)]
struct Dice {
    hasher: RandomState,
    thrown: Arc<AtomicU64>,
}

impl Rng for Dice {
    fn next_u64(&mut self) -> u64 {
        self.hasher.hash_one(self.thrown.fetch_add(1, Ordering::Relaxed))
    }
}

impl<F, Request, Response> Policy<Request, Response, BoxError> for Retry<F>
where
    F: Fn(&BoxError) -> bool + Clone,
    Request: Clone,
{
    type Future = tokio::time::Sleep;

    fn retry(
        &mut self,
        _: &mut Request,
        result: &mut Result<Response, BoxError>,
    ) -> Option<tokio::time::Sleep> {
        let failed = match result {
            Ok(_) => false,
            Err(error) => (self.again)(error),
        };
        if !failed {
            if let Some(budget) = &self.budget {
                budget.deposit();
            }
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        match &self.budget {
            Some(budget) if !budget.withdraw() => None,
            _ => Some(self.pauses.next_backoff()),
        }
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        Some(request.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// In whatever stretch: retries <= most + share of what went well in it.
        #[test]
        fn no_stretch_has_more_retries_than_it_may(
            went in proptest::collection::vec(any::<bool>(), 0..400),
            tenths in 0..=10_u32,
            most in 0..5_u32,
        ) {
            let budget = RetryBudget::new(f64::from(tenths) / 10.0, most);
            let mut told = Vec::new();
            for ok in went {
                if ok { budget.deposit() }
                told.push((ok, !ok && budget.withdraw()));
            }
            for begin in 0..told.len() {
                let (mut earned, mut retries) = (most * 10, 0);
                for (ok, retried) in &told[begin..] {
                    earned += if *ok { tenths } else { 0 };
                    retries += u32::from(*retried);
                    prop_assert!(retries * 10 <= earned, "{retries} retries, {earned} tenths");
                }
            }
        }
    }
}
